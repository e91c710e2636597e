"""`repeat`: the same set again, from a folder, its query.json or a manifest alone."""

import asyncio
import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.notes import notes_into
from support.published import (
    Box,
    Dataset,
    Image,
    counted_origin,
    image_names,
    publish_lookalike,
    read_csv,
    read_manifest,
    run_cli,
    tiny_jpeg,
    tree,
)

import oid_async
from oid_async.cli import main as cli
from oid_async.errors import InputError, LockedError, OidError, UsageError
from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock

BALL, PERSON = "/m/018xm", "/m/01g317"
IDS = [f"{number:016x}" for number in range(0x10, 0x1C)]
GONE = IDS[3]


def publish(folder: Path) -> Path:
    images = [Image(image_id, f"{image_id}_o.jpg", stored=image_id != GONE) for image_id in IDS]
    boxes = [Box(image_id, PERSON if at % 4 == 1 else BALL) for at, image_id in enumerate(IDS)]
    return Dataset([(BALL, "Ball"), (PERSON, "Person")], images, boxes).publish(folder)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a mirror, and with d, which holds its images but one. Only read it."""
    folder = tmp_path_factory.mktemp("master")
    query: dict[str, Any] = {"mirror": publish(folder / "mirror"), "savepath": folder / "d"}
    report = asyncio.run(oid_async.download(**query, cache_dir=folder / "cache"))
    assert (report.downloaded, report.failed) == (11, 1)
    return folder


@pytest.fixture
def mirror(master: Path, tmp_path: Path) -> Path:
    return shutil.copytree(master / "mirror", tmp_path / "mirror")


@pytest.fixture
def source(master: Path, tmp_path: Path) -> Path:
    return shutil.copytree(master / "d", tmp_path / "d")


def change(mirror: Path, image_id: str, body: bytes = b"") -> None:
    """Publish another picture, a larger one by default."""
    (mirror / IMAGE_BUCKET / "train" / f"{image_id}.jpg").write_bytes(body or tiny_jpeg("another" * 99, 64, 64))


def differing(one: Path, other: Path) -> set[str]:
    """Return the files that are not the same in two folders; query.json names its own folder."""
    trees = tree(one), tree(other)
    return {name for name in trees[0].keys() | trees[1].keys() if trees[0].get(name) != trees[1].get(name)}


def edited(path: Path, **columns: Any) -> Path:
    """Return a copy of a manifest with other columns, as somebody else may have written it."""
    other = path.with_name("other.parquet")
    pl.read_parquet(path).with_columns(**columns).write_parquet(other)
    return other


async def test_a_folder_again_has_the_same_names_bytes_and_rows(source: Path, tmp_path: Path) -> None:
    """Nothing is requested, images are hard links, and the new folder is one of a download: verified, resumed."""
    report = await oid_async.repeat(source, savepath=tmp_path / "new")
    assert (report.selected, report.present, report.failed, report.requests) == (12, 11, 1, 0)
    assert differing(source, tmp_path / "new") == {"query.json"}
    assert all((tmp_path / "new/images" / name).samefile(source / "images" / name) for name in image_names(source))
    assert (await oid_async.verify(savepath=tmp_path / "new")).clean
    stored = json.loads((tmp_path / "new/query.json").read_text())
    assert stored["query"]["savepath"] == str(tmp_path / "new")
    assert oid_async.open(tmp_path / "new").boxes.collect().height == 11


async def test_the_same_query_goes_on_in_the_new_folder(master: Path, tmp_path: Path) -> None:
    """The journal knows what was linked: a download of the query finds all of it there."""
    await oid_async.repeat(master / "d", savepath=tmp_path / "new")
    async with counted_origin(master / "mirror") as (origin, asked):
        report = await oid_async.download(mirror=origin, savepath=tmp_path / "new")
    assert (report.present, report.failed) == (11, 1)
    assert sum(asked[key] for key in asked if "jpg" in key) <= 1
    assert differing(master / "d", tmp_path / "new") <= {"query.json", "manifest.parquet", "failures.csv"}


async def test_an_image_that_changed_at_its_origin_is_named(source: Path, mirror: Path, tmp_path: Path) -> None:
    """Other bytes, however whole, are `checksum`; the rows of that image are left out; --retry-failed asks again."""
    lost, restored = IDS[0], (mirror / IMAGE_BUCKET / "train" / f"{IDS[0]}.jpg").read_bytes()
    (source / "images" / f"{lost}_o.jpg").unlink()
    change(mirror, lost)
    notes: list[str] = []
    given: dict[str, Any] = {"savepath": tmp_path / "new", "mirror": mirror, "on_event": notes_into(notes)}
    report = await oid_async.repeat(source, **given)
    assert (report.present, report.failures) == (10, {"checksum": 1, "not_found": 1})
    assert any(f"{lost} (checksum)" in note for note in notes)
    failed = {row["ImageID"]: row["Reason"] for row in read_csv(tmp_path / "new/failures.csv")}
    assert failed == {lost: "checksum", GONE: "not_found"}
    assert {row["ImageID"] for row in read_csv(tmp_path / "new/bbox/bbox.csv")} == {*IDS} - {lost, GONE}
    assert (await oid_async.verify(savepath=tmp_path / "new")).clean
    again = await oid_async.repeat(source, **given)
    assert (again.failed, again.requests) == (2, 0)
    change(mirror, lost, restored)
    again = await oid_async.repeat(source, retry_failed=True, **given)
    assert (again.downloaded, again.failed) == (1, 1)
    assert (tmp_path / "new/bbox/bbox.csv").read_bytes() == (source / "bbox/bbox.csv").read_bytes()


async def test_an_image_that_had_failed_gets_a_name_beside_one_of_the_same_name(tmp_path: Path) -> None:
    """With --retry-failed an image lands whose own name another image of the set has: it gets its id behind it."""
    there, failed = Image(IDS[0], "same_o.jpg"), Image(IDS[1], "same_o.jpg", stored=False)
    boxes = [Box(image.image_id, BALL) for image in (there, failed)]
    mirror = Dataset([(BALL, "Ball")], [there, failed], boxes).publish(tmp_path / "mirror")
    await oid_async.download(mirror=mirror, savepath=tmp_path / "d")
    change(mirror, failed.image_id)
    report = await oid_async.repeat(tmp_path / "d", savepath=tmp_path / "new", mirror=mirror, retry_failed=True)
    assert (report.present, report.downloaded, report.failed) == (1, 1, 0)
    assert image_names(tmp_path / "new") == ["same_o.jpg", f"same_o_{failed.image_id}.jpg"]


async def test_the_mirror_must_be_named_where_it_is_needed(source: Path, tmp_path: Path) -> None:
    """Copies that came from a mirror are not asked of another place without a word: exit code 2 names the option."""
    (source / "images" / f"{IDS[0]}_o.jpg").unlink()
    with pytest.raises(UsageError, match="--mirror"):
        await oid_async.repeat(source, savepath=tmp_path / "new")


async def test_without_an_md5_the_size_decides(mirror: Path, tmp_path: Path) -> None:
    """A folder of --no-hash: a picture of another size is another one, a larger one too."""
    await oid_async.download(mirror=mirror, savepath=tmp_path / "d", no_hash=True)
    shutil.rmtree(tmp_path / "d/images")
    change(mirror, IDS[1])
    report = await oid_async.repeat(tmp_path / "d", savepath=tmp_path / "new", mirror=mirror)
    assert (report.downloaded, report.failures) == (10, {"checksum": 1, "not_found": 1})


def test_offline_from_a_copied_folder(source: Path, tmp_path: Path) -> None:
    """Typed: a folder on another machine, without its .oid_async, and then with an image less: that one is pending."""
    shutil.rmtree(source / ".oid_async")
    done = run_cli("repeat", source, "--savepath", tmp_path / "new", "--offline", "--max-failures", 1, "--json")
    assert (done.code, json.loads(done.stdout)["present"]) == (0, 11), done.stderr
    assert differing(source, tmp_path / "new") == {"query.json"}
    (source / "images" / f"{IDS[5]}_o.jpg").write_bytes(b"cut")
    done = run_cli("repeat", source, "--savepath", tmp_path / "less", "--offline", "--max-failures", 1)
    assert done.code == 1
    assert "1 image is pending" in done.stderr
    assert read_manifest(tmp_path / "less")[5]["Status"] == "pending"


async def test_a_manifest_alone_brings_images_and_names(master: Path, tmp_path: Path) -> None:
    """Whatever it is called: no rows; the folder can be verified, repeated and, authors and all, repaired."""
    manifest = shutil.copy(master / "d/manifest.parquet", tmp_path / "colleague.parquet")
    async with counted_origin(master / "mirror") as (origin, asked):
        report = await oid_async.repeat(manifest, savepath=tmp_path / "new", mirror=origin)
    assert (report.downloaded, report.failed) == (11, 1)
    assert asked.keys() == {f"{IMAGE_BUCKET}/train/{image_id}.jpg" for image_id in IDS if image_id != GONE}
    columns = ["ImageID", "FileName", "MD5", "Author", "Title"]
    tables = [pl.read_parquet(path / "manifest.parquet").select(columns) for path in (master / "d", tmp_path / "new")]
    assert tables[0].equals(tables[1])
    assert image_names(tmp_path / "new") == image_names(master / "d")
    assert not (tmp_path / "new/bbox").exists()
    assert (await oid_async.verify(savepath=tmp_path / "new")).clean
    second = await oid_async.repeat(tmp_path / "new", savepath=tmp_path / "second", offline=True)
    assert second.present == 11
    (tmp_path / "new/images" / f"{IDS[0]}_o.jpg").unlink()
    assert (await oid_async.verify(savepath=tmp_path / "new", repair=True, mirror=master / "mirror")).repaired == 1
    assert pl.read_parquet(tmp_path / "new/manifest.parquet").select(columns).equals(tables[0])


async def test_its_own_folder_is_completed(source: Path, mirror: Path) -> None:
    """Without --savepath: what is missing or altered comes again under its name, and other rows stay as they are."""
    before = tree(source)
    (source / "images" / f"{IDS[1]}_o.jpg").unlink()
    (source / "images" / f"{IDS[2]}_o.jpg").write_bytes(b"\xff\xd8\xff altered")
    report = await oid_async.repeat(source, mirror=mirror)
    assert (report.present, report.downloaded) == (9, 2)
    after = tree(source)
    for each in (before, after):
        del each["manifest.parquet"], each["query.json"]
    assert after == before
    assert (await oid_async.verify(savepath=source)).clean


async def test_a_damaged_image_is_not_lost_before_it_comes_again(source: Path, mirror: Path) -> None:
    """Where the origin has other bytes now, what was there is kept aside, and its size and MD5 stay in the manifest."""
    damaged = source / "images" / f"{IDS[2]}_o.jpg"
    row = read_manifest(source)[2]
    damaged.write_bytes(b"altered")
    change(mirror, IDS[2])
    report = await oid_async.repeat(source, mirror=mirror)
    assert report.failures == {"checksum": 1, "not_found": 1}
    assert (source / ".oid_async/damaged" / damaged.name).read_bytes() == b"altered"
    failed = read_manifest(source)[2]
    assert [failed[name] for name in ("FileName", "Bytes", "MD5", "Status")] == [
        *(row[name] for name in ("FileName", "Bytes", "MD5")),
        "failed",
    ]


async def test_rows_come_back_with_their_image(source: Path, mirror: Path) -> None:
    """In the folder itself nothing else has the rows of an image that cannot be had for a while."""
    before = (source / "bbox/bbox.csv").read_bytes()
    published = (mirror / IMAGE_BUCKET / "train" / f"{IDS[2]}.jpg").read_bytes()
    (source / "images" / f"{IDS[2]}_o.jpg").unlink()
    change(mirror, IDS[2])
    await oid_async.repeat(source, mirror=mirror)
    assert len(read_csv(source / "bbox/bbox.csv")) == 10
    await oid_async.repeat(source, mirror=mirror)
    change(mirror, IDS[2], published)
    notes: list[str] = []
    report = await oid_async.repeat(source, mirror=mirror, retry_failed=True, on_event=notes_into(notes))
    assert (report.downloaded, (source / "bbox/bbox.csv").read_bytes()) == (1, before)
    assert not any("without rows" in note for note in notes)
    assert not (source / ".oid_async/rows").exists()
    assert (await oid_async.verify(savepath=source)).clean


async def test_a_foreign_file_keeps_its_name(source: Path, tmp_path: Path) -> None:
    """An image whose name is taken gets one with its id, and its rows say so."""
    (tmp_path / "new/images").mkdir(parents=True)
    (tmp_path / "new/images" / f"{IDS[0]}_o.jpg").write_bytes(b"mine")
    await oid_async.repeat(source, savepath=tmp_path / "new")
    assert (tmp_path / "new/images" / f"{IDS[0]}_o.jpg").read_bytes() == b"mine"
    assert read_csv(tmp_path / "new/bbox/bbox.csv")[0]["FileName"] == f"{IDS[0]}_o_{IDS[0]}.jpg"
    again = await oid_async.repeat(source, savepath=tmp_path / "new")
    assert again.present == 11
    assert len(image_names(tmp_path / "new")) == 12


async def test_where_links_are_impossible_images_are_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another file system; a line says so."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    notes: list[str] = []
    await oid_async.repeat(source, savepath=tmp_path / "new", on_event=notes_into(notes))
    assert any("11 images copied" in note for note in notes)
    assert differing(source, tmp_path / "new") == {"query.json"}
    assert os.stat(tmp_path / "new/images" / f"{IDS[0]}_o.jpg").st_nlink == 1


async def test_shards_are_read_too(mirror: Path, tmp_path: Path) -> None:
    """A folder of --no-files holds its images in shards: the new folder has them as files, and must be another one."""
    await oid_async.download(mirror=mirror, savepath=tmp_path / "d", format="webdataset", no_files=True)
    with pytest.raises(UsageError, match=r"in shards, .* name another folder with --savepath"):
        await oid_async.repeat(tmp_path / "d")
    report = await oid_async.repeat(tmp_path / "d", savepath=tmp_path / "new")
    assert (report.present, len(image_names(tmp_path / "new"))) == (11, 11)
    assert (await oid_async.verify(savepath=tmp_path / "new")).clean


async def test_a_query_without_a_manifest_is_asked_anew(source: Path, mirror: Path, tmp_path: Path) -> None:
    """What query.json says to select is taken; the mirror must be named, as for a repair."""
    query = Path(shutil.copy(source / "query.json", tmp_path / "asked.json"))
    with pytest.raises(UsageError, match=r"asked\.json: .* --mirror"):
        await oid_async.repeat(query, savepath=tmp_path / "new")
    stored = oid_async.open(source).query
    stored["query"]["image_url"] = "https://example.org/images.csv?REDACTED"
    (tmp_path / "secret.json").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="--imageURL"):
        await oid_async.repeat(tmp_path / "secret.json", savepath=tmp_path / "new", mirror=mirror)
    report = await oid_async.repeat(query, savepath=tmp_path / "new", mirror=mirror)
    assert (report.downloaded, report.failed) == (11, 1)
    assert differing(source, tmp_path / "new") <= {"query.json", "manifest.parquet", "failures.csv"}


async def test_tables_and_lists_that_are_not_read_are_named(source: Path, tmp_path: Path) -> None:
    """With a manifest nothing is selected: an option that says what to select has no effect."""
    notes: list[str] = []
    await oid_async.repeat(
        source, savepath=tmp_path / "new", image_ids=tmp_path / "ids.txt", on_event=notes_into(notes)
    )
    assert "not read, as the manifest says which images they are: --image-ids" in notes


async def test_all_that_must_be_named_is_said_at_once(source: Path, tmp_path: Path) -> None:
    """A mirror, a host, and a table whose address held a secret: one error has all three options."""
    content = json.loads((source / "query.json").read_text())
    content["query"] |= {"allow_hosts": ["127.0.0.1:9"], "annotation": "http://127.0.0.1:9/boxes.csv?REDACTED"}
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="repeat it with --mirror, --allow-host and --annotation"):
        await oid_async.repeat(tmp_path / "theirs.json", savepath=tmp_path / "new")


async def test_a_query_written_as_json_is_carried_out(mirror: Path, tmp_path: Path) -> None:
    """What `Query.to_json` returns is the query of a query.json."""
    (tmp_path / "mine.json").write_text(oid_async.Query(limit=2).to_json())
    assert (await oid_async.repeat(tmp_path / "mine.json", savepath=tmp_path / "new", mirror=mirror)).selected == 2


async def test_what_an_unfinished_run_has_saved_is_linked(source: Path, mirror: Path, tmp_path: Path) -> None:
    """Without a manifest the query is asked anew, and the images that are there are not fetched."""
    (source / "manifest.parquet").unlink()
    report = await oid_async.repeat(source, savepath=tmp_path / "new", mirror=mirror)
    assert (report.present, report.downloaded, report.failed) == (11, 0, 1)
    assert (tmp_path / "new/images" / f"{IDS[0]}_o.jpg").samefile(source / "images" / f"{IDS[0]}_o.jpg")


@pytest.mark.parametrize(
    "column",
    [
        {"FileName": pl.lit("../../out.jpg")},
        {"FileName": pl.lit("/etc/passwd")},
        {"FileName": pl.lit("one.jpg")},
        {"FileName": pl.when(pl.col("ImageID") == IDS[0]).then(pl.lit(f"{IDS[11]}_O.JPG")).otherwise("FileName")},
        {"Status": pl.lit(None, pl.String)},
        {"Bytes": pl.lit("many")},
        {"Bytes": pl.lit(-1)},
        {"MD5": pl.lit("x")},
        {"Source": pl.lit("file")},
        {"ImageID": pl.lit(IDS[0])},
        {"Subset": pl.lit("../x")},
        {"URL": pl.lit([1])},
    ],
    ids=lambda column: "-".join(column),
)
async def test_a_manifest_that_was_changed_is_refused(source: Path, tmp_path: Path, column: dict[str, Any]) -> None:
    """Exit code 2 and a line with the column, before anything is written."""
    manifest = edited(source / "manifest.parquet", **column)
    with pytest.raises(InputError, match=next(iter(column)) if "ImageID" not in column else "twice"):
        await oid_async.repeat(manifest, savepath=tmp_path / "new")
    assert not (tmp_path / "new").exists()


async def test_a_manifest_may_be_named_by_a_link(source: Path, mirror: Path, tmp_path: Path) -> None:
    """As in the cache of a hub: who types the name of a link means the file."""
    (tmp_path / "link.parquet").symlink_to(source / "manifest.parquet")
    report = await oid_async.repeat(tmp_path / "link.parquet", savepath=tmp_path / "new", mirror=mirror)
    assert (report.downloaded, report.failed) == (11, 1)


@pytest.mark.parametrize("name", ["manifest.parquet", "query.json", "bbox/bbox.csv", "images"])
async def test_what_cannot_be_read_is_named(
    source: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2: a file of somebody else, on a disk that is shared."""
    denied = source / name
    for module, function in ((os, "open"), (os, "stat"), (os, "scandir"), (io, "open")):
        real = getattr(module, function)

        def refuse(path: Any, *args: Any, real: Any = real, **named: Any) -> Any:
            if isinstance(path, str | Path) and Path(path) == denied:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *args, **named)

        monkeypatch.setattr(module, function, refuse)
    given = denied if denied.parent == source and denied.suffix else source
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        await oid_async.repeat(given, savepath=tmp_path / "new")


