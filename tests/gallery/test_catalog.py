"""What the gallery says of a folder, of a page and of one image; while the index is made, and when it is gone."""

import csv
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gallery_folders import GOOD_LINK, box_row, image_id, label, manifest_row, mask_row, write_folder

from oid_async.dataset.saved import SavedDataset
from oid_async.gallery import index_build
from oid_async.gallery.catalog import Catalog, NotFoundError
from oid_async.gallery.state import State
from oid_async.openimages.kinds import KindName
from oid_async.store.folder import Folder

Row = dict[str, Any]
ALL = State()
DOGS = State(classes=("Dog",))


def folder_of(path: Path, *, images: int = 6, **other: Any) -> Path:
    """Write a folder: image n has n boxes of a dog, image 1 a mask, too; the last two have failed and not landed."""
    rows = [manifest_row(number, b"x", (640, 480), **other) for number in range(1, images + 1)]
    rows[-2] |= {"Status": "failed", "Reason": "not_found", "FileName": None, "Bytes": None}
    rows[-1] |= {"Status": "pending", "FileName": None, "Source": None, "Bytes": None}
    boxes = [
        box_row(number, label(1), "Dog", (-0.01, 0.5 + place / 100, 0.25, 1.005), IsOccluded=1, IsInside=-1)
        for number in range(1, images - 1)
        for place in range(number)
    ]
    mask = mask_row(1, "a_m1_00000001.png", label(2), "Cat", (0.1, 0.2, 0.3, 0.4))
    return write_folder(path, [(row, None) for row in rows], {"bbox": boxes, "segmentation": [mask]})


def opened(path: Path, look: Callable[[], object] = lambda: None, clock: Callable[[], float] = lambda: 0.0) -> Catalog:
    return Catalog(lambda: SavedDataset(Folder(path)), look, clock)


def update(catalog: Catalog) -> float:
    return catalog.update(lambda: False)


def ids(page: Row) -> list[str]:
    return [image["image_id"] for image in page["images"]]


def test_the_first_page_needs_no_index(tmp_path: Path) -> None:
    """Images and their boxes come at once; a filter by class says that it waits."""
    catalog = opened(folder_of(tmp_path / "folder"))
    page = catalog.images(ALL, limit=3)
    assert (page["total"], ids(page)) == (6, [image_id(1), image_id(2), image_id(3)])
    assert [len(image["boxes"]) for image in page["images"]] == [1, 2, 3]
    assert page["classes"] == [[label(1), "Dog"]]
    assert ids(catalog.images(ALL, offset=2**32 - 1)) == []
    waiting = catalog.images(DOGS)
    assert (waiting["total"], waiting["images"], waiting["index"]["ready"]) == (None, [], False)
    assert catalog.images(State(statuses=("failed",)))["total"] == 1
    update(catalog)
    assert (catalog.images(DOGS)["total"], catalog.folder()["index"]["ready"]) == (4, True)
    assert catalog.revision == 2
    catalog.close()


