"""The formats and what writes each. A new one is a room with a Writer, a line here and a line in docs/formats.md."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from oid_async.export.coco import Coco
from oid_async.export.fiftyone import FiftyOne
from oid_async.export.imagefolder import ImageFolder
from oid_async.export.parquet import Parquet
from oid_async.export.voc import Voc
from oid_async.export.webdataset import WebDataset
from oid_async.export.yolo import Yolo
from oid_async.options.export import Format

if TYPE_CHECKING:
    from oid_async.export.writer import Writer

WRITERS: "Mapping[Format, type[Writer]]" = {
    "coco": Coco,
    "yolo": Yolo,
    "voc": Voc,
    "webdataset": WebDataset,
    "imagefolder": ImageFolder,
    "parquet": Parquet,
    "fiftyone": FiftyOne,
}
