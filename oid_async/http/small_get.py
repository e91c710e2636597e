"""GET of a small body: bounded in bytes, held in memory, retried by the policy of `http.retry`."""

import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from multidict import CIMultiDict

from oid_async.http.retry import FetchError, with_retries
from oid_async.quick_values import frozen

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response

Result = TypeVar("Result")
_NO_HEADERS: Mapping[str, str] = {}


@frozen
class SmallBody:
    """A complete body, as sent, and the status and headers that it came with."""

    data: bytearray
    status: int
    headers: CIMultiDict[str]


async def small_get(
    client: "Client",
    url: str,
    read: Callable[[SmallBody], Awaitable[Result]],
    *,
    max_bytes: int,
    headers: Mapping[str, str] = _NO_HEADERS,
    expect: Callable[["Response"], int | None] = lambda response: response.length,
    excess: str = "bad_response",
    jitter: Callable[[], float] = random.random,
) -> Result:
    """GET a URL and return what `read` makes of its body. Raises FetchError once the retry policy gives up.

    `expect` is given each response before its body and returns the exact length that the body must have, None for any
    up to `max_bytes`. What `expect` and `read` raise counts as the attempt's: a FetchError may be retried, all else is
    passed on. A longer body fails as `excess`, a shorter one as `truncated`.
    """

    async def attempt() -> Result:
        async with client.get(url, headers) as response:
            length = expect(response)
            most = max_bytes if length is None else min(max_bytes, length)
            data = bytearray()
            async with aclosing(response.chunks()) as chunks:
                async for chunk in chunks:
                    data += chunk
                    if len(data) > most:
                        raise FetchError(excess, f"more than {most} bytes")
            if length is not None and len(data) != length:
                raise FetchError("truncated", f"{len(data)} of {length} bytes arrived")
            body = SmallBody(data, response.status, response.headers)
        return await read(body)

    return await with_retries(attempt, client.limits, sleep=client.hosts.retrying(url), jitter=jitter)
