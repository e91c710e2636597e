"""Names and paths that the program makes are taken by every system: the rules of Windows, held on all of them."""

import asyncio
import os
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.odd_folder import odd_folder

import oid_async
from oid_async.errors import UsageError
from oid_async.formats.class_folders import class_folders
from oid_async.options.export import FORMATS
from oid_async.select.names import NameAssigner, NameHashes
from oid_async.store.attached_files import NAMES
from oid_async.store.naming import clash_name, fold, id_name, url_name
from oid_async.store.written_files import MASKS, RECORDINGS
from oid_async.system import file_names
from oid_async.system.file_names import FORBIDDEN, is_device, refuse_long_path

ID = "4fa8054781a4c382"
DEVICES = (
    "CON",
    "PRN",
    "AUX",
    "NUL",
    "CONIN$",
    "CONOUT$",
    *(f"{port}{n}" for port in ("COM", "LPT") for n in "019¹²³"),
)
ENDS = ("", ".jpg", ".JPG", ".tar.jpg", " .jpg", "  ", ".", ". .jpg")

odd_text = st.text(st.sampled_from('cCoOnNuUlL1¹. <>:"/\\|?*\x00\x1f\x7f\x85é🐶jpg'), max_size=12)


def windows_takes(name: str) -> bool:
    """Return whether a name is one of a file on Windows, by its documentation, written anew from it."""
    base = name.partition(".")[0].rstrip(" ").upper()
    is_port = re.fullmatch("(COM|LPT)[0-9\u00b9\u00b2\u00b3]", base) is not None
    is_reserved = is_port or base in ("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$")
    has_bad_sign = any(sign in '<>:"/\\|?*' or ord(sign) < 32 for sign in name)
    return bool(name) and not is_reserved and not has_bad_sign and name[-1] not in " ." and len(name) <= 255


