"""The one classification of failures and the one retry policy: what is retried, how often, after which wait. No I/O."""

import datetime
import email.utils
import errno
import math
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Self, TypeVar

from oid_async.options.defaults import MAX_IMAGE_BYTES, MAX_WAIT_S, RETRIES, TIMEOUT_S, UNANSWERED_S
from oid_async.options.readers import RespectOptOut
from oid_async.quick_values import define, frozen
from oid_async.redaction import printable, redacted_text
from oid_async.report import FINAL_KINDS

if TYPE_CHECKING:
    import aiohttp

    from oid_async.options.query import Options

Result = TypeVar("Result")

# Retried once, since a broken proxy or a torn cache may be the cause; then final.
NOT_HTTP = "bad_response: not HTTP"
ONCE_MORE = frozenset({"checksum", "empty", "not_image", NOT_HTTP})
_STATUS_KINDS = {401: "forbidden", 403: "forbidden", 404: "not_found", 408: "timeout", 410: "gone", 429: "rate_limited"}
# What a bare number would not tell everybody.
_STATUS_WORDS = {407: ": the proxy wants a login"}


@frozen
class Limits:
    """The limits of one transfer. Times in seconds, sizes in bytes.

    `retries` counts attempts after the first; a retry waits a random time of up to `backoff_s` x 2^n, at most
    `backoff_cap_s` (full jitter: a thousand clients that failed together must not come back together). `max_wait_s` is
    how long a host that asks us to wait, or is down, is waited for in all; one that has not answered once is waited for
    `unanswered_s` after nothing else is left to do.

    An attempt ends as `timeout` when no connection was made in `connect_s`, the response's head had not come
    `first_byte_s` after the request, nothing came for `silence_s`, fewer than `slow_bytes_s` a second came over
    `slow_s`, or it took `attempt_s`.

    Bodies above `memory_bytes` are streamed to disk; one that broke off beyond `resume_bytes` is resumed. All bodies
    together take at most `rate_bytes_s` (None: no limit).

    `respect_opt_out` says by which rules of an answer an image is not taken (see `http.opt_out`).
    """

    retries: int = RETRIES
    connect_s: float = 10.0
    first_byte_s: float = TIMEOUT_S
    silence_s: float = TIMEOUT_S
    slow_s: float = TIMEOUT_S
    slow_bytes_s: float = 1024.0
    attempt_s: float = 600.0
    backoff_s: float = 0.5
    backoff_cap_s: float = 30.0
    max_wait_s: float = MAX_WAIT_S
    unanswered_s: float = UNANSWERED_S
    max_image_bytes: int = MAX_IMAGE_BYTES
    memory_bytes: int = 1 << 20
    resume_bytes: int = 8 << 20
    rate_bytes_s: float | None = None
    redirects: int = 5
    respect_opt_out: RespectOptOut = True

    @classmethod
    def of(cls, options: "Options") -> Self:
        """Return the limits that options ask for; a time-out under the default one limits the first byte, too."""
        return cls(
            retries=options.retries,
            first_byte_s=min(TIMEOUT_S, options.timeout),
            silence_s=options.timeout,
            slow_s=options.timeout,
            max_wait_s=options.max_wait,
            max_image_bytes=options.max_image_bytes,
            rate_bytes_s=options.limit_rate,
            respect_opt_out=options.respect_opt_out,
        )


