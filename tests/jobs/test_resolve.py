"""`resolve`: which images Flickr addresses, file names and ids mean."""

import asyncio
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import write_bytes, write_table

import oid_async
from oid_async.cli import main as cli
from oid_async.errors import InputError, UnavailableError, UsageError
from oid_async.openimages.catalogue_tables import IMAGE_COLUMNS, TABLES
from oid_async.openimages.flickr import photo_of
from oid_async.openimages.vocabulary import SPLITS

DOG, CAT, TWIN, DIGITS, PLAIN = "0000048549557964", "4fa8054781a4c382", "2b3d97d2c08ab532", "1000000000000007", "a" * 16
REAL = Path(__file__).resolve().parents[3] / "shared" / "real" / "image_info"


def row(image_id: str, split: str, photo: str, **columns: str) -> dict[str, str]:
    made = {
        "ImageID": image_id,
        "Subset": split,
        "OriginalURL": f"https://farm3.staticflickr.com/5310/{photo}_51085e157c_o.jpg",
        "OriginalLandingURL": f"https://www.flickr.com/photos/michael-beat/{photo}",
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "AuthorProfileURL": "https://www.flickr.com/people/michael-beat/",
        "Author": 'Beat, Michael "the lens"',
        "Title": f"Photo\x1b[31m\t{photo}",
        "Thumbnail300KURL": f"https://c1.staticflickr.com/6/5310/{photo}_00643a940c_z.jpg",
    }
    return made | columns


ROWS = [
    row(DOG, "train", "5898076654"),
    row(CAT, "train", "15340259497", OriginalLandingURL="https://www.flickr.com/36880881@N05/15340259497/"),
    # One photo in two splits, once as two images.
    row(TWIN, "train", "7175940292"),
    row(TWIN, "test", "7175940292"),
    row("c" * 16, "test", "7175940292", Title="", Author=""),
    # An image that is called like the photo of another one.
    row(DIGITS, "train", "7152600499"),
    row("d" * 16, "test", DIGITS),
    row(PLAIN, "test", "1", OriginalURL="https://Example.org/My%20Pictures/Lake.JPG?v=2", OriginalLandingURL=""),
]


def publish(root: Path, rows: Sequence[dict[str, Any]], splits: Sequence[str] = SPLITS) -> Path:
    """Write image tables of these rows as a mirror holds them, and the other tables that `metadata pull` needs."""
    for table in TABLES:
        if "v7" in table.releases and table.kind == "images" and table.split in splits:
            own = [row for row in rows if row["Subset"] == table.split]
            write_table(root / table.bucket / table.key, IMAGE_COLUMNS, own or [row("e" * 16, str(table.split), "9")])
        elif "v7" in table.releases and table.kind == "classes":
            write_bytes(root / table.bucket / table.key, b"LabelName,DisplayName\n/m/0bt9lr,Dog\n")
    return root


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    root = publish(tmp_path / "mirror", ROWS)
    asyncio.run(oid_async.metadata_pull(mirror=root, kinds=["none"], splits=["all"]))
    return root


def meant(mirror: Path, *lines: str) -> list[list[str]]:
    """Return split/ImageID of the images that each line means, as one call says."""
    found = asyncio.run(oid_async.resolve(lines, mirror=mirror))
    assert found.lines == len(lines)
    assert set(found.unknown) == set(lines) - {image.given for image in found.images}
    images = [(image.given, f"{image.split}/{image.image_id}") for image in found.images]
    order = [lines.index(given) for given, _ in images]
    assert order == sorted(order)
    return [[image for given, image in images if given == line] for line in lines]


FORMS = [
    "https://www.flickr.com/photos/michael-beat/{photo}",
    "https://www.flickr.com/photos/michael-beat/{photo}/",
    "http://flickr.com/photos/67269079%40N02/{photo}/in/album-72157/?zz=1#comments",
    "m.flickr.com/photos/67269079@N02/{photo}/sizes/o",
    "HTTPS://WWW.FLICKR.COM/36880881@N05/{photo}",
    "https://www.flickr.com/photo.gne?rb=1&id={photo}",
    "https://farm4.staticflickr.com/1234/{photo}_0123456789_o.jpg",
    "https://farm4.static.flickr.com/1234/{photo}_0123456789.jpg",
    "https://live.staticflickr.com/65535/{photo}_0123456789_5k.jpg?zz=1",
    "//c1.staticflickr.com/9/8765/{photo}_abcdef0123_z_d.jpg",
    "{photo}_51085e157c_o.jpg",
    "./d/images/{photo}_51085e157c_o.JPG",
    "C:\\d\\images\\{photo}_51085e157c_b.png",
    "file:///data/{photo}_51085e157c_o.jpg",
    "{photo}",
    "{photo}.jpg",
    '"{photo}" # the one with the dog',
]


