"""Second names of files: hard links, symbolic links, and which errors say that there are none."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

# A link that cannot be made: another disk, too many names of one file, no links at all. Windows says EINVAL of a file
# system without them, and of a user who may not make any.
_NO_LINK: tuple[int, ...] = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
_NO_LINK += (errno.EINVAL,) if os.name == "nt" else ()
# After these every other link between the same places would fail, too.
_NO_LINKS = tuple({*_NO_LINK} - {errno.EPERM, errno.EMLINK})

_SEES_LINKS = hasattr(os, "link") and os.link in os.supports_follow_symlinks

Link = Callable[[str, str], None]


def hard_link(source: str | Path, target: str | Path) -> None:
    """Give a plain file a second name; a link gets none for what it leads to. Raises OSError, ENOSYS without links."""
    if not hasattr(os, "link"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(target))
    if _SEES_LINKS:
        os.link(source, target, follow_symlinks=False)
    elif os.path.islink(source):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(source))
    else:
        os.link(source, target)


def ways(*, symbolic: bool) -> tuple[Link, ...]:
    """Return the system's own functions (source, target) that give a file another name, the best one first."""
    names = ("link", "symlink") if symbolic else ("link",)
    return tuple(getattr(os, name) for name in names if hasattr(os, name))


def is_no_link(error: OSError) -> bool:
    """Return whether an error says that this link cannot be made: then the file is copied."""
    return error.errno in _NO_LINK


def are_no_links(error: OSError) -> bool:
    """Return whether an error says that no link can be made from there to here."""
    return error.errno in _NO_LINKS
