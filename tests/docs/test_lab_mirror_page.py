"""docs/lab-mirror.md: its program fills a mirror from whatever it reads, a folder too."""

from pathlib import Path

import pytest
from support.page_blocks import ROOT, blocks_of
from support.page_runs import run_python

PAGE = ROOT / "docs" / "lab-mirror.md"


def test_a_mirror_is_filled_from_a_folder(lookalike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each object has its place in the new mirror, whatever folder it was read from, and its bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OID_ASYNC_MIRROR", str(lookalike))
    (block,) = [block for block in blocks_of(PAGE) if block.kind == "python"]
    run_python(block.text, block.place, {"__name__": "page"})
    filled = [path.relative_to("mirror") for path in Path("mirror").rglob("*.*")]
    assert Path("openimages/v5/validation-annotations-bbox.csv") in filled
    assert Path("openimages/v5/validation-masks/validation-masks-f.zip") in filled
    assert all((lookalike / path).read_bytes() == (Path("mirror") / path).read_bytes() for path in filled)