class FetchError(Exception):
    """One attempt failed: a failure kind and a message.

    `retry_after_s` is how long the host asks us to wait, if it does; `hopeless`: no further try of this run can help;
    `status` is the HTTP status, if there was one. `unsent`: no connection was made, so that no request was sent;
    `exhausted`: this machine had no descriptor left for one, which is no fault of the image's; `unknown_name`: there is
    no host of that name; `not_http`: what came is no HTTP. `reason` is what is written down: the kind, perhaps with
    words behind it.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        hopeless: bool = False,
        status: int | None = None,
        unsent: bool = False,
        exhausted: bool = False,
    ) -> None:
        super().__init__(printable(message))  # it may quote what a server has said
        self.kind = self.reason = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.hopeless = hopeless
        self.unsent = unsent
        self.exhausted = exhausted
        self.unknown_name = False
        self.not_http = False

    def again(self) -> "FetchError":
        """Return the same failure for another image: an exception that is raised twice keeps both its traces."""
        return FetchError(self.kind, str(self), hopeless=self.hopeless, status=self.status, unsent=True)


@define
class Attempts:
    """The attempts made for one object and how they failed: decides whether to retry, and how soon.

    `waited_s` is how long its host has asked it to wait in all.
    """

    limits: Limits
    made: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    waited_s: float = 0.0

    def wait_s(self, error: FetchError, jitter: float, limits: Limits | None = None) -> float | None:
        """Return how long to wait before the next attempt, None to give up; `limits` replaces the usual ones this once.

        As long as the response asks for, if it does: but in all no longer than `max_wait_s`.
        """
        limits = limits or self.limits
        kind = NOT_HTTP if error.not_http else error.kind
        if error.hopeless or not may_retry(kind, self.made, self.seen, limits):
            return None
        self.seen[kind] = self.seen.get(kind, 0) + 1
        if not error.retry_after_s:
            return backoff_s(self.made, self.limits, jitter)
        self.waited_s += error.retry_after_s
        return error.retry_after_s if self.waited_s <= limits.max_wait_s else None


async def with_retries(
    attempt: Callable[[], Awaitable[Result]],
    limits: Limits,
    *,
    sleep: Callable[[float], Awaitable[None]],
    jitter: Callable[[], float] = random.random,
    has_progressed: Callable[[], bool] = lambda: False,
    network_limits: Limits | None = None,
) -> Result:
    """Await `attempt` until it succeeds, and wait between attempts as the policy says. Raises its last FetchError.

    After an attempt that failed but `has_progressed` the count starts again: a bad line gets there in the end.
    `network_limits` replaces `limits` for failures of the kind `network`.
    """
    attempts = Attempts(limits)
    while True:
        attempts.made += 1
        try:
            return await attempt()
        except FetchError as error:
            if has_progressed():
                attempts = Attempts(limits, made=1)
            wait_s = attempts.wait_s(error, jitter(), network_limits if error.kind == "network" else None)
            if wait_s is None:
                raise
        await sleep(wait_s)


def is_final(kind: str) -> bool:
    """Return whether a failure kind is final for the object; all others pass and may be retried."""
    return kind in FINAL_KINDS


def may_retry(kind: str, attempts: int, seen: Mapping[str, int], limits: Limits) -> bool:
    """Return whether to retry after this many attempts; `seen` counts the earlier failures by kind."""
    if kind in ONCE_MORE:
        return not seen.get(kind)
    return not is_final(kind) and attempts <= limits.retries


def backoff_s(attempts: int, limits: Limits, jitter: float) -> float:
    """Return the wait before the next attempt; `jitter` is uniform in 0 to 1.

    >>> backoff_s(1, Limits(), 1.0), backoff_s(3, Limits(), 0.5), backoff_s(20, Limits(), 1.0)
    (0.5, 1.0, 30.0)
    """
    return jitter * min(limits.backoff_cap_s, limits.backoff_s * 2.0 ** min(attempts - 1, 60))


def status_error(status: int, headers: Mapping[str, str]) -> FetchError:
    """Return the failure that a response means which is neither a success nor a redirect."""
    kind = _STATUS_KINDS.get(status, "server_error" if status >= 500 else "bad_response")
    wait = retry_after_s(headers) if kind in ("rate_limited", "server_error") else None
    text = f"HTTP {status}{_STATUS_WORDS.get(status, '')}"
    return FetchError(kind, text, retry_after_s=wait, status=status)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a Retry-After asks for, None if there is none or it makes no sense.

    A date is taken relative to the response's own Date, so that a wrong local clock does no harm; without one the local
    clock has to do.

    >>> retry_after_s({"Retry-After": "7"})
    7.0
    >>> retry_after_s({"Retry-After": "Wed, 21 Oct 2026 07:28:10 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    10.0
    """
    value = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(math.ceil(float(value))), 1e9)
    until = _instant(value)
    if until is None:
        return None
    sent = _instant(headers.get("Date", ""))
    return max(0.0, until - (sent if sent is not None else time.time()))


