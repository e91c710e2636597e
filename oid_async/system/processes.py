"""Processors, child processes, and what a process may use and has used, on a system that counts it."""

import os
from contextlib import suppress
from typing import Any

from oid_async.system.optional import optional_module

_resource: Any = optional_module("resource")


def available_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_files_limit() -> int | None:
    """Return how many descriptors this process may have, None for no limit, or one that is not known."""
    if _resource is None:
        return None
    soft: int = _resource.getrlimit(_resource.RLIMIT_NOFILE)[0]
    return None if soft == _resource.RLIM_INFINITY else soft


def raise_open_files_limit() -> None:
    """Raise that limit as far as the system allows. For the command line alone: it is global state."""
    if _resource is None:
        return
    soft, hard = _resource.getrlimit(_resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems report a hard limit that they do not grant; then the soft one stays.
        with suppress(OSError, ValueError):
            _resource.setrlimit(_resource.RLIMIT_NOFILE, (hard, hard))


def cpu_s() -> tuple[float, float]:
    """Return the CPU time, user and system, that this process has used."""
    used = os.times()
    return used.user, used.system


def cpu_with_children_s() -> tuple[float, float]:
    """Return the CPU time, user and system, of this process and of its children that have ended, if they are known."""
    own = os.times()
    if _resource is None:
        return own.user + own.children_user, own.system + own.children_system
    children = _resource.getrusage(_resource.RUSAGE_CHILDREN)
    return own.user + children.ru_utime, own.system + children.ru_stime
