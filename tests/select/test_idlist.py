"""Id lists: every form of a line that is tolerated, every line that names no image, and what is made of them."""

import gzip
import random
import time
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oid_async.errors import InputError
from oid_async.openimages.ids import HEX_ID, KEY, IdForm, hexadecimal
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.select.choose import choose
from oid_async.select.idlist import IdList, read_ids, write_image_rows
from oid_async.select.query import ResolvedQuery, no_label_counts
from oid_async.tables.reading import scan_keyed

ID = "0000048549557964"
OTHER = "00e4060885034751"
HIGH = "fe600639ac5f36c1"
OPAQUE = IdForm(hexadecimal=False)

Named = tuple[str, str | None]


class Parsed(NamedTuple):
    """What a list says: (id, split) of each image with its line; (line, text) of what names none."""

    named: dict[int, Named]
    odd: tuple[tuple[int, str], ...]


def read(folder: Path, text: str | bytes, ids: IdForm | None = None) -> IdList:
    path = folder / "ids.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_ids(path, "my ids.txt", ids or IdForm())


def parsed(found: IdList) -> Parsed:
    rows = found.rows.select("line", name(found).alias("name"), "split").iter_rows()
    return Parsed(
        {line: (text, None if code is None else SPLITS[code]) for line, text, code in rows}, tuple(found.odd.rows())
    )


def name(found: IdList) -> pl.Expr:
    return hexadecimal() if found.rows.schema[KEY] == pl.UInt64 else pl.col(KEY)


def images(*rows: tuple[str, Split | None]) -> pl.DataFrame:
    """Return rows of an image table of Open Images ids."""
    codes = [None if split is None else SPLITS.index(split) for _, split in rows]
    schema = {KEY: pl.UInt64, "split": pl.UInt8}
    return pl.DataFrame({KEY: [int(image_id, 16) for image_id, _ in rows], "split": codes}, schema=schema)


class Met(NamedTuple):
    """What comes of a list and an image table: the keys that both have, the lines of the list that the table has not
    and what they say."""

    keys: list[int | str]
    lines: list[int]
    unknown: list[str]


def meet(found: IdList, table: pl.DataFrame) -> Met:
    ids = IdForm(table.schema[KEY] == pl.UInt64)
    selection = choose(no_label_counts(ids), table, ResolvedQuery(image_ids=found, by_boxes=False))
    lines = selection.unknown_lines
    return Met(selection.keys.to_list(), lines.to_list(), found.text_of(lines).to_list())


