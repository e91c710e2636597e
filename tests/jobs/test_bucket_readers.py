"""A bucket of SeaweedFS, read as users do: `open`, `verify`, `export`; what is wrong with it is one line."""

import asyncio
import hashlib
from pathlib import Path

import polars as pl
import pytest
from support.places import look_alike_files, make_place, upload
from support.published import typed
from support.seaweed import Seaweed

import oid_async
from oid_async.errors import InputError, UsageError
from oid_async.objects.store import Objects
from oid_async.options.places import Bucket

pytestmark = pytest.mark.cluster
FRAMES = ("boxes", "masks", "relationships", "narratives", "labels", "points")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some images of the demo, of every split, with all kinds of annotations, as files."""
    return asyncio.run(look_alike_files(tmp_path_factory.mktemp("bucket")))


@pytest.fixture(scope="module", params=["webdataset", "parquet"])
def place(request: pytest.FixtureRequest, files: Path) -> Path:
    """The same as a place of shards."""
    return asyncio.run(make_place(files, files.with_name(request.param), request.param))


def verified(objects: Objects, *, deep: bool = False) -> list[tuple[str, str]]:
    """Return kind and key of what a verification finds."""
    found = asyncio.run(oid_async.verify(savepath=str(objects.place), deep=deep))
    assert found.checked == 40
    return sorted((each.kind, each.path) for each in found.findings())


def test_a_bucket_reads_as_files(files: Path, place: Path, bucket: Bucket) -> None:
    """Frames, bytes of images, counts and query; nothing is left on this disk."""
    upload(place, bucket)
    other = oid_async.open(files)
    with oid_async.open(str(bucket)) as saved:
        assert saved.savepath == bucket
        folder = saved.folder.path
        for name in FRAMES:
            assert getattr(saved, name).collect().equals(getattr(other, name).collect())
        assert saved.images.collect().drop("Shard", "ShardOffset").equals(other.images.collect())
        for image_id in other.images.filter(Status="ok").collect().get_column("ImageID"):
            assert saved.image(image_id) == other.image(image_id)
        assert (saved.report.present, saved.report.savepath) == (40, str(bucket))
        assert saved.query["query"] == other.query["query"]
        assert repr(saved) == f"SavedDataset({str(bucket)!r})"
    assert not folder.exists()


def test_damage_in_a_bucket_is_found(place: Path, bucket: Bucket) -> None:
    """Sizes and ETags show it; what has the size and no ETag to compare is found by reading."""
    objects = upload(place, bucket)
    assert verified(objects) == verified(objects, deep=True) == []
    shards = sorted(info.key for info in objects.list("shards"))
    first, second, third = shards[:3]
    body = objects.get(second)
    objects.delete([first])
    objects.put(second, body[:-7] + b"changed")
    objects.put(third, objects.get(third)[:-1])
    objects.put("shards/none-of-ours", b"x")
    found = [("altered", second), ("extra", "shards/none-of-ours"), ("missing", first), ("truncated", third)]
    assert verified(objects) == sorted(found)
    assert [each for each in verified(objects, deep=True) if each[1] != "manifest.parquet"] == sorted(found)
    with oid_async.open(str(bucket)) as saved:
        lost = saved.images.filter(Shard=first).collect().item(0, "ImageID")
        with pytest.raises(InputError, match=f"{first}: it is not there") as caught:
            saved.image(lost)
        assert "\n" not in str(caught.value)
        cut = saved.images.filter(pl.col("Shard") == third).collect()
        assert len(cut) > 0


def test_a_shard_that_was_cut_is_one_line(files: Path, bucket: Bucket, tmp_path: Path) -> None:
    """The range behind its end is no image, and no error of the library's."""
    objects = upload(asyncio.run(make_place(files, tmp_path / "place")), bucket)
    with oid_async.open(str(bucket)) as saved:
        row = saved.images.filter(Status="ok").sort("ShardOffset").tail(1).collect()
        shard, offset, image_id = row.select("Shard", "ShardOffset", "ImageID").row(0)
        body = objects.get(shard)
        for size in (offset + 100, offset - 2000):
            objects.put(shard, body[:size])
            with pytest.raises(InputError, match="it was cut"):
                saved.image(image_id)


def test_an_export_of_a_bucket_is_that_of_files(files: Path, place: Path, bucket: Bucket, tmp_path: Path) -> None:
    """The same files; its folder has to be named."""
    upload(place, bucket)
    with pytest.raises(UsageError, match="name the folder that the export goes to with --out"):
        asyncio.run(oid_async.export(savepath=str(bucket), format="coco"))
    for format in ("coco", "yolo", "webdataset"):
        made: list[dict[str, str]] = []
        for source in (files, bucket):
            out = tmp_path / format / ("files" if source is files else "bucket")
            report = asyncio.run(oid_async.export(savepath=str(source), format=format, out=out))
            assert (report.images, report.savepath) == (40, str(source))
            found = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".oid_async"))
            made.append({str(path.relative_to(out)): hashlib.md5(path.read_bytes()).hexdigest() for path in found})
        assert made[0] == made[1]


def test_commands_read_a_bucket_and_name_what_is_wrong(
    files: Path, bucket: Bucket, s3_server: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit codes and one line each: whole, damaged, not ended, not ours, no bucket, a folder's command, --repair."""
    objects = upload(asyncio.run(make_place(files, tmp_path / "place")), bucket)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    there = ("--endpoint-url", s3_server.url)

    def said(*args: str) -> tuple[int, str]:
        ended = typed(*args)
        assert "Traceback" not in ended.stderr
        assert "Debug" not in ended.stderr
        return ended.code, ended.stderr

    assert said("verify", str(bucket), *there)[0] == 0
    objects.delete([next(objects.list("shards")).key])
    code, text = said("verify", str(bucket), *there)
    assert code == 1
    assert "1 missing" in text
    assert "run the same download again, which makes the parts of these records anew" in text
    assert "--repair mends a folder of files" in said("verify", str(bucket), *there, "--repair")[1]
    objects.delete(["manifest.parquet", ".oid_async/finished.json"])
    for args in (("verify", str(bucket)), ("export", str(bucket), "--format", "coco", "--out", str(tmp_path / "x"))):
        code, text = said(*args, *there)
        assert code == 2
        assert "has not come to its end" in text
        assert text.count("\n") == 1
    code, text = said("verify", f"s3://{bucket.name}/elsewhere", *there)
    assert (code, "no download has filled it" in text) == (2, True)
    code, text = said("verify", "s3://no-such-bucket/x", *there)
    assert (code, "no-such-bucket" in text, text.count("\n")) == (2, True, 1)
    for command in ("view", "stats", "prune", "repeat"):
        code, text = said(command, str(bucket))
        assert (code, text.count("\n")) == (2, 1)
