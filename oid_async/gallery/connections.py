"""The connections of browsers to the gallery: aiohttp's low-level server, with bounds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from oid_async.gallery.answers import line

# A browser opens six connections to a host. One that sends no whole head of a request for a while is closed.
_MOST_CONNECTIONS, _IDLE_S = 256, 30.0
# Of a head; the cookies of all that this host serves are one field of it.
_MOST_HEADERS, _MOST_FIELD_BYTES = 64, 16 << 10


class BoundedServer(web.Server):
    """aiohttp's server with bounds, that logs nothing but faults, a line each."""

    def __init__(
        self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], report: Callable[[str], None]
    ) -> None:
        self._options: dict[str, Any] = {
            "logger": _fault_logger(report),
            "access_log": None,
            "keepalive_timeout": _IDLE_S,
            "lingering_time": 0.0,
            "max_headers": _MOST_HEADERS,
            "max_field_size": _MOST_FIELD_BYTES,
        }
        super().__init__(handle, handler_cancellation=True)

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)


class _Connection(RequestHandler):
    """A connection to a browser."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room for it: of too many connections that has to go which has waited longest for a request."""
        super().connection_made(transport)
        others = self._manager.connections if self._manager is not None else []
        if len(others) > _MOST_CONNECTIONS:
            is_idle = (each for each in others if each._current_request is None and not each._force_close)
            next(is_idle, self).force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is no HTTP, or more of it than is allowed; the headers are those of all answers."""
        response = line("This is no request that is understood here.", 400 if status < 500 else status).response()
        response.force_close()
        return response


class _FaultHandler(logging.Handler):
    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._report_line = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report what aiohttp logs, in one line."""
        error = record.exc_info[1] if record.exc_info else None
        self._report_line(f"view: {' '.join(record.getMessage().split())[:200]} ({type(error).__name__}: {error})")


def _fault_logger(report: Callable[[str], None]) -> logging.Logger:
    logger = logging.Logger("oid_async.gallery")
    logger.addHandler(_FaultHandler(report))
    return logger
