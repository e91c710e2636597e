"""The messages between a run and its workers: what one side packs the other one unpacks, a line each."""

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oid_async.http.retry import FetchError, Limits
from oid_async.report import Outcome
from oid_async.store.image_check import Expected
from oid_async.store.journal_line import line_of
from oid_async.transfer.image_transfer import Target
from oid_async.workers.messages import (
    LINE_BYTES,
    Results,
    UnsentResults,
    WorkerSettings,
    encode,
    pack_error,
    pack_target,
    read_line,
    unpack_error,
    unpack_target,
)

ODD = [
    "0000048549557964",
    "",
    "a\nb",
    'tab\tquote"back\\slash',
    "\u2028\x00\x1f",
    "Ünïcödé \U0001f600",
    "lone \udc80 surrogate",
    "x" * 5000,
]
SETTINGS = WorkerSettings(
    savepath="/data/süd",
    tmp="/data/süd/.oid_async/tmp",
    token="0a1b2c3d",
    sources=("cvdf", "original"),
    mirror=None,
    recorded_mirror="lookalike",
    allowed=(("127.0.0.1", 8080), ("::1", 443)),
    limits=Limits(retries=7, rate_bytes_s=None, backoff_s=0.25),
    rate=None,
    period=1.0,
    max_transfers=16,
    estimates_concurrency=True,
    floor=2.5,
    hashed=False,
)


async def through_a_socket(*lines: bytes, limit: int = LINE_BYTES) -> list[bytes]:
    """Return the lines that the other side reads until the stream ends."""
    reader = asyncio.StreamReader(limit=limit)
    for line in lines:
        reader.feed_data(line)
    reader.feed_eof()
    read = []
    while line := await read_line(reader):
        read.append(line)
    return read


def content(line: bytes) -> list[Any]:
    message: list[Any] = json.loads(line)
    return message


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, mirror="http://127.0.0.1:9/", rate=2.5, allowed=(), sources=("thumbnail",), hashed=True),
    ],
)
async def test_settings_arrive_as_they_were(settings: WorkerSettings) -> None:
    """All fields come back equal, tuples and limits included, as one line."""
    [line] = await through_a_socket(settings.encode())
    assert WorkerSettings.decode(line) == settings


@pytest.mark.parametrize("image_id", ODD, ids=range(len(ODD)))
async def test_images_arrive_as_they_were_but_for_their_place(image_id: str) -> None:
    """A target with whatever id comes back equal; only its place in the plan stays with the run."""
    bare = Target(5, image_id, f"{image_id}.jpg", None, None, Expected(), None, None)
    full = Target(1 << 47, image_id, "a.jpg", "train", "http://x/é", Expected(9, "bWQ1"), "u", "cvdf:not_found", 12)
    saved = replace(bare, original=Expected(None, "bWQ1", 7), sources=("original", "cvdf"))
    [line] = await through_a_socket(encode("images", [pack_target(each) for each in (bare, full, saved)]))
    kind, fields = content(line)
    assert kind == "images"
    assert [unpack_target(each) for each in fields] == [replace(each, place=0) for each in (bare, full, saved)]


@pytest.mark.parametrize("image_id", ODD, ids=range(len(ODD)))
async def test_results_arrive_as_they_were_in_the_folder_of_the_run(image_id: str) -> None:
    """Stored and failed outcomes come back equal; a file is sent by its name and found under the run's images.

    Of copies of the bucket the lines arrive, from which their outcomes are made; of other sources, or without a line,
    the outcomes.
    """
    images = Path("/data/out/images")
    stored = Outcome(
        image_id,
        "downloaded",
        str(images / "b.jpg"),
        None,
        None,
        "cvdf",
        "http://x/b.jpg",
        10,
        "bWQ1",
        4,
        3,
        2,
        "train",
    )
    unhashed = replace(stored, md5=None, subset=None)
    original = replace(stored, source="original", url=f"http://x/{image_id}")
    failed = Outcome(image_id, "failed", None, "not_found", "cvdf:not_found", "cvdf", None, attempts=3)
    unsent, elsewhere = UnsentResults(), "/other/mount/images/b.jpg"
    for outcome in (stored, failed, original, unhashed):
        there = replace(outcome, file=elsewhere) if outcome.file is not None else outcome
        unsent.add(there, line_of(there) if outcome.file is not None else None)
    unsent.add(replace(stored, file=elsewhere), None)
    assert len(unsent) == 5
    [line] = await through_a_socket(encode("results", 17, *unsent.pack()))
    kind, requests, packed, others = content(line)
    results = Results.unpack(packed, others, images)
    copies = results.copies
    assert (kind, requests, copies.image_ids, copies.size) == ("results", 17, [image_id] * 2, 20)
    assert copies.lines == line_of(stored) + line_of(unhashed)
    assert copies.outcomes() == (stored, unhashed)
    assert results.outcomes == [failed, original, stored]


