"""Exports of folders with pictures that are none, or more than a memory holds: they are left out, the rest is there."""

import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from support.hostile_jpegs import HEADLESS, REFUSED, TOO_LARGE, UNKNOWN_CODING, grey_jpeg
from support.mask_archives import png_bomb, png_head
from support.memory import measured_cli
from support.published import run_cli
from support.saved import SavedBox, SavedFolder, SavedImage, picture, rectangle

import oid_async
from oid_async.errors import StorageError
from oid_async.formats import mask_shapes
from oid_async.formats import pictures as pictures_module
from oid_async.formats.processes import process_pool
from oid_async.jobs import export as export_job
from oid_async.options.export import FORMATS

ONE, TWO = "0000048549557964", "ffffffffffffffff"
HOSTILE = {**HEADLESS, **UNKNOWN_CODING, **REFUSED, **TOO_LARGE}


def id_of(number: int) -> str:
    return f"{number + 1:08x}{number:08x}"


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two sound images and of every hostile one, of which the manifest says what the sound ones are."""
    images = [SavedImage(ONE), SavedImage(TWO)]
    images += [SavedImage(id_of(number), picture=body) for number, body in enumerate(HOSTILE.values())]
    folder = SavedFolder(images, [SavedBox(image.image_id) for image in images])
    return folder.write(tmp_path_factory.mktemp("armed") / "d")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("options", [{}, {"max_side": 32}, {"splits": "50/50/0"}], ids=str)
async def test_hostile_pictures_are_left_out(
    armed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, options: dict[str, object]
) -> None:
    """No size, no scan, refused by Pillow, too large to decode: each with its row, in every format, however asked for.

    Those whose header is sound are decoded for a smaller size alone. In spans of one image: most of them are empty.
    """
    monkeypatch.setattr(export_job, "SPAN_ROWS", 1)
    monkeypatch.setattr(export_job, "_SLOW_SPAN_ROWS", 1)
    report = await oid_async.export(savepath=armed, format=format, out=tmp_path / "out", **options)  # type: ignore[arg-type]
    left_out = {"image: no size or no scan in it": len(HEADLESS)}
    left_out["image: coded in a way that Pillow does not read"] = len(UNKNOWN_CODING)
    if "max_side" in options or format == "crops":
        left_out["image: no picture that Pillow reads"] = len(REFUSED)
        why = "cut its boxes out" if format == "crops" else "make it smaller"
        left_out[f"image: too many pixels to {why}"] = len(TOO_LARGE)
    gone = sum(left_out.values())
    assert report.left_out == {**left_out, "bbox: image left out": gone}
    assert report.images == report.annotations["bbox"] == 2 + len(HOSTILE) - gone


def test_what_is_left_out_is_named(armed: Path, tmp_path: Path) -> None:
    """One line a reason, with the first names; --repair is no help for an image that is what it is."""
    done = run_cli("export", armed, "--format", "voc", "--max-side", "32", "--out", tmp_path / "out")
    assert done.code == 0
    lines = done.stderr.splitlines()
    assert sum(line.startswith("left out: ") for line in lines) == 5
    assert sum("--repair fetches the images again" in line for line in lines) == 1
    assert "Warning" not in done.stderr
    manifest = pl.read_parquet(armed / "manifest.parquet")
    assert len(manifest) == 2 + len(HOSTILE)


async def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe in place of an image or a mask would be waited for without end; it is left out."""
    boxes = [SavedBox(ONE), SavedBox(TWO)]
    masks = [(box, rectangle(64, 48, (1, 2, 30, 40))) for box in boxes]
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO)], boxes, masks).write(tmp_path / "d")
    image = path / "images" / SavedImage(ONE).file_name
    mask = next(each for each in (path / "segmentation" / "masks").iterdir() if TWO in each.name)
    for each in (image, mask):
        each.unlink()
        os.mkfifo(each)
    manifest = pl.read_parquet(path / "manifest.parquet")
    no_bytes = pl.when(ImageID=pl.lit(ONE)).then(0).otherwise("Bytes").alias("Bytes")
    manifest.with_columns(no_bytes).write_parquet(path / "manifest.parquet")
    report = await oid_async.export(savepath=path, format="coco")
    assert (report.images, report.annotations) == (1, {"bbox": 1, "segmentation": 0})
    assert report.left_out["image: not a plain file"] == report.left_out["segmentation: no mask"] == 1