async def test_a_link_in_place_of_the_failures_is_refused(source: Path, tmp_path: Path) -> None:
    """The folder may be anybody's: what failed is read of a plain file in it alone."""
    (source / "failures.csv").rename(tmp_path / "others.csv")
    (source / "failures.csv").symlink_to(tmp_path / "others.csv")
    shutil.rmtree(source / ".oid_async")
    with pytest.raises(InputError, match=r"failures\.csv: it is a link"):
        await oid_async.repeat(source, savepath=tmp_path / "new")


@pytest.mark.parametrize("kept", [["Role"], ["VerifiedAbsent"]], ids="".join)
async def test_one_of_the_columns_about_negatives_is_enough(source: Path, tmp_path: Path, kept: list[str]) -> None:
    """Somebody may have sent a manifest without the other one: it is repeated, read and exported."""
    columns = {"Role": pl.lit("negative"), "VerifiedAbsent": pl.lit(["/m/0bt9lr"])}
    manifest = edited(source / "manifest.parquet", **{name: columns[name] for name in kept})
    shutil.copy(manifest, tmp_path / "alone.parquet")
    await oid_async.repeat(manifest, savepath=tmp_path / "new")
    images = oid_async.open(tmp_path / "new").images.select("Role", "VerifiedAbsent").collect()
    assert images.row(0) == (("negative", []) if kept == ["Role"] else ("selected", ["/m/0bt9lr"]))
    await oid_async.export(savepath=tmp_path / "new", format="coco")