def test_every_form_of_a_photo_is_read() -> None:
    """Pages, pictures of every size and host, saved files and bare numbers name the photo; other addresses none."""
    texts = [form.format(photo="5898076654").replace("\\", "/") for form in FORMS[:-3]]
    shorts = [
        "https://flic.kr/p/9ZcbGN",
        "http://www.flic.kr/p/9ZcbGN/",
        "https://www.flickr.com/photo.gne?short=9ZcbGN",
    ]
    others = [
        *("https://www.flickr.com/photos/5898076654/sets/72157", "https://www.flickr.com/people/5898076654/"),
        *("https://www.flickr.com/groups/5898076654/", "https://www.flickr.com/photos/x/albums/72157/5898076654"),
        *("https://flickr.com.example.org/photos/x/5898076654", "https://flic.kr/p/O0Il", "5898076654_o.jpg"),
    ]
    found = pl.Series([*texts, *shorts, *others]).to_frame("text").select(photo_of(pl.col("text"))).to_series()
    assert found.to_list() == [5898076654] * (len(texts) + len(shorts)) + [None] * len(others)


def test_lines_mean_the_images_of_their_photos(mirror: Path) -> None:
    """A photo in any form means its image; one that is several images, or of several splits, means all of them."""
    twins = [f"train/{TWIN}", f"test/{TWIN}", f"test/{'c' * 16}"]
    for photo, images in (("5898076654", [f"train/{DOG}"]), ("15340259497", [f"train/{CAT}"]), ("7175940292", twins)):
        assert meant(mirror, *(form.format(photo=photo) for form in FORMS)) == [images] * len(FORMS)


def test_ids_and_names_mean_what_they_say(mirror: Path) -> None:
    """ImageIDs in all forms of a list, with their split where one is said, and names that had to be made unique."""
    one = [f"train/{DOG}"]
    expected = {
        DOG: one,
        f"{DOG}.jpg": one,
        f"train/{DOG}": one,
        f"test/{DOG}": [],
        f"https://open-images-dataset.s3.amazonaws.com/train/{DOG}.jpg": one,
        f"/home/me/validation/{DOG}.png": one,
        TWIN.upper(): [f"train/{TWIN}", f"test/{TWIN}"],
        f"test/{TWIN}": [f"test/{TWIN}"],
        f"d/7175940292_51085e157c_o_{TWIN}.jpg": [f"train/{TWIN}", f"test/{TWIN}"],
        f"7175940292_51085e157c_o_{TWIN}_test.jpg": [f"test/{TWIN}"],
        f"7175940292_51085e157c_o_{TWIN}_validation.jpg": [],
        DIGITS: ["test/" + "d" * 16, f"train/{DIGITS}"][::-1],
        "http://www.example.org/my%20pictures/lake.jpg": [f"test/{PLAIN}"],
        "images/Lake.JPG": [f"test/{PLAIN}"],
        "https://example.com/my%20pictures/lake.jpg": [],
        "5898076655": [],
        "no photo at all": [],
    }
    assert dict(zip(expected, meant(mirror, *expected), strict=True)) == expected


def test_it_says_who_made_a_photo(mirror: Path) -> None:
    """An image has the texts of its row, None where they are empty; JSON has them under the same names."""
    found = asyncio.run(oid_async.resolve(["flickr.com/photos/x/7175940292"], mirror=mirror))
    image, nobody = found.images[0], found.images[2]
    assert (image.author, image.title) == ('Beat, Michael "the lens"', "Photo\x1b[31m\t7175940292")
    assert image.license == "https://creativecommons.org/licenses/by/2.0/"
    assert image.author_profile_url == "https://www.flickr.com/people/michael-beat/"
    assert image.landing_url == "https://www.flickr.com/photos/michael-beat/7175940292"
    assert (nobody.author, nobody.title) == (None, None)
    assert found.as_json()["images"][0] == image.as_json()
    assert list(found.as_json()) == ["images", "unknown", "not_cached", "lines"]