async def test_a_mask_of_two_rows_is_counted_by_its_rows(tmp_path: Path) -> None:
    """A mask that is left out takes all of its rows along; the counts agree."""
    box = SavedBox(ONE)
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO)], [box, box], [(box, b"x"), (box, b"x")]).write(tmp_path / "d")
    table = path / "segmentation" / "segmentation.csv"
    first, second = sorted(each.name for each in (path / "segmentation" / "masks").iterdir())
    table.write_text(table.read_text().replace(second, first))
    report = await oid_async.export(savepath=path, format="coco")
    assert report.annotations == {"bbox": 2, "segmentation": 0}


async def test_exif_that_fills_more_than_a_segment_does_not_matter(tmp_path: Path) -> None:
    """EXIF in two segments cannot be written by Pillow: the smaller image goes without, rather than not at all."""
    body = picture(200, 100)
    exif = b"Exif\0\0" + bytes(40_000)
    segments = 2 * (b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif)
    path = SavedFolder([SavedImage(ONE, 200, 100, picture=body[:2] + segments + body[2:])]).write(tmp_path / "d")
    done = run_cli("export", path, "--format", "coco", "--max-side", "50")
    assert (done.code, "left out" in done.stderr) == (0, False), done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(("format", "images"), [("coco", 2), ("webdataset", 1), ("parquet", 1)])
async def test_no_format_reads_gigabytes(tmp_path: Path, format: str, images: int) -> None:
    """A file of gigabytes that begins as a picture is linked, and left out where it would be held in memory."""
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO)]).write(tmp_path / "d")
    os.truncate(path / "images" / SavedImage(TWO).file_name, 1 << 34)
    manifest = pl.read_parquet(path / "manifest.parquet")
    large = pl.when(ImageID=pl.lit(TWO)).then(1 << 34).otherwise("Bytes").alias("Bytes")
    manifest.with_columns(large).write_parquet(path / "manifest.parquet")
    report = await oid_async.export(savepath=path, format=format)
    assert report.images == images
    assert report.left_out == ({} if images == 2 else {"image: more than 256 MiB": 1})


@pytest.mark.parametrize("format", ["coco", "yolo", "webdataset", "parquet", "fiftyone"])
async def test_no_mask_is_drawn_at_gigapixels(tmp_path: Path, format: str) -> None:
    """A mask is brought to its image's size: of an image of more than 100 megapixels it is left out, its box stays."""
    boxes = [SavedBox(ONE), SavedBox(TWO)]
    masks = [(box, rectangle(64, 48, (1, 2, 30, 40))) for box in boxes]
    images = [SavedImage(ONE), SavedImage(TWO, 60_000, 60_000, picture=picture(64, 48))]
    path = SavedFolder(images, boxes, masks).write(tmp_path / "d")
    report = await oid_async.export(savepath=path, format=format)
    if format == "webdataset":  # all samples have a picture of their masks
        assert report.annotations == {"bbox": 1, "segmentation": 1}
        assert report.left_out["image: too many pixels for a picture of its masks"] == 1
    else:
        assert report.annotations == {"bbox": 2, "segmentation": 1}
        assert report.left_out == {"segmentation: its image has too many pixels": 1}


def test_an_outline_of_noise_ends() -> None:
    """A mask of ten thousand parts is joined from its largest ones, in seconds."""
    drawn = np.random.default_rng(1).random((300, 300)) < 0.5

    def noise(*_: object) -> object:
        return drawn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_shapes, "_mask", noise)
        assert len(mask_shapes.polygon("", 300, 300)) > 1000