TOLERATED = [
    pytest.param(ID, (ID, None), id="bare"),
    pytest.param(f"{ID}.jpg", (ID, None), id="jpg"),
    pytest.param(f"{ID}.JPG", (ID, None), id="upper-case-jpg"),
    pytest.param(f"{ID}.jpeg", (ID, None), id="jpeg"),
    pytest.param(f"{ID}.png", (ID, None), id="png"),
    pytest.param(HIGH.upper(), (HIGH, None), id="upper-case"),
    pytest.param(f"{HIGH.upper()}.JPG", (HIGH, None), id="upper-case-file"),
    pytest.param(f"train/{ID}", (ID, "train"), id="train"),
    pytest.param(f"validation/{ID}", (ID, "validation"), id="validation"),
    pytest.param(f"test/{ID}", (ID, "test"), id="test"),
    pytest.param(f"train/{ID}.jpg", (ID, "train"), id="split-jpg"),
    pytest.param(f"Train/{HIGH.upper()}.Jpg", (HIGH, "train"), id="split-any-case"),
    pytest.param(f"  {ID}\t", (ID, None), id="spaces"),
    pytest.param(f"\t test/{ID}.jpg  ", (ID, "test"), id="split-spaces"),
    pytest.param(f"val/{ID}", (ID, "validation"), id="val"),
    pytest.param(f"Valid/{ID}.jpg", (ID, "validation"), id="valid"),
    pytest.param(f"train\\{ID}.jpg", (ID, "train"), id="backslash"),
    pytest.param(f"./{ID}.jpg", (ID, None), id="dot"),
    pytest.param(f".\\train\\{ID}.jpg", (ID, None), id="own-folder"),
    pytest.param(f"C:\\data\\train\\{ID}.jpg", (ID, None), id="windows-path"),
    pytest.param(f"/data/train/{ID}.jpg", (ID, None), id="path"),
    pytest.param(f"/data/a b#1/{ID}.txt", (ID, None), id="odd-path"),
    pytest.param(f"file:///open-images-dataset/train/{ID}.jpg", (ID, None), id="file-url"),
    pytest.param(f"{ID}.gif", (ID, None), id="other-suffix"),
    pytest.param(f"s3://open-images-dataset/test/{ID}.jpg", (ID, "test"), id="s3"),
    pytest.param(f"https://open-images-dataset.s3.amazonaws.com/train/{ID}.jpg", (ID, "train"), id="bucket"),
    pytest.param(
        f"https://open-images-dataset.s3.us-east-1.amazonaws.com/validation/{ID}.jpg?a=/b#c",
        (ID, "validation"),
        id="bucket-query",
    ),
    pytest.param(f"https://s3.amazonaws.com/open-images-dataset/test/{ID}.jpg", (ID, "test"), id="bucket-path"),
    pytest.param(f"http://127.0.0.1:9/open-images-dataset/test/{ID}.jpg", (ID, "test"), id="mirror"),
    pytest.param(f"https://s.example/train/{ID}.jpg", (ID, None), id="other-url"),
    pytest.param(f'"train/{ID}"', (ID, "train"), id="quoted"),
    pytest.param(f"'{ID}.jpg',", (ID, None), id="quoted-comma"),
    pytest.param(f"train/{ID}  # first", (ID, "train"), id="comment"),
    pytest.param(f'"{ID}"\t# "second"', (ID, None), id="quoted-comment"),
    pytest.param(f"{ID}#third", (ID, None), id="comment-without-blank"),
    pytest.param("0000000000000000", ("0000000000000000", None), id="zero"),
    pytest.param("ffffffffffffffff", ("ffffffffffffffff", None), id="highest"),
    pytest.param("8000000000000000", ("8000000000000000", None), id="sign-bit"),
    pytest.param("9e99999999999999", ("9e99999999999999", None), id="like-a-float"),
]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r\r\n"], ids=["cut", "lf", "crlf", "crcrlf"])
@pytest.mark.parametrize(("line", "said"), TOLERATED)
def test_tolerated_lines(line: str, said: Named, end: str, tmp_path: Path) -> None:
    """A line names its image and maybe its split in any tolerated spelling, whatever ends it."""
    found = read(tmp_path, f"{line}{end}")
    assert parsed(found) == Parsed({1: said}, ())
    assert found.name == "my ids.txt"
    assert found.splits == ((said[1],) if said[1] else ())
    assert found.is_complete is (said[1] is not None)
    assert found.rows.schema == {KEY: pl.UInt64, "split": pl.UInt8, "line": pl.UInt32}


ODD = [
    pytest.param("0123", id="short"),
    pytest.param(f"{ID}0", id="long"),
    pytest.param(f"{ID[:-1]}g", id="no-hex"),
    pytest.param(f"0x{ID[2:]}", id="0x"),
    pytest.param(f"-{ID[1:]}", id="minus"),
    pytest.param(f"+{ID[1:]}", id="plus"),
    pytest.param(f"{ID[:8]}_{ID[9:]}", id="underscore"),
    pytest.param(f"{ID[:8]} {ID[8:]}", id="space-within"),
    pytest.param(f"dev/{ID}", id="no-split"),
    pytest.param(f"train/train/{ID}", id="two-splits"),
    pytest.param(f"/{ID}", id="rooted"),
    pytest.param("train/", id="split-alone"),
    pytest.param("train", id="word"),
    pytest.param("/", id="slash"),
    pytest.param(".jpg", id="suffix-alone"),
    pytest.param("train/.jpg", id="split-and-suffix"),
    pytest.param(f"{ID}.jpg.jpg", id="two-suffixes"),
    pytest.param(f"{ID},train", id="csv"),
    pytest.param(f"{ID} {OTHER}", id="two-ids"),
    pytest.param(f"https://s.example/train/{ID}", id="url-without-suffix"),
    pytest.param(f"s3://open-images-dataset/train/{ID[:-1]}.jpg", id="url-of-no-id"),
    pytest.param(f'"{ID}', id="half-quoted"),
    pytest.param("٠٠٠٠٠٤٨٥٤٩٥٥٧٩٦٤", id="arabic-digits"),
    pytest.param("ｆｅ600639ac5f36c1", id="full-width"),
    pytest.param("Straße", id="not-ascii"),
    pytest.param("{}", id="braces"),
]


