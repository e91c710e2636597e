"""The formats and what writes each. A new one is a room with a Writer, a line here and a line in docs/formats.md."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from oid_async.formats.coco import Coco
from oid_async.formats.fiftyone import FiftyOne
from oid_async.formats.imagefolder import ImageFolder
from oid_async.formats.parquet import Parquet
from oid_async.formats.voc import Voc
from oid_async.formats.webdataset import WebDataset
from oid_async.formats.yolo import Yolo
from oid_async.options.export import Format

if TYPE_CHECKING:
    from oid_async.formats.writer import FormatWriter

WRITERS: "Mapping[Format, type[FormatWriter]]" = {
    "coco": Coco,
    "yolo": Yolo,
    "voc": Voc,
    "webdataset": WebDataset,
    "imagefolder": ImageFolder,
    "parquet": Parquet,
    "fiftyone": FiftyOne,
}
