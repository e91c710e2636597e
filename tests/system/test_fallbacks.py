"""What takes the place of a thing of POSIX, tried where it is not needed."""

import asyncio
import errno
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from oid_async.options.query import Options
from oid_async.system import links, locks, opening, pipes, positions, processes, sockets, syncing, users
from oid_async.system.interrupts import call_at_signal, no_interrupt
from oid_async.workers.starter import early_workers, process_count


def test_available_processors_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system knows which processors a process may use they are counted, elsewhere all of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        assert processes.available_processors() == len(os.sched_getaffinity(0))
        monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert processes.available_processors() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processes.available_processors() == 1


def test_linux_has_its_own_functions() -> None:
    """Nothing is wrapped where it need not be: reading at a place costs no call more, flags are those of the system."""
    if hasattr(os, "pread"):
        assert (positions.pread, positions.pwrite) == (os.pread, os.pwrite)
    if hasattr(os, "O_NOFOLLOW"):
        assert opening.PLAIN == os.O_NOFOLLOW | os.O_NONBLOCK
        assert opening.REFUSES_LINKS
        assert opening.NAMES_BY_FOLDER
    if hasattr(os, "symlink"):
        assert links.ways(symbolic=True) == (os.link, os.symlink)


def test_reading_and_writing_at_a_place_leave_the_position(tmp_path: Path) -> None:
    """Without pread the position is moved and put back."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("r+b", buffering=0) as file:
        file.seek(3)
        assert positions._read_at(file.fileno(), 4, 5) == b"5678"
        assert positions._read_at(file.fileno(), 4, 20) == b""
        assert positions._write_at(file.fileno(), b"ab", 8) == 2
        assert file.read() == b"34567ab"


class Bytes:
    """Locks on bytes as msvcrt has them, of handles of one process."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.held: dict[int, set[int]] = {}

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        first = os.lseek(descriptor, 0, os.SEEK_CUR)
        wanted = set(range(first, first + count))
        if any(wanted & held for held in self.held.values()):
            raise PermissionError(errno.EACCES, "taken")
        self.held.setdefault(descriptor, set()).update(wanted)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Bytes:
    module = Bytes()
    monkeypatch.setattr(locks, "_fcntl", None)
    monkeypatch.setattr(locks, "_msvcrt", module)
    return module


def test_locks_on_bytes_are_shared_by_readers(held: Bytes, tmp_path: Path) -> None:
    """Each has a byte of its own, one who writes all of them; the position of the file is as it was."""
    (tmp_path / "lock").write_bytes(b"a note")
    files = [os.open(tmp_path / "lock", os.O_RDWR) for _ in range(66)]
    try:
        for file in files[:64]:
            os.lseek(file, 2, os.SEEK_SET)
            locks.lock(file, shared=True)
            assert os.lseek(file, 0, os.SEEK_CUR) == 2
        for shared in (True, False):
            with pytest.raises(BlockingIOError):
                locks.lock(files[64], shared=shared)
        # Those bytes are far behind what is in the file.
        assert min(map(min, held.held.values())) > 1 << 20
        for file in files[:64]:
            del held.held[file]
        locks.lock(files[64], shared=False)
        with pytest.raises(BlockingIOError):
            locks.lock(files[65], shared=True)
    finally:
        for file in files:
            os.close(file)