@pytest.mark.parametrize("line", ODD)
def test_odd_lines_are_kept_and_said(line: str, tmp_path: Path) -> None:
    """A line that names no image is listed with its number, between lines that do, and counts as unknown."""
    found = read(tmp_path, f"train/{ID}\n\n{line}\r\ntrain/{OTHER}\n")
    assert parsed(found) == Parsed({1: (ID, "train"), 4: (OTHER, "train")}, ((3, line),))
    # An odd line is no reason to ask for more tables.
    assert (found.splits, found.is_complete) == (("train",), True)
    both = Met([int(ID, 16), int(OTHER, 16)], [3], [line])
    assert meet(found, images((ID, "train"), (OTHER, "train"))) == both


@pytest.mark.parametrize("line", ODD)
def test_a_file_of_something_else_is_refused(line: str, tmp_path: Path) -> None:
    """When no line names an image the message names the file, the first line that says anything, and what it says."""
    with pytest.raises(InputError) as raised:
        read(tmp_path, f"\n \r\n{line}\nno\n")
    message = str(raised.value)
    assert message.startswith("my ids.txt: ")
    assert "line 3" in message
    assert repr(line)[1:-1] in message
    assert "\n" not in message


def test_the_message_does_not_repeat_a_whole_line(tmp_path: Path) -> None:
    """A line of a megabyte, such as a binary file has, is cut in the message."""
    with pytest.raises(InputError) as raised:
        read(tmp_path, "x" * 1_000_000)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("body", [b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\xfe", b"PK\x03\x04\x00\x00\x00", bytes(100)])
def test_a_binary_file_is_refused(body: bytes, tmp_path: Path) -> None:
    """A picture or an archive in place of a list is wrong input, not a crash."""
    with pytest.raises(InputError, match=r"my ids\.txt"):
        read(tmp_path, body)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """What cannot be opened as a file is wrong input that is named."""
    with pytest.raises(InputError, match="my ids"):
        read_ids(tmp_path, "my ids", IdForm())


@pytest.mark.parametrize("text", ["", "\n", " \r\n\r\n\t\n", "\ufeff", "ImageID\n", "\ufeffImageID\r\n"])
def test_an_empty_list_names_nothing(text: str, tmp_path: Path) -> None:
    """A list of nothing is a list: it selects no image and is no error."""
    found = read(tmp_path, text)
    assert parsed(found) == Parsed({}, ())
    assert found.splits == ()
    assert found.rows.schema == {KEY: pl.UInt64, "split": pl.UInt8, "line": pl.UInt32}
    assert meet(found, images((ID, "train"))) == Met([], [], [])
    assert meet(found, images()) == Met([], [], [])
    assert image_rows(found, (), tmp_path).is_empty()


HEADS = ["ImageID", "imageid", "IMAGEID", "image_id", "id", "ID", " ImageID \r", "\ufeffImageID"]


@pytest.mark.parametrize("head", HEADS)
def test_a_header_line_is_tolerated(head: str, tmp_path: Path) -> None:
    """A first line that heads the column names no image; line numbers count it all the same."""
    found = read(tmp_path, f"{head}\n{ID}\n0123\n")
    assert parsed(found) == Parsed({2: (ID, None)}, ((3, "0123"),))


FORMS = [
    pytest.param(f'["train/{ID}", "{OTHER}.jpg"]', {1: (ID, "train"), 2: (OTHER, None)}, (), id="json"),
    pytest.param(
        f'\n# mine\n[\n"{ID}",\n  "val/{OTHER}",\n]\n', {1: (ID, None), 2: (OTHER, "validation")}, (), id="long-json"
    ),
    pytest.param(
        f'["{ID}", 5, null, {{"a": 1}}]', {1: (ID, None)}, ((2, "5"), (3, "null"), (4, '{"a": 1}')), id="json-mix"
    ),
    pytest.param(f"ImageID,Subset\n{ID},test\n{OTHER},\n", {2: (ID, "test"), 3: (OTHER, None)}, (), id="csv"),
    pytest.param(f"# x\n,Split;,Image_ID\n0,Val,{ID}.jpg\n1\n", {3: (ID, None)}, ((4, "1"),), id="csv-index"),
    pytest.param(f"a\timage_id\tsplit\nx\t{ID}\ttrain\n", {2: (ID, "train")}, (), id="tsv"),
    pytest.param(
        f'a;"ImageID"\n"b\nc";{ID}\n;train/{OTHER}\n', {3: (ID, None), 4: (OTHER, "train")}, (), id="semicolons"
    ),
    pytest.param(f"ImageID,Subset\n{ID},dev\n", {}, ((2, ID),), id="csv-other-split"),
    pytest.param(f"[\n{ID}", None, (), id="cut-json"),
    pytest.param(f'["{ID}"] ["{OTHER}"]', None, (), id="two-json"),
    pytest.param("[" * 100_000, None, (), id="deep-json"),
    pytest.param(f'{{"ids": ["{ID}"]}}', None, (), id="json-object"),
    pytest.param("name,age\nx,5\n", None, (), id="other-csv"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gzip"])
@pytest.mark.parametrize(("text", "named", "odd"), FORMS)
def test_forms_of_a_list(
    text: str, named: dict[int, Named] | None, odd: tuple[tuple[int, str], ...], encoding: str, tmp_path: Path
) -> None:
    """JSON lists and tables with an ImageID column are lists, in any encoding; others are refused, named."""
    body = gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding)
    if named:
        assert parsed(read(tmp_path, body)) == Parsed(named, odd)
        return
    with pytest.raises(InputError, match=r"my ids\.txt: "):
        read(tmp_path, body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"name,age\nx,5\n", "it is a CSV with the columns name, age"),
        (b'{"ids": []}', "it is a JSON object, not a list"),
        (b"PAR1\x15\x04", "it is a Parquet table"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "it is a JPEG picture"),
        (b"PK\x03\x04\x14\x00", "it is a ZIP archive or a spreadsheet"),
        (b"a\0b\n", "it is a binary file"),
        (b"\x1f\x8b\x08\x00nonsense and more of it", "cannot be read"),
    ],
)
def test_what_is_no_list_is_said_by_its_name(body: bytes, said: str, tmp_path: Path) -> None:
    """The message says what was found in place of a list."""
    with pytest.raises(InputError, match=said):
        read(tmp_path, body)


def test_paths_of_ids_of_a_users_own(tmp_path: Path) -> None:
    """Where a table names its images otherwise, a path stands for the id that it ends in, too."""
    found = read(tmp_path, "/data/dog.jpeg\n'cat 2.jpg'  # mine\n# all\nval/cow\n#4\n", OPAQUE)
    table = own_images({"dog": "train", "cat 2": "train", "cow": "validation", "#4": "train"})
    assert meet(found, table) == Met(["#4", "cat 2", "cow", "dog"], [], [])


def test_only_the_first_line_is_a_header(tmp_path: Path) -> None:
    """The same word further down is an odd line."""
    assert parsed(read(tmp_path, f"{ID}\nImageID\n")).odd == ((2, "ImageID"),)


def test_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    """Lists from spreadsheets start with a byte order mark; blank lines count as lines and as nothing else."""
    found = read(tmp_path, f"\ufeff\r\n{ID}\r\n\r\n  \r\n{OTHER}.jpg\r\n\r\n")
    assert parsed(found) == Parsed({2: (ID, None), 5: (OTHER, None)}, ())


def test_bad_utf8_is_one_odd_line(tmp_path: Path) -> None:
    """A line that is no UTF-8 costs itself alone."""
    found = read(tmp_path, f"{ID}\n".encode() + b"caf\xe9\n" + f"{OTHER}\n".encode())
    assert parsed(found) == Parsed({1: (ID, None), 3: (OTHER, None)}, ((2, "caf�"),))


def test_an_image_counts_once(tmp_path: Path) -> None:
    """However often and in what spelling an image is named, its first line counts; with and without split are two."""
    text = f"{HIGH}\n{HIGH.upper()}\n{HIGH}.jpg\ntrain/{HIGH}\ntrain/{HIGH}.png\ntest/{HIGH}\n{HIGH}\n"
    found = read(tmp_path, text)
    assert parsed(found) == Parsed({1: (HIGH, None), 4: (HIGH, "train"), 6: (HIGH, "test")}, ())
    assert found.splits == ("train", "test")
    assert not found.is_complete


def test_splits_stand_in_their_own_order(tmp_path: Path) -> None:
    """The splits that a list names stand in the order of the splits, not of the lines."""
    found = read(tmp_path, f"test/{ID}\nvalidation/{OTHER}\ntest/{HIGH}\ntrain/{HIGH}\n")
    assert found.splits == ("train", "validation", "test")
    assert found.is_complete


IN_TRAIN, IN_TEST, SPLITLESS = images((ID, "train")), images((ID, "test")), images((ID, None))
MEETINGS = [
    (ID, IN_TRAIN, True),
    (ID, SPLITLESS, True),
    (f"train/{ID}", IN_TRAIN, True),
    (f"train/{ID}", IN_TEST, False),
    (f"train/{ID}", SPLITLESS, True),
    (OTHER, IN_TRAIN, False),
    (ID, images(), False),
]


@pytest.mark.parametrize(("text", "table", "is_chosen"), MEETINGS)
def test_a_list_meets_the_image_table(text: str, table: pl.DataFrame, is_chosen: bool, tmp_path: Path) -> None:
    """A line fits an image of its split; a table that knows no splits fits any; what fits nothing is unknown."""
    found = read(tmp_path, text)
    lines = text.split("\n")
    unknown = Met([], list(range(1, len(lines) + 1)), lines)
    assert meet(found, table) == (Met([int(ID, 16)], [], []) if is_chosen else unknown)


def test_one_id_in_two_splits_is_two_images(tmp_path: Path) -> None:
    """What is listed of a split that does not have it is unknown, though another split has it."""
    assert meet(read(tmp_path, f"train/{ID}\ntest/{ID}"), IN_TEST) == Met([int(ID, 16)], [1], [f"train/{ID}"])
    assert meet(read(tmp_path, f"train/{ID}\n{ID}"), IN_TEST) == Met([int(ID, 16)], [1], [f"train/{ID}"])


def test_unknown_lines_are_said_in_order(tmp_path: Path) -> None:
    """Unknown ids and odd lines stand in the order of the list, each as ImageID or split/ImageID, an odd one as is."""
    text = f"kitten\ntest/{HIGH.upper()}.jpg\r\n{OTHER}.png\n{ID}\n\n {OTHER}\ndev/{ID}\nkitten\n"
    found = read(tmp_path, text)
    met = meet(found, images((ID, "train"), (HIGH, "train")))
    assert met == Met([int(ID, 16)], [1, 2, 3, 7, 8], ["kitten", f"test/{HIGH}", OTHER, f"dev/{ID}", "kitten"])


def own_images(rows: dict[str, Split | None]) -> pl.DataFrame:
    """Return rows of an image table of ids of a user's own."""
    codes = [None if split is None else SPLITS.index(split) for split in rows.values()]
    return pl.DataFrame({KEY: list(rows), "split": codes}, schema={KEY: pl.String, "split": pl.UInt8})


def test_ids_of_a_users_own_are_taken_as_they_stand(tmp_path: Path) -> None:
    """Where a table names its images otherwise, case and length matter and anything may be an id."""
    lines = ["Cat 1", "cat 1.jpg", "train/Straße.png", "test/dog", HIGH.upper(), "x" * 200, "x" * 201, "zoo/cow"]
    found = read(tmp_path, "\r\n".join(lines), OPAQUE)
    table = own_images({"Cat 1": "train", "Straße": None, "dog": "train", HIGH: "train"})
    unknown = ["cat 1.jpg", "test/dog", HIGH.upper(), "x" * 200, "x" * 201, "zoo/cow"]
    assert meet(found, table) == Met(["Cat 1", "Straße"], [2, *range(4, 9)], unknown)
    assert found.rows.schema == {KEY: pl.String, "split": pl.UInt8, "line": pl.UInt32}


@pytest.mark.parametrize("image_id", ["cat.jpg", "cat.PNG", "zoo/cat", "train/cat", "a/b/c", "ImageID", "train/"])
def test_a_users_own_id_as_it_stands_in_the_table(image_id: str, tmp_path: Path) -> None:
    """An id of a user's own may look like a file's name; a list that says just what the table says names the image."""
    found = read(tmp_path, f"dog\n{image_id}\n", OPAQUE)
    assert meet(found, own_images({"dog": "train", image_id: "test"})) == Met(sorted(["dog", image_id]), [], [])


def test_a_header_before_ids_of_a_users_own(tmp_path: Path) -> None:
    """A first line that heads the column is none of the images, unless the table has an image of that name."""
    found = read(tmp_path, "ImageID\ndog\n", OPAQUE)
    assert meet(found, own_images({"dog": "train", "cat": "train"})) == Met(["dog"], [], [])
    assert meet(found, own_images({"dog": "train", "ImageID": "train"})).unknown == []


def test_a_long_list_is_read_quickly(tmp_path: Path) -> None:
    """A hundred thousand lines, over several batches, take a fraction of a second and keep their numbers."""
    count = 100_000
    chance = random.Random(7)
    numbers = [chance.getrandbits(64) for _ in range(count)]
    lines = [f"{SPLITS[at % 3]}/{number:016X}.jpg\r\n" for at, number in enumerate(numbers)]
    lines[70_000:70_000] = ["kitten\n", "\n"]
    began = time.perf_counter()
    found = read(tmp_path, "".join(lines))
    took = time.perf_counter() - began
    assert took < 5
    assert found.odd.rows() == [(70_001, "kitten")]
    assert found.rows.get_column(KEY).to_list() == numbers
    places = found.rows.get_column("line").to_list()
    assert places == [*range(1, 70_001), *range(70_003, count + 3)]
    table = found.rows.select(KEY, "split")
    began = time.perf_counter()
    assert meet(found, table) == Met(sorted(numbers), [70_001], ["kitten"])
    nothing = meet(found, table.clear())
    assert nothing.unknown[:2] == [f"train/{numbers[0]:016x}", f"validation/{numbers[1]:016x}"]
    assert nothing.lines == sorted([*places, 70_001])
    assert time.perf_counter() - began < 10


def image_rows(found: IdList, splits: tuple[Split, ...], folder: Path) -> pl.DataFrame:
    """ImageID and Subset of the image table that a list stands for."""
    table = write_image_rows(found, splits, folder / "listed")
    return scan_keyed(table, IdForm(), ["ImageID"], ["Subset"]).collect().drop(KEY)


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ((), [(HIGH, "train"), (HIGH, "test"), (ID, "train"), (OTHER, "validation")]),
        (("train",), [(ID, "train"), (HIGH, "train")]),
        (("validation", "test"), [(HIGH, "test"), (OTHER, "validation")]),
    ],
)
def test_a_complete_list_stands_for_an_image_table(
    splits: tuple[Split, ...], expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    """A list with a split on every line is an image table of ImageID and Subset; one id in two splits is two images."""
    text = f"test/{HIGH}\ntrain/{ID}\nkitten\ntrain/{HIGH}\nvalidation/{OTHER}.jpg\ntest/{HIGH}\n"
    rows = image_rows(read(tmp_path, text), splits, tmp_path)
    assert rows.schema == {"ImageID": pl.String, "Subset": pl.String}
    assert sorted(rows.rows()) == sorted(expected)


def test_every_number_has_one_id() -> None:
    """64-bit numbers are written as 16 lower-case hex digits and read back, the highest and lowest too."""
    chance = random.Random(64)
    edges = [edge + step for edge in (2**16, 2**32, 2**53, 2**63) for step in (-1, 0, 1)]
    keys = [0, 1, 2**64 - 1, *edges, *(chance.getrandbits(chance.randrange(1, 65)) for _ in range(5000))]
    ids = pl.DataFrame({KEY: keys}, schema={KEY: pl.UInt64}).select(ImageID=hexadecimal())
    assert ids.get_column("ImageID").to_list() == [f"{key:016x}" for key in keys]
    assert ids.select(pl.col("ImageID").str.contains(HEX_ID).all()).item()
    assert ids.select(IdForm().key()).to_series().to_list() == keys


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_any_number_has_one_id(keys: list[int]) -> None:
    """Whatever the numbers, id and number are each other's."""
    frame = pl.DataFrame({KEY: keys}, schema={KEY: pl.UInt64}).select(ImageID=hexadecimal())
    assert frame.select(IdForm().key()).to_series().to_list() == keys
