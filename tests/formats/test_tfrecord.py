"""TFRecord shards, read back by a few lines of Python: framing, checksums, and every value of the saved tables."""

import hashlib
import io
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.odd_folder import ODD_NAMES, TITLE, odd_folder, table_boxes
from support.published import read_csv, read_manifest
from support.saved import SavedBox, SavedFolder, SavedImage, rectangle

import oid_async
from oid_async.formats.crc32c import crc32c
from oid_async.formats.tf_example import example, floats, integers, texts

ONE = "0000048549557964"


def plain_crc(data: bytes) -> int:
    """Return the CRC-32C bit by bit, as RFC 3720 has it."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [0, 1, 8, 127, 128, 131, 16_385, 33_003])
def test_crc_of_any_length(size: int) -> None:
    """By rows of words it is that by bits."""
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == plain_crc(data)


def test_crc_of_the_rfc() -> None:
    """The values of RFC 3720, B.4."""
    found = [crc32c(bytes(32)), crc32c(b"\xff" * 32), crc32c(bytes(range(32))), crc32c(bytes(range(31, -1, -1)))]
    assert found == [0x8A9136AA, 0x62A8AB43, 0x46DD794E, 0x113FDB5C]


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("*.tfrecord"))


def records(path: Path) -> list[bytes]:
    """Return the records of a file, whose lengths have the right checksum."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (length, crc) = struct.unpack_from("<QI", data, at)
        assert crc == masked(data[at : at + 8])
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length) == (masked(body),)
        found.append(body)
        at += length + 16
    assert at == len(data)
    return found


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data: bytes) -> list[tuple[int, bytes]]:
    """Return the fields of a message of fields with a length."""
    at, found = 0, []
    while at < len(data):
        tag, at = varint(data, at)
        assert tag & 7 == 2
        length, at = varint(data, at)
        found.append((tag >> 3, data[at : at + length]))
        at += length
    return found


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at


def features(body: bytes) -> dict[str, list[Any]]:
    """Return the values of an example by their keys."""
    found: dict[str, list[Any]] = {}
    for _, entry in fields(dict(fields(body))[1]):
        parts = dict(fields(entry))
        ((kind, values),) = fields(parts[2])
        lists = [value for _, value in fields(values)]
        if kind == 1:
            found[parts[1].decode()] = lists
        elif kind == 2:
            found[parts[1].decode()] = list(np.frombuffer(b"".join(lists), "<f4"))
        else:
            at, numbers, packed = 0, [], b"".join(lists)
            while at < len(packed):
                number, at = varint(packed, at)
                numbers.append(number - (1 << 64) if number >> 63 else number)
            found[parts[1].decode()] = numbers
    return found


def test_examples_hold_any_value() -> None:
    """Empty lists, bytes that are no text, long strings, negative numbers, in the order of the keys."""
    given = {
        "b": texts([b"\xff", "é", b"x" * 300]),
        "a": integers([-1, 0, 1 << 40]),
        "d": texts([]),
        "c": floats([0.1]),
    }
    found = features(example(given))
    assert list(found) == ["a", "b", "c", "d"]
    assert found["a"] == [-1, 0, 1 << 40]
    assert found["b"] == [b"\xff", "é".encode(), b"x" * 300]
    assert found["c"] == [np.float32(0.1)]
    assert found["d"] == []