_SECONDS = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,300})?")


def _instant(text: str) -> float | None:
    """Return the Unix time of an HTTP date; the old form that names no zone is in UTC, as HTTP specifies."""
    try:
        date = email.utils.parsedate_to_datetime(text)
        seconds = (date if date.tzinfo is not None else date.replace(tzinfo=datetime.UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


# OpenSSL's reasons for an answer that is no TLS.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
# A resolver's errors for a name that does not exist; its other errors may pass.
_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


def connection_error(error: BaseException, proxy: str | None = None) -> FetchError:
    """Return the failure that an exception of aiohttp's means: the only place that knows its error tree.

    `proxy` names the proxy by which the connection was to be made, if any.
    """
    # Imported here: a run that sends no request need not load it.
    import aiohttp

    text = redacted_text(" ".join(str(error).split()))[:200] or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError):
        return _no_connection(error, proxy)
    if isinstance(error, aiohttp.InvalidURL | UnicodeError):
        return FetchError("bad_url", text)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return FetchError("timeout", text, unsent=True)
    if isinstance(error, TimeoutError):
        return FetchError("timeout", text)
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError("truncated", text)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        what = "wants a login" if error.status == 407 else f"answers HTTP {error.status}"
        return FetchError("network", f"the proxy {proxy} {what}", unsent=True)
    if isinstance(error, aiohttp.ClientResponseError):
        return FetchError("bad_response", text)
    return FetchError("network", text)


def _no_connection(error: "aiohttp.ClientConnectorError", proxy: str | None) -> FetchError:
    import aiohttp

    where, cause = f"{error.host}:{error.port}", error.os_error
    if cause.errno in _NO_DESCRIPTOR:
        return cannot_connect(where, cause)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = " ".join(str(error.certificate_error).split())[:200]
        text = f"{where} has a certificate that cannot be trusted: {text} (SSL_CERT_FILE names others to trust)"
        return FetchError("network", text, hopeless=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        whom = f"the proxy {proxy}" if proxy is not None else error.host
        failed = FetchError("network", f"cannot find {whom}: {cause.strerror or cause}", unsent=True)
        failed.unknown_name = cause.errno in _NO_SUCH_NAME
        return failed
    return cannot_connect(where, cause, proxy)


def cannot_connect(where: str, cause: OSError, proxy: str | None = None) -> FetchError:
    """Return the failure of a connection to HOST:PORT, made by a proxy if one is named, which the system refuses."""
    number = cause.errno
    if number in _NO_DESCRIPTOR:
        return FetchError("network", "no descriptor left for a connection", unsent=True, exhausted=True)
    # The number of a TLS error is OpenSSL's, not the system's.
    is_system = number and number > 0 and not isinstance(cause, ssl.SSLError)
    reason = os.strerror(number) if number and is_system else " ".join(str(cause).split())[:200]
    if proxy is not None:
        # A connection that is closed in place of an answer has no reason: asyncio's error is empty.
        reason = reason or "it closes the connection; its address may begin with http://"
        return FetchError("network", f"the proxy {proxy} cannot be reached: {reason}", unsent=True)
    # asyncio has no word for a connection that is closed in place of an answer.
    if getattr(cause, "reason", None) in _NO_TLS or (isinstance(cause, ConnectionError) and not str(cause)):
        return FetchError("network", f"{where} does not speak TLS (https); its URL may begin with http://", unsent=True)
    return FetchError("network", f"cannot connect to {where}: {reason}", unsent=True)
