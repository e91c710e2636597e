"""Every export format and the class that writes it.

To add a format: write a module with a class that has the two methods of `formats.writer.FormatWriter`, add a line to
WRITERS, its name to `options.export.Format`, and a section to docs/formats.md.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from oid_async.formats.coco import Coco
from oid_async.formats.crops import Crops
from oid_async.formats.cvat import Cvat
from oid_async.formats.fiftyone import FiftyOne
from oid_async.formats.imagefolder import ImageFolder
from oid_async.formats.kitti import Kitti
from oid_async.formats.labelstudio import LabelStudio
from oid_async.formats.parquet import Parquet
from oid_async.formats.tfrecord import TFRecord
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
    "kitti": Kitti,
    "cvat": Cvat,
    "labelstudio": LabelStudio,
    "tfrecord": TFRecord,
    "crops": Crops,
}