def test_the_first_page_comes_before_a_long_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large tables the index waits for the first page, but not for ever; one that is there is opened at once."""
    monkeypatch.setattr("oid_async.gallery.catalog._LARGE_BYTES", 10)
    now = [1.0]
    for name, wait in (
        ("asked", lambda catalog: catalog.images(ALL)),
        ("late", lambda _: now.__setitem__(0, now[0] + 6)),
    ):
        path = folder_of(tmp_path / name)
        catalog = opened(path, clock=lambda: now[0])
        assert (update(catalog), catalog.folder()["index"]["ready"]) == (0.2, False)
        wait(catalog)
        update(catalog)
        assert catalog.folder()["index"]["ready"]
        catalog.close()
        again = opened(path, clock=lambda: now[0])
        update(again)
        assert again.folder()["index"]["ready"]
        again.close()


def test_boxes_of_a_page_are_clipped_and_the_largest_come_first(tmp_path: Path) -> None:
    """Fractions within 0 to 1, bits of the flags that are 1, at most 60 boxes."""
    path = folder_of(tmp_path / "folder", images=70)
    catalog = opened(path)
    page = catalog.images(ALL, offset=1, limit=64)
    assert page["images"][0]["boxes"] == [[0, 0.0, 0.25, 0.51, 1.0, 1], [0, 0.0, 0.25, 0.5, 1.0, 1]]
    assert max(len(image["boxes"]) for image in page["images"]) == 60
    catalog.close()


def test_the_facts_of_a_folder_are_counted(tmp_path: Path) -> None:
    """Statuses, splits, reasons, and of each class its images and rows by kind once the index is there."""
    catalog = opened(folder_of(tmp_path / "folder"))
    facts = catalog.folder()
    assert facts["images"] == {"selected": 6, "ok": 4, "failed": 1, "pending": 1}
    assert (facts["kinds"], facts["splits"]) == (["bbox", "segmentation"], {"train": 6})
    assert (facts["sources"], facts["reasons"], facts["roles"]) == ({"cvdf": 4}, {"not_found": 1}, {"selected": 6})
    update(catalog)
    assert catalog.folder()["classes"] == [
        {"label": label(1), "class_name": "Dog", "images": 4, "rows": {"bbox": 10}},
        {"label": label(2), "class_name": "Cat", "images": 1, "rows": {"segmentation": 1}},
    ]
    assert catalog.images(ALL)["images"][0]["rows"] == {"bbox": 1, "segmentation": 1}
    catalog.close()


def test_one_image_comes_with_all_that_is_saved_of_it(tmp_path: Path) -> None:
    """Rows under their columns' names, the mask's address, links that are links, names of verified absences."""
    other: dict[str, Any] = {
        "Role": "negative",
        "VerifiedAbsent": [label(1)],
        "AuthorProfileURL": "javascript:alert(1)",
    }
    catalog = opened(folder_of(tmp_path / "folder", **other))
    detail = catalog.image("train", image_id(1))
    (box,), (mask,) = detail["boxes"], detail["masks"]
    assert (box["XMin"], box["IsInside"], box["Category"], "FileName" in box) == (-0.01, -1, "Dog", False)
    assert (mask["url"], mask["BoxID"]) == ("mask/a_m1_00000001.png", "00000001")
    assert detail["links"] == {"landing": GOOD_LINK, "original": "https://farm1.staticflickr.com/1/1_o.jpg"}
    assert (detail["image"]["License"], detail["failure"]) == ("https://creativecommons.org/licenses/by/2.0/", None)
    assert detail["verified_absent"] == [[label(1), label(1)]]
    assert detail["totals"] | {"bbox": 1, "segmentation": 1} == detail["totals"]
    failed = catalog.image("train", image_id(5))
    assert (failed["failure"]["reason"], failed["boxes"]) == ("not_found", [])
    with pytest.raises(NotFoundError):
        catalog.image("test", image_id(1))
    catalog.close()


def test_an_id_in_two_splits_is_two_images(tmp_path: Path) -> None:
    """Boxes go by the file that they name; a narrative, which names none, is of the first image."""
    rows = [manifest_row(1, b"x", (64, 48)), manifest_row(1, b"x", (64, 48), Subset="test", FileName="other.jpg")]
    boxes = [
        {**box_row(1, label(1), "Dog", (0.1, 0.2, 0.1, 0.2)), "FileName": "1_o.jpg"},
        {**box_row(1, label(2), "Cat", (0.3, 0.4, 0.3, 0.4)), "FileName": "other.jpg"},
    ]
    tables: dict[KindName, list[Row]] = {"bbox": boxes, "narrative": [{"image_id": image_id(1), "caption": "a dog"}]}
    catalog = opened(write_folder(tmp_path / "folder", [(row, None) for row in rows], tables))
    update(catalog)
    first, second = catalog.images(ALL)["images"]
    assert (first["split"], first["boxes"][0][1], second["split"], second["boxes"][0][1]) == ("train", 0.1, "test", 0.3)
    assert [image["split"] for image in catalog.images(DOGS)["images"]] == ["train"]
    details = [catalog.image(split, image_id(1)) for split in ("train", "test")]
    assert [[box["Category"] for box in detail["boxes"]] for detail in details] == [["Dog"], ["Cat"]]
    assert [len(detail["narratives"]) for detail in details] == [1, 0]
    assert catalog.saved_image("test", image_id(1)).file_name == "other.jpg"
    catalog.close()


def test_a_damaged_table_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    """One line says which table cannot be read; images, and what other tables hold, are shown."""
    path = folder_of(tmp_path / "folder")
    table = path / "bbox" / "bbox.csv"
    table.write_bytes(b"\0\1\2 no table\n" * 9)
    catalog = opened(path)
    update(catalog)
    page = catalog.images(ALL)
    assert page["total"] == 6
    assert any(str(table) in note for note in page["notes"])
    assert ids(catalog.images(State(classes=("Cat",)))) == [image_id(1)]
    assert len(catalog.image("train", image_id(1))["masks"]) == 1
    catalog.close()


def test_an_edited_table_in_another_order_is_shown_whole(tmp_path: Path) -> None:
    """Rows that were appended at the end belong to their image, before and after the index is made."""
    path = folder_of(tmp_path / "folder")
    table = path / "bbox" / "bbox.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *rows[1:], rows[0]]) + "\n")
    catalog = opened(path)
    for _ in range(2):
        assert [len(image["boxes"]) for image in catalog.images(ALL)["images"]] == [1, 2, 3, 4, 0, 0]
        update(catalog)
    assert catalog.images(DOGS)["total"] == 4
    catalog.close()


def test_the_index_is_made_once_and_again_when_tables_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies under .oid_async/gallery, named after the tables; the one of earlier tables is removed."""
    path, made = folder_of(tmp_path / "folder"), 0
    build = index_build.build_index

    def counted(*args: Any) -> None:
        nonlocal made
        made += 1
        build(*args)

    monkeypatch.setattr("oid_async.gallery.snapshot.build_index", counted)
    for _ in range(2):
        catalog = opened(path)
        update(catalog)
        catalog.close()
    assert made == 1
    with (path / "bbox" / "bbox.csv").open("a", newline="") as file:
        row = next(iter(csv.reader((path / "bbox" / "bbox.csv").read_text().splitlines()[-1:])))
        csv.writer(file, lineterminator="\n").writerow(row)
    catalog = opened(path)
    update(catalog)
    assert catalog.folder()["classes"][0]["rows"] == {"bbox": 11}
    assert len(list((path / ".oid_async" / "gallery").glob("index-*"))) == 1
    catalog.close()