@pytest.mark.parametrize("strip_pixels", [1, 50, 1 << 20])
def test_strips_are_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strip_pixels: int) -> None:
    """Large masks and images are gone through in strips: what comes of them is what comes of the whole."""
    drawn = np.random.default_rng(2).random((23, 17)) < 0.3
    Image.fromarray(drawn).save(tmp_path / "m.png")
    down, across = np.indices((97, 133))
    Image.fromarray(np.stack((down, across, down + across), -1).astype(np.uint8)).save(tmp_path / "i.jpg")
    for module in (pictures_module, mask_shapes):
        monkeypatch.setattr(module, "STRIP_PIXELS", strip_pixels)
    counts, area = mask_shapes.run_length(str(tmp_path / "m.png"), 17, 23)
    assert (counts, area) == (mask_shapes.packed_runs([drawn.T]), drawn.sum())
    found = mask_shapes.mask_map(str(tmp_path), [None, "m.png"], 17, 23)
    assert found.run_lengths == [None, counts]
    assert (np.asarray(Image.open(io.BytesIO(found.png))) == 2 * drawn).all()
    with Image.open(tmp_path / "i.jpg") as image:
        whole = np.asarray(image.resize((90, 60), Image.Resampling.LANCZOS)).astype(int)
        strips = pictures_module._resized_in_strips(image, 90, 60)
    assert abs(np.asarray(strips) - whole).max() <= 1


@pytest.mark.parametrize("format", ["coco", pytest.param("yolo", marks=pytest.mark.slow)])
def test_a_mask_of_noise_takes_no_gigabytes(tmp_path: Path, format: str) -> None:
    """A mask of nine megapixels that is inside and outside by turns: millions of runs, and of parts."""
    drawn = np.indices((3000, 3000)).sum(0) % 3 == 0
    png = io.BytesIO()
    Image.fromarray(drawn).save(png, "PNG")
    image = SavedImage(ONE, 3000, 3000, picture=grey_jpeg(3000, 3000))
    path = SavedFolder([image], [SavedBox(ONE)], [(SavedBox(ONE), png.getvalue())]).write(tmp_path / "d")
    done = measured_cli("export", path, "--format", format)
    assert (done.code, "left out" in done.stderr) == (0, False), done.stderr
    assert done.peak_mb < 300


QUICK = ("coco", "webdataset")


@pytest.mark.parametrize(
    "format", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in FORMATS if each not in QUICK)]
)
@pytest.mark.parametrize("max_side", [1024, pytest.param(4000, marks=pytest.mark.slow)])
def test_400_megapixels_are_made_smaller(tmp_path: Path, format: str, max_side: int) -> None:
    """20,000 x 20,000 pixels with --max-side, and a mask of 65,000 x 65,000, take less than 250 MB."""
    boxes = [SavedBox(ONE), SavedBox(TWO)]
    masks = [(boxes[0], rectangle(64, 48, (1, 2, 30, 40))), (boxes[1], png_bomb(65_000, 65_000))]
    images = [SavedImage(ONE), SavedImage(TWO, 20_000, 20_000, picture=grey_jpeg(20_000, 20_000, components=3))]
    path = SavedFolder(images, boxes, masks).write(tmp_path / "d")
    done = measured_cli("export", path, "--format", format, "--max-side", max_side)
    assert done.code == 0, done.stderr
    assert "Warning" not in done.stderr
    assert " images" in done.stderr
    assert done.peak_mb < 250
    if format == "crops" and max_side == 4000:
        # It is a quarter of the image: that would be decoded to more than 100 megapixels.
        assert "left out: 1 of image: too many pixels to cut its boxes out" in done.stderr
        return
    assert "left out" not in done.stderr or "1 of segmentation: no mask that Pillow reads" in done.stderr
    assert "of image" not in done.stderr


def test_masks_that_were_there_before(tmp_path: Path) -> None:
    """A mask without a record, of more pixels than a mask may have, is none: it would be fetched again."""
    from oid_async.store.attached_files import AttachedFiles

    names = pl.Series([f"{ONE}_m01g317_{number:08x}.png" for number in range(3)])
    end = b"IEND\xaeB`\x82"
    bodies = (png_head(65_000, 65_000) + end, rectangle(64, 48, (1, 2, 3, 4)), png_head(64, 48) + bytes(1 << 20) + end)
    for name, body in zip(names, bodies, strict=True):
        (tmp_path / name).write_bytes(body)
    with (tmp_path / names[2]).open("r+b") as file:
        file.truncate(1 << 40)
    assert AttachedFiles(tmp_path).are_there(names).to_list() == [False, True, False]


def test_a_process_that_is_killed_is_no_fault_of_the_program() -> None:
    """The system kills processes when memory is short: one line that says what to do, and exit code 3."""

    def broken() -> None:
        with process_pool(2, 1 << 20) as pool:
            assert pool is not None
            list(pool.each(os._exit, [(1,)]))

    with pytest.raises(StorageError, match="--processes 1"):
        broken()