def test_the_command_prints_rows_and_names_what_is_unknown(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows under a header in order of the lines, control characters as escapes; unknown lines on stderr end with 1."""
    path = tmp_path / "list.csv"
    path.write_text(
        "Subset,note,OriginalLandingURL\n,a,https://flic.kr/p/9ZcbGN\n,b,flickr.com/photos/x/44\n", "utf-16"
    )
    assert cli.main(["resolve", str(path), "--mirror", str(mirror)]) == 1
    said = capsys.readouterr()
    head, line = said.out.splitlines()
    assert head.split("\t")[:6] == ["given", "split", "image_id", "author", "license", "title"]
    assert line.split("\t")[:3] == ["https://flic.kr/p/9ZcbGN", "train", DOG]
    assert line.split("\t")[5] == "Photo\\x1b[31m\\t5898076654"
    assert said.err.splitlines() == [
        "unknown: flickr.com/photos/x/44",
        "1 of 2 lines name no image of the cached image tables",
    ]
    assert cli.main(["resolve", str(path), "--mirror", str(mirror), "--max-failures", "50%", "--json", "--quiet"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [image["image_id"] for image in answer["images"]] == [DOG]
    assert answer["unknown"] == ["flickr.com/photos/x/44"]
    assert cli.main(["resolve", "https://flic.kr/p/9ZcbGN", "--mirror", str(mirror), "--quiet"]) == 0


def test_it_looks_in_what_is_cached_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an image table it is exit 2 and says what fetches one; a split that is not cached is named."""
    root = publish(tmp_path / "mirror", ROWS)
    with pytest.raises(UnavailableError, match=r"oid-async metadata pull"):
        asyncio.run(oid_async.resolve([DOG], mirror=root))
    assert cli.main(["resolve", "/dev/null", "--mirror", str(root)]) == 2
    asyncio.run(oid_async.metadata_pull(mirror=root, kinds=["none"], splits=["train"]))
    capsys.readouterr()
    assert cli.main(["resolve", "/dev/null", "--mirror", str(root)]) == 0
    found = asyncio.run(oid_async.resolve([DOG, "d" * 16], mirror=root))
    assert (found.unknown, found.not_cached) == (("d" * 16,), ("validation", "test"))
    assert asyncio.run(oid_async.resolve([], mirror=root)).lines == 0


def test_what_is_no_list_is_refused(mirror: Path, tmp_path: Path) -> None:
    """A wrong value or file is an error of one line; a CSV of other things is not taken for a list of unknown ones."""
    classes = write_table(tmp_path / "classes.csv", ("LabelName", "Name"), [{"LabelName": "/m/0", "Name": "Dog"}])
    refused: list[tuple[Any, type[Exception], str]] = [
        ("s3://bucket/list.txt", UsageError, r"FILE.*s3://"),
        ([3], UsageError, "lines of text"),
        (b"x", UsageError, "path or a sequence"),
        (tmp_path / "no such.txt", InputError, r"no such\.txt"),
        (classes, InputError, r"classes\.csv: it is a CSV with the columns LabelName, Name"),
    ]
    for given, error, says in refused:
        with pytest.raises(error, match=says):
            asyncio.run(oid_async.resolve(given, mirror=mirror))


def test_it_looks_in_the_table_of_all_images(tmp_path: Path) -> None:
    """Where that is cached nothing is missing; an image of a split's own table, too, is one image."""
    root = publish(tmp_path / "mirror", ROWS, ["train"])
    for table in TABLES:
        if table.kind == "all_images":
            write_table(root / table.bucket / table.key, IMAGE_COLUMNS, ROWS)
    asyncio.run(oid_async.metadata_pull(mirror=root, kinds=["none"], images="all"))
    photos = ["7175940292", "5898076654"]
    found = asyncio.run(oid_async.resolve(photos, mirror=root))
    assert (found.not_cached, [image.split for image in found.images]) == ((), ["train", "test", "test", "train"])
    asyncio.run(oid_async.metadata_pull(mirror=root, kinds=["none"]))
    assert asyncio.run(oid_async.resolve(photos, mirror=root)) == found


@pytest.mark.skipif(not REAL.is_dir(), reason="the real Open Images files are not beside the project")
def test_every_real_row_is_found_by_each_of_its_addresses(tmp_path: Path) -> None:
    """Published rows, odd landing pages too, are found by page, original, thumbnail, file name and photo id."""
    with (REAL / "crossmodal3600-image-attributions.csv").open(newline="", encoding="utf-8") as file:
        rows = [row | {"Rotation": ""} for row in csv.DictReader(file)]
    root = publish(tmp_path / "mirror", rows)
    asyncio.run(oid_async.metadata_pull(mirror=root, kinds=["none"], splits=["all"]))
    names = [row["OriginalURL"].rsplit("/", 1)[1] for row in rows]
    addresses = [[row["OriginalLandingURL"] for row in rows], [row["OriginalURL"] for row in rows]]
    addresses.append([row["Thumbnail300KURL"] or row["OriginalURL"] for row in rows])
    for lines in (*addresses, names, [name.split("_")[0] for name in names]):
        found = asyncio.run(oid_async.resolve(lines, mirror=root))
        assert found.unknown == ()
        assert [(image.split, image.image_id) for image in found.images] == [
            (row["Subset"], row["ImageID"]) for row in rows
        ]
        assert [image.title for image in found.images] == [row["Title"] or None for row in rows]