def test_other_errors_of_locks_are_raised(held: Bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That a file cannot be locked is none of that another has it."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(held, "locking", fail, raising=False)
    with (tmp_path / "lock").open("wb") as file, pytest.raises(OSError, match="broken"):
        locks.lock(file.fileno(), shared=True)


def test_without_any_locks_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error of a file system that has none, for which there is a way already."""
    monkeypatch.setattr(locks, "_fcntl", None)
    monkeypatch.setattr(locks, "_msvcrt", None)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        locks.lock(0, shared=False)


def test_links_are_made_without_following(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A link gets no second name for what it leads to, also where the system cannot be told so."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    monkeypatch.setattr(links, "_SEES_LINKS", False)
    links.hard_link(tmp_path / "file", tmp_path / "second")
    assert (tmp_path / "second").stat().st_nlink == 2
    with pytest.raises(OSError, match=os.strerror(errno.ENOTSUP)) as raised:
        links.hard_link(tmp_path / "link", tmp_path / "third")
    assert links.is_no_link(raised.value)
    monkeypatch.delattr(os, "link")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)) as raised:
        links.hard_link(tmp_path / "file", tmp_path / "third")
    assert links.is_no_link(raised.value)
    assert links.are_no_links(raised.value)
    assert len(links.ways(symbolic=True)) == 1
    # Too many names of one file says nothing of the next file.
    assert not links.are_no_links(OSError(errno.EMLINK, ""))
    assert not links.is_no_link(OSError(errno.ENOSPC, ""))


class Full:
    """What fcntl is where a full sync can be asked for."""

    def __init__(self, error: OSError | None) -> None:
        self.calls = 0
        self._error = error

    def fcntl(self, descriptor: int, what: int) -> None:
        self.calls += 1
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [None, OSError(errno.ENOTSUP, "")], ids=["known", "not known"])
def test_macos_is_asked_for_a_full_sync(error: OSError | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And for the usual one where the disk does not know it."""
    usual: list[int] = []
    full = Full(error)
    monkeypatch.setattr(syncing, "_fcntl", full)
    monkeypatch.setattr(syncing, "_FULL", 51)
    monkeypatch.setattr(os, "fsync", usual.append)
    syncing.sync(7)
    assert (full.calls, usual) == (1, [] if error is None else [7])


def test_without_numbers_of_users_nobody_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whose a file is is not known then, and the mark of the user is made of the name."""
    found = tmp_path.stat()
    assert users.is_mine(found) is True
    assert users.user_mark() == str(os.geteuid())
    monkeypatch.delattr(os, "geteuid")
    monkeypatch.setenv("LOGNAME", "a/b")
    assert users.is_mine(found) is None
    assert not users.is_for_others(found)
    assert users.user_mark().isalnum()
    assert len(users.user_mark()) == 8


def test_limits_and_times_are_not_known_without_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit is assumed, and CPU time is what Python has."""
    monkeypatch.setattr(processes, "_resource", None)
    assert processes.open_files_limit() is None
    processes.raise_open_files_limit()
    assert processes.cpu_with_children_s() >= processes.cpu_s()


def test_one_process_where_sockets_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `--processes N` nor auto starts another."""
    assert process_count(Options(processes=4), 10_000, 64, 8) == 4
    assert early_workers(Options(processes="auto"), 8) == 1
    monkeypatch.delattr(socket, "AF_UNIX")
    assert not sockets.can_share_sockets()
    assert process_count(Options(processes=4), 10_000, 64, 8) == 1
    assert early_workers(Options(processes="auto"), 8) == 0


def test_a_port_is_taken_alone_where_sharing_is_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has an option for that."""
    options: list[int] = []

    class Listening:
        def setsockopt(self, level: int, option: int, value: int) -> None:
            options.append(option)

    listening: Any = Listening()
    sockets.take_port_alone(listening)
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    sockets.take_port_alone(listening)
    assert options == [socket.SO_REUSEADDR, -5]


def test_pipes_are_waited_for_where_they_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without select.poll all is read and written all the same."""
    monkeypatch.delattr("select.poll")
    reader, writer = os.pipe()
    pipes.write_blocks(writer, iter([b"one", b"", b"two"]), lambda: False)
    os.close(writer)
    assert b"".join(pipes.read_blocks(reader, lambda: False)) == b"onetwo"
    os.close(reader)


async def test_a_signal_reaches_a_loop_that_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a handler of Python's own."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()

    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_signal_handler", refuse)
    before = signal.getsignal(signal.SIGTERM)
    try:
        call_at_signal(loop, signal.SIGTERM, came.set)
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            await came.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_interrupt_cannot_be_held_back_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without signal masks the block runs as it is."""
    monkeypatch.delattr(signal, "pthread_sigmask")
    with no_interrupt():
        pass
