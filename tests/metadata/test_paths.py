"""Where the cache is: the folder that was asked for, the user's own, or a safe one where there is none."""

import os
import tempfile
from pathlib import Path

import platformdirs
import pytest

from oid_async.errors import UsageError
from oid_async.metadata.paths import cache_root, default_cache


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the tests a temporary folder and a user of their own."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"oid-async-cache-{os.getuid()}"


def no_home(*_: object) -> Path:
    raise RuntimeError("could not determine the home directory")


def test_a_users_own_cache_needs_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a home, or XDG_CACHE_HOME, the cache is there; what was asked for comes first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == (tmp_path / "xdg" / "oid-async", None)
    assert cache_root(tmp_path / "mine") == tmp_path / "mine"


def test_without_a_home_the_cache_is_below_the_temporary_folder(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without home, as in a container, gets a folder that is theirs alone, and is told so."""
    monkeypatch.setattr(platformdirs, "user_cache_path", no_home)
    folder, why = default_cache()
    assert (folder, folder.stat().st_mode & 0o777) == (temporary, 0o700)
    assert why == (
        f"there is no home folder: tables are kept in {temporary}; choose another with --cache-dir or OID_ASYNC_CACHE"
    )


def test_a_home_of_others_is_no_home(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME=/ of a user who may not write there is as good as none."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _: Path("/.cache/oid-async"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    folder, why = default_cache()
    assert folder == temporary
    assert why is not None
    assert why.startswith("/.cache/oid-async cannot be made or read: tables")


def test_a_folder_that_others_can_write_to_is_not_taken(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who made it before us could have tables of theirs taken for the published ones; a link may lead anywhere."""
    monkeypatch.setattr(platformdirs, "user_cache_path", no_home)
    temporary.mkdir()
    temporary.chmod(0o777)
    with pytest.raises(UsageError, match="--cache-dir or OID_ASYNC_CACHE"):
        default_cache()
    temporary.rmdir()
    temporary.symlink_to(temporary.parent)
    with pytest.raises(UsageError, match="--cache-dir or OID_ASYNC_CACHE"):
        default_cache()