async def test_rows_that_failed_stay_failed_in_another_folder(source: Path, mirror: Path, tmp_path: Path) -> None:
    """Also those that an earlier repeat could not get for a while: --retry-failed asks for them."""
    failed = {"Status": pl.lit("failed"), "Reason": pl.lit("network")}
    alone = Path(shutil.copy(edited(source / "manifest.parquet", **failed), tmp_path / "alone.parquet"))
    report = await oid_async.repeat(alone, savepath=tmp_path / "new", mirror=mirror)
    assert report.failures == {"network": 12}
    assert (await oid_async.repeat(alone, savepath=tmp_path / "new", mirror=mirror, retry_failed=True)).downloaded == 11


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://127.0.0.1:9/a.jpg", "http://169.254.169.254/a"])
async def test_addresses_of_a_manifest_pass_the_guard(source: Path, tmp_path: Path, url: str) -> None:
    """What is not the bucket's is fetched from the row's URL, which somebody else may have written."""
    manifest = edited(source / "manifest.parquet", Source=pl.lit("original"), URL=pl.lit(url))
    alone = Path(shutil.copy(manifest, tmp_path / "alone.parquet"))
    report = await oid_async.repeat(alone, savepath=tmp_path / "new")
    assert report.failures == {"blocked": 11, "not_found": 1}


