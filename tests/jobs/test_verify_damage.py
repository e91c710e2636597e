"""Random damage to every file of a folder: `verify` finds each, `--repair` brings the bytes back.

The slow test has a thousand damages; by hand: pytest -m slow tests/jobs/test_verify_damage.py
"""

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import oid_async

# What says nothing of what was saved: the note of the lock, and notes that any run writes anew.
_NO_CONTENT = tuple(
    f".oid_async/{name}" for name in ("lock", "site.json", "masks.json", "lists.json", "places.json", "places.stamp")
)
_INTERNAL = ".oid_async/"


@pytest.fixture(scope="module")
def master(lookalike: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with files of every kind. Only read it."""
    folder = tmp_path_factory.mktemp("damage")
    savepath = folder / "d"

    async def fill() -> None:
        query = {"mirror": lookalike, "cache_dir": folder / "cache", "splits": ["validation"]}
        await oid_async.download(**query, savepath=folder / "all", kinds=["none"])  # type: ignore[arg-type]
        ids = oid_async.open(folder / "all").images.collect().get_column("ImageID").to_list()
        lists = {"image_ids": [*ids[:12], "0123456789abcdef"], "exclude_ids": ids[3:4]}
        more = {"kinds": ["all"], "traces": True, "voice": True, "savepath": savepath}
        await oid_async.download(**query, **lists, **more)  # type: ignore[arg-type]

    asyncio.run(fill())
    shutil.copytree(savepath, folder / "whole")
    return savepath


def content(savepath: Path) -> dict[str, bytes]:
    """Return every file of a folder that holds something of what was saved, by its path."""
    files = {str(path.relative_to(savepath)): path for path in savepath.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if name not in _NO_CONTENT}


def _truncate(body: bytes, chance: random.Random) -> bytes:
    return body[: chance.randrange(len(body))]


def _flip(body: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(body))
    return body[:at] + bytes([body[at] ^ chance.randrange(1, 256)]) + body[at + 1 :]


def _zero(body: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(body))
    return body[:at] + bytes(len(body) - at)


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_truncate, _flip, _zero)


def damage(savepath: Path, name: str, body: bytes, chance: random.Random) -> str:
    """Damage one file, or remove it; return what was done."""
    if chance.random() < 0.1:
        (savepath / name).unlink()
        return "removed"
    make = chance.choice(_DAMAGES)
    damaged = make(body, chance)
    if damaged == body:
        damaged, make = _flip(body, chance), _flip
    (savepath / name).write_bytes(damaged)
    return make.__name__


async def hurt_and_mend(savepath: Path, mirror: Path, seed: int, count: int) -> None:
    """Damage so many files at once; each is found, and a repair makes the folder what it was."""
    chance = random.Random(seed)
    shutil.rmtree(savepath)
    shutil.copytree(savepath.with_name("whole"), savepath)
    before = content(savepath)
    names = chance.sample([name for name, body in before.items() if body], count)
    if count > 1:
        # Without the record of files what it lists is unchecked, and what is missing is not known: alone it is mended.
        names = [name for name in names if not name.startswith(f"{_INTERNAL}files.")]
        # A list and its copy: nothing would say what was in it.
        names = [name for name in names if name.replace(f"{_INTERNAL}kept/", "") not in names or "kept/" not in name]
    done = {name: damage(savepath, name, before[name], chance) for name in names}
    found = await oid_async.verify(savepath=savepath)
    named = {finding.path for finding in found.findings()}
    # The record and the sum of it are one thing.
    named |= {f"{_INTERNAL}files.md5"} if f"{_INTERNAL}files.parquet" in named else set()
    missed = done.keys() - named
    assert not missed, (seed, done)
    cache = savepath.parent / "cache"
    mended = await oid_async.verify(savepath=savepath, mirror=mirror, cache_dir=cache, repair=True)
    assert mended.clean, (seed, done, list(mended.findings()))
    after = content(savepath)
    wrong = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    assert not [name for name in wrong if not name.startswith(_INTERNAL)], (seed, done, wrong)


@pytest.mark.parametrize("seed", range(5))
async def test_damage_is_found_and_mended(master: Path, lookalike: Path, seed: int) -> None:
    """Single files, some, and many at once."""
    for number in range(2):
        await hurt_and_mend(master, lookalike, 2 * seed + number, (1, 2, 4, 8)[seed % 4])


@pytest.mark.slow
def test_a_thousand_damages_are_found_and_mended(master: Path, lookalike: Path) -> None:
    """Over all files of the folder."""
    done = seed = 0
    while done < 1000:
        count = random.Random(seed).choice((1, 1, 1, 2, 4, 8, 16))
        asyncio.run(hurt_and_mend(master, lookalike, 1000 + seed, count))
        done, seed = done + count, seed + 1
