"""The user of this process, and whose a file is. Windows tells neither by a number: there, who owns is not known."""

import hashlib
import os


def is_mine(found: os.stat_result) -> bool | None:
    """Return whether a file is of this user, None where the system does not say."""
    return found.st_uid == os.geteuid() if hasattr(os, "geteuid") else None


def is_for_others(found: os.stat_result) -> bool:
    """Return whether other users may write to a file or folder, as far as its mode says it."""
    return hasattr(os, "geteuid") and bool(found.st_mode & 0o022)


def user_mark() -> str:
    """Return what tells this user from others on this machine, fit for a file name."""
    if hasattr(os, "geteuid"):
        return str(os.geteuid())
    import getpass

    try:
        name = getpass.getuser()
    except (OSError, ImportError, KeyError):
        name = ""
    return hashlib.sha256(name.encode()).hexdigest()[:8]