async def test_each_image_comes_from_its_own_source(master: Path, tmp_path: Path) -> None:
    """`original` means the row's URL, where the call allows its host; no other source is tried for it."""
    async with counted_origin(master / "mirror") as (origin, asked):
        urls = pl.concat_str(pl.lit(f"{origin}/{IMAGE_BUCKET}/train/"), "ImageID", pl.lit(".jpg"))
        is_odd = pl.col("ImageID").is_in(IDS[:2])
        original = pl.when(is_odd).then(pl.lit("original")).otherwise("Source")
        url = pl.when(ImageID=IDS[0]).then(urls).when(ImageID=IDS[1]).then(pl.lit(f"{origin}/none.jpg"))
        table = pl.read_parquet(master / "d/manifest.parquet").with_columns(Source=original, URL=url.otherwise("URL"))
        table.write_parquet(tmp_path / "mixed.parquet")
        report = await oid_async.repeat(tmp_path / "mixed.parquet", savepath=tmp_path / "new", mirror=origin)
    assert (report.sources, report.failures) == ({"cvdf": 9, "original": 1}, {"not_found": 2})
    assert f"{IMAGE_BUCKET}/train/{IDS[1]}.jpg" not in asked


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "bbox/bbox.csv").write_text("ImageID\n"),
        lambda folder: (folder / "manifest.parquet").write_bytes(b"PAR1 no more"),
        lambda folder: shutil.rmtree(folder),
    ],
    ids=["table", "manifest", "gone"],
)
async def test_what_cannot_be_repeated_is_said_first(
    source: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """A damaged table or manifest, no folder: exit code 2, nothing written."""
    spoil(source)
    with pytest.raises(OidError) as raised:
        await oid_async.repeat(source, savepath=tmp_path / "new")
    assert raised.value.exit_code == 2
    assert not (tmp_path / "new").exists()


async def test_a_run_in_either_folder_keeps_it_out(source: Path, tmp_path: Path) -> None:
    """Exit code 4: the source could change while it is read."""
    for folder in (source, tmp_path / "new"):
        lock = FolderLock.take(Folder(folder))
        try:
            with pytest.raises(LockedError):
                await oid_async.repeat(source, savepath=tmp_path / "new")
        finally:
            lock.release()


def test_the_command_and_the_function_are_one(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Typed: failures within --max-failures end in 0, else in 1; what is no set is exit code 2."""
    assert cli.main(["repeat", str(source), "--savepath", str(tmp_path / "new"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failures"] == {"not_found": 1}
    assert cli.main(["repeat", str(source), "--savepath", str(tmp_path / "new"), "--max-failures", "1"]) == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["repeat", str(tmp_path / "notes.txt")]) == 2
    assert "notes.txt: neither a folder of a download" in capsys.readouterr().err
    assert cli.main(["repeat", str(source), "--savepath", "s3://bucket/set"]) == 2
    assert "repeat takes a folder" in capsys.readouterr().err


async def test_masks_come_along(tmp_path: Path) -> None:
    """Those that are whole are linked, others fetched; without their record they are known by their form."""
    mirror = publish_lookalike(tmp_path / "mirror")
    query: dict[str, Any] = {"splits": ["validation"], "kinds": ["segmentation", "narrative"], "limit": 12}
    source = tmp_path / "d"
    downloaded = await oid_async.download(mirror=mirror, savepath=source, **query)
    report = await oid_async.repeat(source, savepath=tmp_path / "new")
    assert (report.masks["present"], report.masks["failed"]) == (downloaded.masks["downloaded"], 0)
    assert differing(source, tmp_path / "new") == {"query.json"}
    masks = sorted((source / "segmentation/masks").iterdir())
    assert (tmp_path / "new/segmentation/masks" / masks[0].name).samefile(masks[0])
    shutil.rmtree(tmp_path / "new/segmentation/masks")
    with pytest.raises(UsageError, match="--mirror"):
        await oid_async.repeat(tmp_path / "new", savepath=tmp_path / "third")
    report = await oid_async.repeat(tmp_path / "new", savepath=tmp_path / "third", mirror=mirror)
    assert report.masks["downloaded"] == downloaded.masks["downloaded"]
    assert differing(source, tmp_path / "third") == {"query.json"}
    shutil.rmtree(source / ".oid_async")
    masks[0].unlink()
    masks[1].write_bytes(masks[1].read_bytes()[:40])
    report = await oid_async.repeat(source, savepath=tmp_path / "again", mirror=mirror)
    assert (report.masks["downloaded"], report.masks["failed"]) == (2, 0)
    assert (await oid_async.verify(savepath=tmp_path / "again")).clean
