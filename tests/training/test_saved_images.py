"""OpenImages: a saved folder as a dataset of PyTorch, whatever its images are stored in."""

import asyncio
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from support.places import look_alike_files, make_place
from support.published import tiny_jpeg
from support.saved import SavedBox, SavedFolder, SavedImage, rectangle
from torch.utils.data import DataLoader, Subset

import oid_async
from oid_async.errors import InputError, UsageError
from oid_async.events import ignore
from oid_async.jobs.demo import demo_run
from oid_async.torch import OpenImages

pytestmark = pytest.mark.torch

IDS = ["000000000000000a", "000000000000000b", "000000000000000c"]
PERSON, FOOTBALL, DOG = "/m/01g317", "/m/01226z", "/m/0bt9lr"


def saved(path: Path, **changes: Any) -> Path:
    """Write a folder: two boxes and a group in the first image, nothing in the second, a dog in the third."""
    content: dict[str, Any] = {
        "images": [SavedImage(each, name=f"{each}.jpg") for each in IDS],
        "boxes": [
            SavedBox(IDS[0]),
            SavedBox(IDS[0], FOOTBALL, ("0", "1", "0", "0.5"), ("0", "0", "1", "0", "0")),
            SavedBox(IDS[2], DOG, ("-0.005", "0.5", "0.5", "1.01")),
        ],
        "labels": [FOOTBALL, PERSON],
    }
    return SavedFolder(**content | changes).write(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some images of the demo, of every split, with all kinds of annotations, as files."""
    return asyncio.run(look_alike_files(tmp_path_factory.mktemp("torch")))


def as_lists(dataset: OpenImages) -> list[Any]:
    """Return all samples of a dataset as what can be compared."""
    return [
        (image.tolist(), {name: each if isinstance(each, str) else each.tolist() for name, each in target.items()})
        for image, target in dataset
    ]


def test_images_and_targets_are_those_of_the_tables(tmp_path: Path) -> None:
    """Pixels as Pillow decodes them; labels from 1 in the order of label_data.csv, others behind; boxes clipped."""
    dataset = OpenImages(saved(tmp_path / "d"))
    assert (len(dataset), dataset.classes) == (3, ["background", "Football", "Person", "Dog"])
    image, target = dataset[0]
    wanted = np.asarray(Image.open(tmp_path / "d" / "images" / f"{IDS[0]}.jpg").convert("RGB"))
    assert (image.dtype, image.shape) == (torch.uint8, (3, 48, 64))
    assert (image.permute(1, 2, 0).numpy() == wanted).all()
    assert target["boxes"].tolist() == [[16, 12, 48, 36], [0, 0, 64, 24]]
    assert (target["labels"].tolist(), target["iscrowd"].tolist()) == ([2, 1], [0, 1])
    assert (target["image_id"], set(target)) == (IDS[0], {"boxes", "labels", "iscrowd", "image_id"})
    assert dataset[1][1]["boxes"].shape == (0, 4)
    assert dataset[-1][1]["boxes"].tolist() == [[0, 24, 32, 48]]
    assert dataset[np.int64(2)][1]["labels"].tolist() == dataset[torch.tensor(2)][1]["labels"].tolist() == [3]
    assert dataset.get_height_and_width(0) == (48, 64)
    assert repr(dataset) == f"OpenImages({str(tmp_path / 'd')!r}, 3 images, 3 classes)"


def test_it_is_asked_as_any_dataset_is(tmp_path: Path) -> None:
    """Numbers outside end a loop over it, a slice is refused, a Subset works; `transform` returns what it likes."""
    dataset = OpenImages(saved(tmp_path / "d"), transform=lambda image, target: target["image_id"])
    assert list(dataset) == IDS
    assert list(Subset(dataset, [2, 0])) == [IDS[2], IDS[0]]
    for wrong in (3, -4):
        with pytest.raises(IndexError, match=f"image {wrong} of 3 images"):
            dataset[wrong]
    with pytest.raises(TypeError, match="Subset"):
        dataset[0:2]  # type: ignore[index]
    with pytest.raises(UsageError, match="transform takes a function"):
        OpenImages(tmp_path / "d", transform="train")  # type: ignore[arg-type]


def test_masks_belong_to_their_boxes(tmp_path: Path) -> None:
    """By class and corners, of the image's size; a box without one has zeros, a mask without a picture is said."""
    one, other = SavedBox(IDS[0]), SavedBox(IDS[2], DOG, ("0.5", "1", "0", "1"))
    path = saved(
        tmp_path / "d",
        boxes=[SavedBox(IDS[0], FOOTBALL), one, other],
        masks=[(one, rectangle(64, 48, (16, 12, 48, 36))), (other, rectangle(32, 24, (16, 0, 32, 24), bits=False))],
    )
    dataset = OpenImages(path)
    masks = dataset[0][1]["masks"]
    assert (masks.dtype, masks.shape, masks.flatten(1).sum(1).tolist()) == (torch.uint8, (2, 48, 64), [0, 32 * 24])
    assert masks[1, 12:36, 16:48].all()
    assert dataset[1][1]["masks"].shape == (0, 48, 64)
    assert dataset[2][1]["masks"].sum() == 48 * 32
    next((path / "segmentation" / "masks").glob(f"{IDS[2]}*")).unlink()
    with pytest.warns(UserWarning, match=r"segmentation\.csv: 1 masks have no picture"):
        dataset = OpenImages(path)
    assert not dataset[2][1]["masks"].any()


def test_masks_belong_to_boxes_by_box_id(tmp_path: Path) -> None:
    """Where both tables have BoxID it alone decides, whatever the corners are."""
    boxes = [SavedBox(IDS[0]), SavedBox(IDS[0])]
    path = saved(tmp_path / "d", boxes=boxes, masks=[(boxes[0], rectangle(64, 48, (0, 0, 8, 8)))])
    table = pl.read_csv(path / "bbox" / "bbox.csv", infer_schema=False)
    table.with_columns(BoxID=pl.Series(["ffff", "00000000"])).write_csv(path / "bbox" / "bbox.csv")
    assert OpenImages(path)[0][1]["masks"].flatten(1).sum(1).tolist() == [0, 64]


def test_a_folder_of_masks_alone_has_their_boxes(tmp_path: Path) -> None:
    """Without a table of boxes the objects are the masks."""
    mask = SavedBox(IDS[0], DOG)
    path = saved(tmp_path / "d", masks=[(mask, rectangle(64, 48, (16, 12, 48, 36)))])
    (path / "bbox" / "bbox.csv").unlink()
    target = OpenImages(path)[0][1]
    assert (target["boxes"].tolist(), target["labels"].tolist()) == ([[16, 12, 48, 36]], [3])
    assert (target["iscrowd"].tolist(), int(target["masks"].sum())) == ([0], 32 * 24)


def test_what_has_no_place_is_left_out_and_said(tmp_path: Path) -> None:
    """A box turned round, or far outside, is no object, as in exports; a warning counts them."""
    odd = [SavedBox(IDS[0], sides=("0.7", "0.2", "0", "1")), SavedBox(IDS[0], sides=("0", "1.5", "0", "1"))]
    with pytest.warns(UserWarning, match=r"bbox\.csv: 2 boxes are left out"):
        dataset = OpenImages(saved(tmp_path / "d", boxes=[*odd, SavedBox(IDS[0])]))
    assert len(dataset[0][1]["boxes"]) == 1


def test_an_image_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    """Each raises InputError with its file and what to do, when it is asked for; the others are there."""
    dataset = OpenImages(saved(tmp_path / "d"))
    images = tmp_path / "d" / "images"
    (images / f"{IDS[0]}.jpg").unlink()
    (images / f"{IDS[1]}.jpg").write_bytes(tiny_jpeg("x", 64, 48)[:-60])
    with pytest.raises(InputError, match=rf"{IDS[0]}\.jpg: it is not there.*oid-async verify"):
        dataset[0]
    with pytest.raises(InputError, match=rf"{IDS[1]}\.jpg: it cannot be decoded.*--deep --repair"):
        dataset[1]
    assert dataset[2][1]["image_id"] == IDS[2]


def test_one_split_has_the_labels_of_all(tmp_path: Path) -> None:
    """`splits` takes their images alone; a class has the same label in each."""
    images = [
        SavedImage(each, subset=split, name=f"{each}.jpg")
        for each, split in zip(IDS, ("train",) * 2 + ("test",), strict=True)
    ]
    path = saved(tmp_path / "d", images=images)
    train, test = OpenImages(path, splits=["train"]), OpenImages(path, splits=["test"])
    assert ([len(train), len(test)], train.classes) == ([2, 1], test.classes)
    assert test[0][1]["labels"].tolist() == [3]
    with pytest.raises(UsageError, match="splits takes train"):
        OpenImages(path, splits=["dogs"])


def test_what_is_pickled_is_small_and_the_index_goes(tmp_path: Path) -> None:
    """Whatever its size a dataset pickles to a few hundred bytes; its index goes with it, and then says so."""
    dataset = OpenImages(saved(tmp_path / "d"))
    packed = pickle.dumps(dataset)
    assert len(packed) < 1000
    copy = pickle.loads(packed)
    assert copy[0][1]["image_id"] == IDS[0]
    index = dataset._folder
    assert index.is_dir()
    del dataset
    assert not index.exists()
    with pytest.raises(InputError, match="the process that made it"):
        pickle.loads(packed)[0]


def test_an_unfinished_run_has_the_images_that_are_there(tmp_path: Path) -> None:
    """Of a run that was interrupted the saved images are read, with the rows that it would write now."""
    asyncio.run(demo_run(tmp_path / "d", tmp_path / "cache", ignore).download())
    whole = OpenImages(tmp_path / "d")
    for table in ("manifest.parquet", "bbox/bbox.csv", "segmentation/segmentation.csv"):
        (tmp_path / "d" / table).unlink()
    query = (tmp_path / "d" / "query.json").read_text()
    (tmp_path / "d" / "query.json").write_text(query.replace("{", '{"unfinished": true,', 1))
    part = OpenImages(tmp_path / "d", cache_dir=tmp_path / "cache")
    assert len(part) == len(whole)
    assert part.notes
    assert part[3][1]["boxes"].tolist() == whole[3][1]["boxes"].tolist()


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_images_in_shards_are_the_same(files: Path, format: str) -> None:
    """Of a place past one machine, tar and Parquet: the same pixels, boxes and masks; forked workers read them."""
    place = asyncio.run(make_place(files, files.with_name(f"place-{format}"), format))
    wanted, dataset = as_lists(OpenImages(files)), OpenImages(place)
    assert len(pickle.dumps(dataset)) < 1000
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert as_lists(loader) == wanted
    assert sum(len(target["masks"]) for _, target in wanted) > 20
    shard = next((place / "shards").glob("train-*"))
    shard.rename(shard.with_suffix(".gone"))
    row = next(at for at in range(len(dataset)) if (dataset._here.stored(at).shard or "").endswith(shard.name))
    with pytest.raises(InputError, match=rf"{shard.name}: it is not there"):
        dataset[row]


def test_images_that_a_run_has_packed_are_the_same(files: Path) -> None:
    """A folder of `--format webdataset --no-files`, whose images and masks are in its own shards."""
    packed = files.with_name("packed")
    shutil.copytree(files, packed)
    asyncio.run(oid_async.export(savepath=packed, format="webdataset", out=packed / "export" / "webdataset"))
    wanted = as_lists(OpenImages(packed))
    shutil.rmtree(packed / "images")
    shutil.rmtree(packed / "segmentation" / "masks")
    (packed / ".oid_async" / "shards.json").write_text(f'{{"shards": "{packed / "export" / "webdataset"}"}}')
    assert as_lists(OpenImages(packed)) == wanted


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_it_however_they_are_started(tmp_path: Path, start: str) -> None:
    """After Polars was used in the parent, over two epochs with workers that stay; each image once an epoch."""
    pl.DataFrame({"a": range(10_000)}).lazy().group_by(pl.col("a") % 7).len().collect(engine="streaming")
    dataset = OpenImages(saved(tmp_path / "d"))
    loader: Any = DataLoader(
        dataset, num_workers=2, collate_fn=list, multiprocessing_context=start, persistent_workers=True, timeout=60
    )
    for _ in range(2):
        assert [target["image_id"] for batch in loader for _, target in batch] == IDS


def test_without_torch_the_extra_is_named() -> None:
    """Both names say in one line what to install; the package itself is imported without torch."""
    program = """
import sys
sys.modules["torch"] = None
import oid_async.torch
for name in oid_async.torch.__all__:
    try:
        getattr(oid_async.torch, name)
    except oid_async.errors.UsageError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stdout.splitlines() == ['oid_async.torch needs PyTorch: pip install "oid-async[torch]"'] * 2


def test_a_picture_of_a_mask_that_is_none_is_named(tmp_path: Path) -> None:
    """Damaged bytes in place of a mask raise InputError with its name."""
    box = SavedBox(IDS[0])
    path = saved(tmp_path / "d", masks=[(box, b"no picture")])
    with pytest.raises(InputError, match=r"\.png: no mask"):
        OpenImages(path)[0]


def test_grey_images_are_rgb(tmp_path: Path) -> None:
    """What is stored in one colour has three planes."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).save(out, "JPEG")
    path = saved(tmp_path / "d", images=[SavedImage(IDS[0], picture=out.getvalue())], boxes=[])
    assert OpenImages(path)[0][0].shape == (3, 48, 64)
