"""Small bodies: bounded, complete or an error, retried by the policy with full jitter. Loopback only, no real waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from support.scripted import Answer, Scripted, http

from oid_async.http.client import Client, Response
from oid_async.http.hosts import Hosts
from oid_async.http.retry import FetchError, Limits, with_retries
from oid_async.http.small_get import SmallBody, small_get

LIMITS = Limits(retries=3, backoff_s=1.0)


@dataclass
class Sleeper:
    """Sleeps no time and notes how long it would have been."""

    waits: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


@dataclass
class Setting:
    """A client of a server with a script for /x, and the waits between its attempts."""

    client: Client
    server: Scripted
    sleeper: Sleeper

    @property
    def url(self) -> str:
        return f"{self.server.url}/x"


@asynccontextmanager
async def serving(*script: Answer) -> AsyncIterator[Setting]:
    sleeper = Sleeper()
    async with (
        Scripted({"/x": list(script)}) as server,
        Client(Hosts(None, 1.0, sleep=sleeper), LIMITS, connections=2, allowed=[("127.0.0.1", server.port)]) as client,
    ):
        yield Setting(client, server, sleeper)


async def complete(body: SmallBody) -> SmallBody:
    return body


async def test_a_small_body_comes_with_its_status_and_headers() -> None:
    """The body as sent, and the headers that a caller needs: ETag and Content-Range."""
    async with serving(http(206, b"abc", ETag='"e"', Content_Range="bytes 4-6/9")) as setting:
        got = await small_get(setting.client, setting.url, complete, max_bytes=3, headers={"Range": "bytes=4-6"})
        assert (bytes(got.data), got.status) == (b"abc", 206)
        assert (got.headers["ETag"], got.headers["Content-Range"]) == ('"e"', "bytes 4-6/9")
        assert "Range: bytes=4-6" in setting.server.heads["/x"]
        assert setting.sleeper.waits == []


@pytest.mark.parametrize("passing", [http(500), http(200, b"ab", 5), http(408)])
async def test_a_failure_that_passes_is_retried_after_a_random_wait(passing: bytes) -> None:
    """Full jitter: a wait is the drawn share of 1, 2, 4 s."""
    draws = iter([0.25, 0.5, 0.0])
    async with serving(passing, passing, passing, http(200, b"whole")) as setting:
        got = await small_get(setting.client, setting.url, complete, max_bytes=10, jitter=lambda: next(draws))
        assert bytes(got.data) == b"whole"
        assert setting.sleeper.waits == [0.25, 1.0, 0.0]


async def test_a_failure_that_stays_is_raised_after_the_last_retry() -> None:
    """As many attempts as the limits allow, then the error of the last one."""
    async with serving(http(500)) as setting:
        with pytest.raises(FetchError, match="HTTP 500") as caught:
            await small_get(setting.client, setting.url, complete, max_bytes=10)
        assert caught.value.kind == "server_error"
        assert setting.server.requests["/x"] == 1 + LIMITS.retries
        assert all(0.0 <= wait <= 4.0 for wait in setting.sleeper.waits)


async def test_a_final_failure_costs_one_request() -> None:
    """A 404 is not asked for again."""
    async with serving(http(404)) as setting:
        with pytest.raises(FetchError, match="HTTP 404"):
            await small_get(setting.client, setting.url, complete, max_bytes=10)
        assert setting.server.requests["/x"] == 1


@pytest.mark.parametrize("length", [-1, None])
async def test_a_body_is_bounded(length: int | None) -> None:
    """A body of more than `max_bytes` fails, whether its length is stated or not, as the kind that was named."""
    async with serving(http(200, b"x" * 11, length)) as setting:
        with pytest.raises(FetchError, match="more than 10 bytes") as caught:
            await small_get(setting.client, setting.url, complete, max_bytes=10, excess="too_large")
        assert caught.value.kind == "too_large"


async def test_the_expected_length_decides_where_none_is_stated() -> None:
    """What `expect` returns is the length that the body must have: less is truncated and retried, more is refused."""

    def four(response: Response) -> int:
        assert response.length is None
        return 4

    async with serving(http(200, b"abc", None), http(200, b"abcd", None)) as setting:
        got = await small_get(setting.client, setting.url, complete, max_bytes=10, expect=four)
        assert bytes(got.data) == b"abcd"
        assert setting.server.requests["/x"] == 2
    async with serving(http(200, b"abcde", None)) as setting:
        with pytest.raises(FetchError, match="more than 4 bytes"):
            await small_get(setting.client, setting.url, complete, max_bytes=10, expect=four)


async def test_a_response_can_be_refused_before_its_body() -> None:
    """What `expect` raises is passed on at once, and no byte of the body is waited for."""

    class RefusedError(Exception):
        pass

    def refuse(response: Response) -> int:
        raise RefusedError

    async with serving(http(200, b"", 1 << 40)) as setting:
        with pytest.raises(RefusedError):
            await small_get(setting.client, setting.url, complete, max_bytes=10, expect=refuse)
        assert setting.server.requests["/x"] == 1


async def test_a_body_that_cannot_be_read_is_fetched_again() -> None:
    """A FetchError of `read` counts as the attempt's."""

    async def as_ogg(body: SmallBody) -> bytes:
        if not body.data.startswith(b"OggS"):
            raise FetchError("checksum", "no OGG file")
        return bytes(body.data)

    async with serving(http(200, b"<html>"), http(200, b"OggS...")) as setting:
        assert await small_get(setting.client, setting.url, as_ogg, max_bytes=10) == b"OggS..."
    async with serving(http(200, b"<html>")) as setting:
        with pytest.raises(FetchError, match="no OGG file"):
            await small_get(setting.client, setting.url, as_ogg, max_bytes=10)
        assert setting.server.requests["/x"] == 2


async def test_progress_starts_the_count_of_attempts_again() -> None:
    """Ten attempts that each got further end well although one retry is allowed; without progress two are made."""
    made = 0

    async def attempt() -> int:
        nonlocal made
        made += 1
        if made < 10:
            raise FetchError("truncated", "cut")
        return made

    sleeper, limits = Sleeper(), Limits(retries=1, backoff_s=1.0)
    assert await with_retries(attempt, limits, sleep=sleeper, jitter=lambda: 1.0, has_progressed=lambda: True) == 10
    assert sleeper.waits == [1.0] * 9
    made = 0
    with pytest.raises(FetchError):
        await with_retries(attempt, limits, sleep=sleeper)
    assert made == 2


async def test_failures_of_the_network_have_limits_of_their_own() -> None:
    """`network_limits` hold for the kind `network` alone."""
    made = 0

    async def attempt() -> None:
        nonlocal made
        made += 1
        raise FetchError("network", "refused")

    with pytest.raises(FetchError):
        await with_retries(attempt, LIMITS, sleep=Sleeper(), network_limits=Limits(retries=0))
    assert made == 1


async def test_a_wait_that_the_host_has_named_is_kept_and_not_added_to() -> None:
    """With Retry-After the next attempt comes exactly then."""

    async def attempt() -> None:
        raise FetchError("rate_limited", "HTTP 429", retry_after_s=7.0)

    sleeper = Sleeper()
    with pytest.raises(FetchError):
        await with_retries(attempt, LIMITS, sleep=sleeper)
    assert sleeper.waits == [7.0] * LIMITS.retries