@pytest.mark.parametrize(
    "error",
    [
        FetchError("not_found", "HTTP 404"),
        FetchError("rate_limited", "HTTP 429", retry_after_s=2.5),
        FetchError("network", "no such name\u2028", hopeless=True, unsent=True),
    ],
)
@pytest.mark.parametrize("unknown_name", [False, True])
async def test_errors_arrive_with_all_that_changes_a_host(error: FetchError, unknown_name: bool) -> None:
    """Kind, text, Retry-After and the three marks of an error come back equal."""
    error.unknown_name = unknown_name
    message = encode("trouble", "a.example", "asked_to_wait", pack_error(error), ("a.example", 80), 12.5, False, True)
    [line] = await through_a_socket(message)
    kind, name, method, packed, asked, began, silent, has_answered = content(line)
    assert (kind, name, method, asked, began, silent, has_answered) == (
        "trouble", "a.example", "asked_to_wait", ["a.example", 80], 12.5, False, True
    )  # fmt: skip
    same = unpack_error(packed)
    assert type(same) is FetchError
    for field in ("kind", "retry_after_s", "hopeless", "unsent", "unknown_name"):
        assert getattr(same, field) == getattr(error, field)
    assert str(same) == str(error)


@pytest.mark.parametrize(
    "message",
    [
        ["ready"],
        ["host", "a.example", math.inf, None, ["network", "gone"]],
        ["returned", 3, "\udc80\n", "1 cvdf:not_found", 1, {"timeout": 1}, [10, '"etag"', None], 0.5],
        ["note", "two\nlines \u2028 and more"],
        ["stopped", "storage", "no space left on device"],
    ],
    ids=lambda message: str(message[0]),
)
async def test_every_other_message_is_one_line(message: list[Any]) -> None:
    """Whatever a text holds, a message is one line and comes back equal; messages come back in order."""
    lines = await through_a_socket(encode(*message), encode("ready"))
    assert [content(line) for line in lines] == [message, ["ready"]]


async def test_a_line_that_was_cut_is_no_message() -> None:
    """When the other side dies in the middle of a line, its complete lines are read and the rest is not."""
    assert await through_a_socket(encode("ready"), encode("note", "half")[:-3]) == [encode("ready")]
    assert await through_a_socket() == []


async def test_a_connection_that_breaks_is_the_end_of_the_stream() -> None:
    """A reset while a line is waited for reads as an end."""
    reader = asyncio.StreamReader()
    reader.set_exception(ConnectionResetError())
    assert await read_line(reader) == b""


async def test_no_message_is_longer_than_a_line_may_be() -> None:
    """The largest portions that are sent, 64 outcomes or 32 images with URLs of 8 KB in escapes, fit many times."""
    url = "\u2028" * 8000
    target = Target(0, "\u2028" * 500, "\u2028" * 255, "train", url, Expected(1, "x" * 24), url, "x" * 100, 1)
    outcome = Outcome("\u2028" * 500, "downloaded", "\u2028" * 255, "x" * 20, "x" * 100, "cvdf", url, 1, "x" * 24)
    copies, others = UnsentResults(), UnsentResults()
    for _ in range(64):
        copies.add(outcome, line_of(outcome))
        others.add(outcome, None)
    lines = [encode("results", 1, *each.pack()) for each in (copies, others)]
    lines.append(encode("images", [pack_target(target)] * 32))
    assert all(len(line) < LINE_BYTES / 4 for line in lines)
    assert await through_a_socket(*lines) == lines
    with pytest.raises(ValueError, match="limit"):
        await through_a_socket(encode("note", "x" * 200), limit=100)
