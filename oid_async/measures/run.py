"""What is measured of one run: each host, how much landed when, and the CPU time of its processes."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from oid_async.measures.host import HostMeasures
from oid_async.measures.series import Series
from oid_async.system.processes import cpu_with_children_s

MOST_HOSTS = 100
OTHERS = "others"


class RunMeasures:
    """The measures of one run, from its `start`. Beyond `most_hosts` hosts all further ones are `others`."""

    def __init__(self, clock: Callable[[], float] = monotonic, *, most_hosts: int = MOST_HOSTS) -> None:
        self.clock = clock
        self.workers = 0
        # What a host is called over runs, where its address is another one every time.
        self.known_as: dict[str, str] = {}
        self._most_hosts = most_hosts
        self._hosts: dict[str, HostMeasures] = {}
        self.start()

    def start(self) -> None:
        """Begin to count time: the run has started."""
        self.landed = Series(("images", "bytes", "failed"), self.clock)
        self._started = datetime.now(UTC)
        self._cpu_before = cpu_with_children_s()

    def of_host(self, name: str) -> HostMeasures:
        """Return the measures of a host, made when it is first asked for; those of `others` once there are many."""
        if name not in self._hosts and len(self._hosts) >= self._most_hosts:
            name = OTHERS
        return self._hosts.setdefault(name, HostMeasures())

    def hosts(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each host so far, those with the most requests first."""
        now = self.clock()
        used = [(name, host) for name, host in self._hosts.items() if not host.is_empty]
        used.sort(key=lambda pair: (pair[0] == OTHERS, -pair[1].requests, -pair[1].other_requests))
        return {self.known_as.get(name, name): host.as_json(now) for name, host in used}

    def as_json(self, without_cpu_s: tuple[float, float] = (0.0, 0.0)) -> dict[str, Any]:
        """Return all of it, as the report of a run shows it; `without_cpu_s` was used for something else."""
        spent = zip(cpu_with_children_s(), self._cpu_before, without_cpu_s, strict=True)
        user, system = (round(max(0.0, now - before - other), 3) for now, before, other in spent)
        return {
            "started": self._started.isoformat(timespec="milliseconds"),
            "hosts": self.hosts(),
            "throughput": self.landed.as_json(),
            "cpu": {"user_s": user, "system_s": system, "processes": 1 + self.workers},
        }

    def pack(self) -> dict[str, Any]:
        """Return what was measured of hosts since the last call, as plain values that `add_packed` takes."""
        packed = {name: host.pack() for name, host in self._hosts.items() if not host.is_empty}
        for name in packed:
            self._hosts[name].clear()
        return packed

    def add_packed(self, packed: Mapping[str, Any]) -> None:
        """Add what another process has measured of hosts."""
        for name, host in packed.items():
            self.of_host(name).add_packed(host)