async def test_tfrecord_has_what_the_tables_say(tmp_path: Path) -> None:
    """Boxes to 32 bits, classes as the label map numbers them, flags, masks, labels, points, who to credit."""
    saved = odd_folder(tmp_path / "odd")
    report = await oid_async.export(savepath=saved, format="tfrecord", out=tmp_path / "t")
    out = Path(report.out)
    label_map = (out / "label_map.pbtxt").read_text()
    assert label_map.count("item {") == len(ODD_NAMES)
    assert r'name: "Caf\303\251 \360\237\220\266 \303\261"' in label_map
    wanted, seen = table_boxes(saved), Counter[str]()
    manifest = {row["FileName"]: row for row in read_manifest(saved)}
    for path in shards(out):
        split = path.name.partition("-")[0]
        assert path.name == f"{split}-00000-of-00001.tfrecord"
        for found in map(features, records(path)):
            name = found["image/filename"][0].decode()
            row = manifest.pop(name)
            assert (row["Subset"] or "train") == split == found["image/split"][0].decode()
            body = (saved / "images" / name).read_bytes()
            assert found["image/encoded"] == [body]
            assert found["image/key/sha256"] == [hashlib.sha256(body).hexdigest().encode()]
            assert (found["image/width"], found["image/height"]) == ([row["Width"]], [row["Height"]])
            assert found["image/title"] == [TITLE.encode()]
            assert found["image/license"] == [row["License"].encode()]
            boxes = list(
                zip(
                    found["image/object/class/text"],
                    *(found[f"image/object/bbox/{side}"] for side in ("xmin", "ymin", "xmax", "ymax")),
                    strict=True,
                )
            )
            has_box = found["image/object/has_box"]
            assert [box for box, there in zip(boxes, has_box, strict=True) if there] == [
                (box[0].encode(), *(np.float32(value) for value in box[1:])) for box in wanted.get(name, [])
            ]
            numbers = [list(ODD_NAMES.values()).index(text.decode()) for text in found["image/object/class/text"]]
            assert len(set(zip(numbers, found["image/object/class/label"], strict=True))) == len(set(numbers))
            assert set(found["image/object/group_of"]) <= {0, 1}
            assert set(found["image/object/occluded"]) <= {-1, 0, 1}
            for png, there in zip(found["image/object/mask"], found["image/object/has_mask"], strict=True):
                with Image.open(io.BytesIO(png)) as mask:
                    assert mask.size == (row["Width"], row["Height"])
                    seen["masks"] += there
                    assert there or mask.getextrema() == (0, 0)
            seen["labels"] += len(found["image/class/text"])
            seen["points"] += len(found["image/point/x"])
    assert not manifest
    assert seen == {
        "masks": report.annotations["segmentation"],
        "labels": len(read_csv(saved / "label" / "labels.csv")),
        "points": len(read_csv(saved / "point" / "points.csv")),
    }


async def test_shards_of_tfrecord_know_their_number(tmp_path: Path) -> None:
    """Each shard but one of a single record is within --shard-size; names count them; options are heard."""
    images = [SavedImage(f"{number:016x}", name=f"{number}.jpg") for number in range(9)]
    boxes = [SavedBox(image.image_id, flags=("0", "0", "1", "0", "-1")) for image in images]
    masks = [(boxes[0], rectangle(64, 48, (16, 12, 48, 36)))]
    saved = SavedFolder(images, boxes, masks).write(tmp_path / "d")
    options: dict[str, Any] = {"format": "tfrecord", "shard_size": 5000, "max_side": 32, "no_files": True}
    out = Path((await oid_async.export(savepath=saved, **options)).out)
    names = [path.name for path in shards(out)]
    total = len(names)
    assert total > 1
    assert names == [f"train-{number:05}-of-{total:05}.tfrecord" for number in range(total)]
    assert max((out / name).stat().st_size for name in names) <= 5000
    found = [features(each) for name in names for each in records(out / name)]
    assert [each["image/source_id"][0].decode() for each in found] == [image.image_id for image in images]
    assert {(*each["image/width"], *each["image/object/is_crowd"], *each["image/object/inside"]) for each in found} == {
        (32, 1, -1)
    }
    with Image.open(io.BytesIO(found[0]["image/object/mask"][0])) as mask:
        assert (mask.size, mask.convert("L").histogram()[255]) == ((32, 24), 16 * 12)
    dropped = await oid_async.export(savepath=saved, format="tfrecord", group_boxes="drop", no_masks=True)
    (path,) = shards(Path(dropped.out))
    assert path.name == "train-00000-of-00001.tfrecord"
    assert {key for each in map(features, records(path)) for key in each if each["image/object/class/text"]} == set()


async def test_labels_of_images_have_the_numbers_of_the_label_map(tmp_path: Path) -> None:
    """By MID: a class that counts as another one has the number of that one, others have 0."""
    saved = SavedFolder([SavedImage(ONE)], [SavedBox(ONE, "/m/0bt9lr"), SavedBox(ONE)]).write(tmp_path / "d")
    (saved / "label").mkdir()
    rows = "".join(f"{ONE},{mid},1,{name}\n" for mid, name in (("/m/0bt9lr", "Dog"), ("/m/1", "Being")))
    (saved / "label" / "labels.csv").write_text(f"ImageID,LabelName,Confidence,Category\n{rows}")
    (tmp_path / "map").write_text("Person\nDog,Being\n")
    report = await oid_async.export(savepath=saved, format="tfrecord", class_map=tmp_path / "map")
    (found,) = map(features, records(shards(Path(report.out))[0]))
    assert found["image/class/text"] == [b"Dog", b"Being"]
    assert found["image/class/label"] == [2, 0]
