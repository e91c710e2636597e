"""Flags for opening files, 0 where a system does not have one, and what that leaves to be done by hand."""

import os


def _flag(name: str) -> int:
    return int(getattr(os, name, 0))


# For every file: closed in child processes; its bytes as they are, which Windows would change at the ends of lines.
USUAL = _flag("O_CLOEXEC") | _flag("O_BINARY") | _flag("O_NOINHERIT")
# A link is not followed (ELOOP), a pipe without a writer not waited for; on a plain file neither has an effect.
PLAIN = _flag("O_NOFOLLOW") | _flag("O_NONBLOCK")
# Whether PLAIN does that. Where not, who opens a file looks first what it is: a link put there between is followed.
REFUSES_LINKS = bool(_flag("O_NOFOLLOW") and _flag("O_NONBLOCK"))
# What a pipe or device is opened with so that nobody waits for its other end.
NO_WAITING = _flag("O_NONBLOCK")
FOLDER = os.O_RDONLY | _flag("O_DIRECTORY")
# Whether a folder can be opened, to be locked or synced. Windows has no such thing.
OPENS_FOLDERS = hasattr(os, "O_DIRECTORY")
# Whether a file can be named by its open folder and its name there, which no link on the way can lead elsewhere.
NAMES_BY_FOLDER = OPENS_FOLDERS and REFUSES_LINKS and {os.open, os.mkdir, os.stat, os.unlink} <= os.supports_dir_fd