def test_an_index_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """.oid_async is safe to delete, also while somebody looks."""
    path = folder_of(tmp_path / "folder")
    catalog = opened(path)
    update(catalog)
    shutil.rmtree(path / ".oid_async")
    assert catalog.images(DOGS)["total"] is None
    update(catalog)
    assert catalog.images(DOGS)["total"] == 4
    catalog.close()


def test_an_index_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    """It is ours, and nothing is lost with it."""
    path = folder_of(tmp_path / "folder")
    catalog = opened(path)
    update(catalog)
    (part,) = (path / ".oid_async" / "gallery").glob("index-*/bbox-*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    assert catalog.images(DOGS)["total"] is None
    update(catalog)
    assert catalog.images(DOGS)["total"] == 4
    catalog.close()


def test_where_nothing_can_be_written_the_index_is_a_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of somebody else's, or on a disk that is read-only; it goes when the gallery is closed."""
    path = folder_of(tmp_path / "folder")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (path / ".oid_async").write_text("a file is in the way")
    catalog = opened(path)
    update(catalog)
    assert catalog.images(DOGS)["total"] == 4
    assert list((tmp_path / "tmp").iterdir())
    catalog.close()
    assert not list((tmp_path / "tmp").iterdir())


def test_making_the_index_can_be_stopped(tmp_path: Path) -> None:
    """Nothing of it is left, and the next call begins anew."""
    path = folder_of(tmp_path / "folder")
    catalog = opened(path)
    assert catalog.update(lambda: True) == 0.0
    assert list((path / ".oid_async" / "gallery").iterdir()) == []
    update(catalog)
    assert catalog.images(DOGS)["total"] == 4
    catalog.close()


def test_a_folder_that_a_run_fills_is_opened_anew_now_and_then(tmp_path: Path) -> None:
    """Not before it is due, and only if it has changed; the answers change at once, with a new revision."""
    now, seen = [0.0], ["6"]
    folder_of(tmp_path / "6", images=6)
    folder_of(tmp_path / "9", images=9)
    catalog = Catalog(lambda: SavedDataset(Folder(tmp_path / seen[0])), lambda: seen[0], lambda: now[0])
    update(catalog)
    before = catalog.revision
    update(catalog)
    assert catalog.revision == before
    catalog._next_s = 5.0
    seen[0] = "9"
    update(catalog)
    assert (catalog.revision, catalog.folder()["images"]["selected"]) == (before, 6)
    now[0] = 5.0
    update(catalog)
    assert (catalog.revision, catalog.images(DOGS)["total"]) == (before + 1, 7)
    seen[0] = "lost"
    update(catalog)
    assert "cannot be read now" in catalog.folder()["notes"][-1]
    assert catalog.images(DOGS)["total"] == 7
    catalog.close()


def test_another_manifest_in_its_place_is_never_read_with_the_index_of_before(tmp_path: Path) -> None:
    """Another query has replaced the tables: the answers of before stay, and the folder is opened anew at once."""
    now, path = [0.0], folder_of(tmp_path / "folder")
    catalog = opened(path, clock=lambda: now[0])
    update(catalog)
    folder_of(tmp_path / "other", images=9)
    for name in ("manifest.parquet", "bbox/bbox.csv"):
        (tmp_path / "other" / name).replace(path / name)
    assert (catalog.images(DOGS)["total"], catalog.images(State(sort="bytes"))["total"]) == (4, 6)
    assert catalog.image("train", image_id(2))["image"]["FileName"] == "2_o.jpg"
    update(catalog)
    assert catalog.images(DOGS)["total"] == 7
    assert len(list((path / ".oid_async" / "gallery").glob("index-*"))) == 1
    catalog.close()


def test_a_dataset_is_closed_when_nobody_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was replaced stays until the answers that began on it are made."""
    closed: list[int] = []
    monkeypatch.setattr(SavedDataset, "close", lambda self: closed.append(id(self)))
    seen, path = [1], folder_of(tmp_path / "folder")
    catalog = opened(path, lambda: seen[0])
    update(catalog)
    first = id(catalog.dataset)
    is_inside, may_end = threading.Event(), threading.Event()
    shown = SavedDataset.table

    def slow(self: SavedDataset, kind: KindName) -> Any:
        if threading.current_thread() is reader:
            is_inside.set()
            may_end.wait(10)
        return shown(self, kind)

    monkeypatch.setattr(SavedDataset, "table", slow)
    reader = threading.Thread(target=catalog.images, args=(ALL,))
    reader.start()
    is_inside.wait(10)
    seen[0] = 2
    update(catalog)
    assert closed == []
    may_end.set()
    reader.join()
    assert closed == [first]
    catalog.close()


def test_a_manifest_that_is_lost_is_named(tmp_path: Path) -> None:
    """The answers of before stay, with a line that names the file."""
    path = folder_of(tmp_path / "folder")
    catalog = opened(path)
    (path / "manifest.parquet").unlink()
    update(catalog)
    assert catalog.images(ALL)["total"] == 6
    assert "manifest.parquet" in catalog.folder()["notes"][-1]
    catalog.close()


def test_an_image_without_a_split_goes_by_a_dash(tmp_path: Path) -> None:
    """A table of a user's own need not name splits."""
    catalog = opened(folder_of(tmp_path / "folder", Subset=None))
    assert catalog.images(ALL)["images"][0]["split"] == "-"
    assert catalog.image("-", image_id(2))["totals"]["bbox"] == 2
    catalog.close()
