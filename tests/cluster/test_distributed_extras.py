"""What a download past one machine needs and is not installed: one line that says what to type."""

import importlib.util

import pytest

from oid_async.errors import UsageError
from oid_async.jobs.distributing.run import check_extra
from oid_async.options.query import Options


def test_dask_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only engines that need it ask for it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "oid-async\[dask\]"'):
        check_extra(Options(cluster="local:2", format="webdataset", no_files=True))
    check_extra(Options(cluster="array", format="webdataset", no_files=True))