def test_devices_are_known() -> None:
    """Each name of a device is one with any ending; a name that only begins so is none."""
    for device in DEVICES:
        for end in ENDS:
            assert is_device(device + end), device + end
            assert is_device((device + end).lower())
            assert not windows_takes(device + end)
        assert not is_device(f"{device}x")
        assert not is_device(f"x{device}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("end", ENDS)
def test_no_image_or_class_is_called_as_a_device(device: str, end: str) -> None:
    """By a URL, by an id of a user's own, or as a class: never."""
    names = [url_name(f"https://x.org/{device}{end}", ID), id_name(device + end), *class_folders([device + end])]
    assert all(map(windows_takes, names)), names


@settings(derandomize=True, max_examples=300)
@given(odd_text)
@example("CON .a")
@example("a\x85b")
@example("NUL. ")
def test_whatever_a_table_says_windows_takes_the_name(text: str) -> None:
    """Names of images, also those with an id behind them, and folders of classes."""
    names = [url_name(f"https://x.org/{text}", ID), id_name(text)]
    names += [clash_name(name, text) for name in names]
    for name in [*names, *class_folders([text, text.upper(), text.lower()])]:
        assert windows_takes(name), name
        assert not FORBIDDEN.search(name)


def test_names_that_differ_by_case_alone_are_two_files_everywhere() -> None:
    """The later image has its id in its name, on Linux too: so a folder can be carried to any other system."""
    urls = [f"https://x.org/{name}" for name in ("Photo_1.jpg", "photo_1.JPG", "PHOTO_1.jpg", "nul.jpg", "NUL.jpg")]
    frame = pl.DataFrame(
        {
            "ImageID": [f"{number:016x}" for number in range(len(urls))],
            "Subset": ["train"] * len(urls),
            "IsTwin": [False] * len(urls),
            "OriginalURL": urls,
            "OriginalSize": pl.Series([None] * len(urls), dtype=pl.Int64),
            "OriginalMD5": pl.Series([None] * len(urls), dtype=pl.String),
            "Given": pl.Series([None] * len(urls), dtype=pl.String),
        }
    ).with_row_index("key")
    named = names_of(frame)
    assert named[0] == "Photo_1.jpg"
    assert named[3] == "_nul.jpg"
    assert len({fold(name) for name in named}) == len(named)
    assert all(map(windows_takes, named))


def names_of(frame: pl.DataFrame) -> list[str]:
    from oid_async.openimages.ids import KEY
    from oid_async.store.journal_index import JournalIndex

    class NoJournal(JournalIndex):
        def __init__(self) -> None:
            pass

        def all_latest(self, **columns: pl.Expr) -> pl.DataFrame:
            schema = {KEY: pl.UInt64, "name": pl.UInt64, "is_given": pl.Boolean, "folded": pl.UInt64}
            return pl.DataFrame(schema=schema)

    keyed = frame.with_columns(pl.col("key").cast(pl.UInt64).alias(KEY))
    assigner = NameAssigner(NameHashes.of([]), NoJournal(), keyed.get_column(KEY))
    named, _ = assigner.assign(keyed, "url", lambda *_: None)
    return named.get_column("FileName").to_list()


@pytest.mark.parametrize("format", FORMATS)
def test_every_path_of_an_export_is_one_on_windows(format: str, tmp_path: Path) -> None:
    """Each name in it is taken there, and no two in a folder differ by case alone: of a folder full of odd names."""
    saved = odd_folder(tmp_path / "odd")
    asyncio.run(oid_async.export(savepath=saved, format=format, out=tmp_path / "out"))
    paths = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*")]
    assert len(paths) > 2
    # An image that somebody has called so, where it can be called so, keeps its name.
    names = [path.name.replace("quote'n & <name>", "its own name") for path in paths]
    assert [name for name in names if not windows_takes(name)] == []
    assert len({fold(path.as_posix()) for path in paths}) == len(paths)


def test_recordings_are_no_devices() -> None:
    """A table that came from anywhere cannot have a device opened in the place of a file."""
    for name in ("nul.ogg", "COM1.ogg", "con.ogg"):
        assert NAMES[RECORDINGS].fullmatch(name) is None
    assert NAMES[RECORDINGS].fullmatch("validation_0_4fa8054781a4c382_1.ogg")
    assert NAMES[RECORDINGS].fullmatch("console.ogg")
    assert NAMES[MASKS].fullmatch("4fa8054781a4c382_m01226z_0a1b2c3d.png")


def test_a_manifest_cannot_lead_out_of_its_folder_on_windows() -> None:
    """There a backslash and a colon separate, too; elsewhere they are signs of a name."""
    here = re.compile(file_names.NOT_IN_FOLDER)
    assert [bool(here.search(name)) for name in ("a.jpg", "a/b", "..", "", "a\0b")] == [False, True, True, True, True]
    assert bool(here.search("C:x.jpg")) == (os.name == "nt")


def test_a_path_that_is_too_long_is_refused_before_anything_is_made() -> None:
    """Without long paths Windows takes 259 characters: a folder needs 120 of them for what is in it."""
    root = Path(Path.cwd().anchor)
    refuse_long_path(root / ("x" * 500))
    refuse_long_path(root / ("x" * 138), 259)
    with pytest.raises(UsageError, match="140 characters, and on this system 139 are the most"):
        refuse_long_path(root / ("x" * 139), 259)


def test_a_download_says_so_at_once(lookalike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, exit code 2 on the command line, and no folder; an export by its --out as well."""
    monkeypatch.setattr(file_names, "most_characters", lambda: 259)
    place = tmp_path / ("x" * 140)
    with pytest.raises(UsageError, match="choose a shorter one"):
        asyncio.run(oid_async.download(categories=["Dog"], mirror=str(lookalike), savepath=place))
    with pytest.raises(UsageError, match="choose a shorter one"):
        asyncio.run(oid_async.export(savepath=odd_folder(tmp_path / "odd"), format="coco", out=place))
    assert not place.exists()
