"""Transfers that hang: found, so that they do not count against the window of their host.

The window of a host limits how many transfers it works on at once. One of which nothing comes any more is none that it
works on: an image whose head never comes, or whose body stops or drips, must not take the place of another one for as
long as the limits on an attempt let it wait. So nothing that one image does slows down the others of its host.
"""

import asyncio
from collections.abc import Callable, Iterable

from oid_async.http.connection import Connection
from oid_async.http.host import Host
from oid_async.http.hosts import Hosts

_CHECK_S = 0.02


class HangingWatch:
    """Counts the transfers that hang in `Host.hanging`, several times a second. `busy` returns all busy connections.

    At most a quarter of all transfers that may be on, and half of them over all hosts, do not count; of the only host
    three quarters. Made within a running loop; `watch` starts it, `close` ends it.
    """

    def __init__(self, hosts: Hosts, busy: Callable[[], Iterable[Connection]]) -> None:
        self._hosts = hosts
        self._busy = busy
        self._loop = asyncio.get_running_loop()
        self._checked_at = 0.0
        self._counted: list[Host] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Begin to check the connections."""
        self._checked_at = self._loop.time()
        self._timer = self._loop.call_later(_CHECK_S, self._check)

    def close(self) -> None:
        """End it."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        now = self._loop.time()
        # When this program was held up itself, nothing could be received.
        passed_s, self._checked_at = min(now - self._checked_at, 2 * _CHECK_S), now
        found: dict[Host, int] = {}
        clock = self._hosts.clock()
        for connection in self._busy():
            host = connection.counted_for
            if host is None:
                continue
            silent_s = connection.silent_s(passed_s)
            # Until something comes: what the host needs for others meanwhile says nothing of this one.
            connection.is_hanging = silent_s > 0 and (connection.is_hanging or host.hangs(silent_s, clock))
            if connection.is_hanging:
                found[host] = found.get(host, 0) + 1
        share = self._hosts.hanging_share
        left = max(share, self._hosts.most // 2)
        for host in self._counted:
            if host not in found:
                host.hanging = 0
        self._counted = list(found)
        for host, count in found.items():
            allowed = min(count, host.most_hanging(), share, left)
            left -= allowed
            had, host.hanging = host.hanging, allowed
            if allowed > had:
                self._hosts.on_room(host)
        self._timer = self._loop.call_later(_CHECK_S, self._check)
