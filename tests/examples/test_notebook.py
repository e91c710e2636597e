"""The notebook of examples/ runs from its first cell to its last, and is kept without what it puts out."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.published import read_manifest
from support.shown_examples import EXAMPLES

NOTEBOOK = EXAMPLES / "look.ipynb"


def test_the_notebook_is_kept_without_outputs() -> None:
    """No cell has outputs or a number, and no metadata says who ran it where."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    assert [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"] or cell["metadata"]] == []
    assert notebook["metadata"]["language_info"] == {"name": "python"}


@pytest.mark.programs
def test_the_notebook_runs(demo_mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs; it shows a picture, names a wrong class, and leaves images and an export."""
    nbclient: Any = pytest.importorskip("nbclient")
    nbformat: Any = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OID_ASYNC_MIRROR", str(demo_mirror))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}})
    asyncio.run(client.async_execute())
    outputs = {cell["id"]: json.dumps(cell.get("outputs", [])) for cell in notebook.cells}
    assert "unknown class 'Footbal'; nearest: Football" in outputs["query"]
    assert '"image/png"' in outputs["look"]
    rows = read_manifest(tmp_path / "look_data")
    saved = [row for row in rows if row["Status"] == "ok"]
    assert 20 < len(saved) <= len(rows) <= 30
    assert f"{len(saved)} downloaded, 0 there already, {len(rows) - len(saved)} failed" in outputs["download"]
    assert (tmp_path / "look_data" / "export" / "coco").is_dir()
