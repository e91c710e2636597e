"""What runs the blocks of pages (tests/support/page_runs.py) finds each kind of block that does not do what it says."""

from pathlib import Path

import pytest
from support.page_blocks import Block, blocks_of
from support.page_layouts import assert_layout, is_layout
from support.page_runs import PageRun, assert_shown, is_plain


def check_text(run: PageRun, block: Block) -> None:
    """Compare a block with a folder, or with what was said before."""
    if is_layout(block.text):
        assert_layout(block.text, run.folder / "folder")
    elif not block.is_drawing:
        assert_shown(block.text.splitlines(), run.said)


def wrong_in(text: str, folder: Path) -> list[str]:
    """Return what is wrong in a page."""
    (folder / "folder" / "images").mkdir(parents=True)
    (folder / "folder" / "images" / "1.jpg").write_bytes(b"")
    page = Path(__file__).with_name("page.md")
    run = PageRun(folder, check_text, not_run=frozenset({"pip install oid-async", "import nowhere"}))
    for block in blocks_of(page, text):
        run.run(block)
    return run.wrong


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```\noid-async metadata list --splt all\n```", "ended with 2"),
        ("```\noid-async stats folder                 # a comment\n```", "ended with 2"),
        ("```sh\nfalse | cat\n```", "ended with 1"),
        ("```console\n$ echo 12 images\n13 images\n```", "'13 images' is not in"),
        ("```sh\necho 12 images\n```\n\n```text\n13 images\n```", "'13 images' is not in"),
        ("```python\nimport json\n\njson.nothing\n```", "AttributeError"),
        ("```python\n1 + 1  # 3\n```", "1 + 1 is 2, not 3"),
        ("```python\nasync def main():\n    raise KeyError(7)\n```", "KeyError"),
        ("```python\nif __name__ == '__main__':\n    raise SystemExit(3)\n```", "ended with 3"),
        ("```json\n{1: 2}\n```", "JSONDecodeError"),
        ("```yaml\na: [\n```", "ParserError"),
        ("```toml\na = \n```", "TOMLDecodeError"),
        ("```sql\nSELECT 1 WHERE 1 = 2\n```", "finds no row"),
        ("```kdl\nnode\n```", "'kdl' is no tag"),
        ("```\nimages/<name>.jpg    pictures\nbbox.csv             boxes\n```", "folder has no bbox.csv"),
        ("```\nother/    nothing\n```", "folder has no other/"),
        ("```\nimages/2.png    absent when there is none\n```", "does not name ['images/1.jpg']"),
    ],
)
def test_a_block_that_does_not_do_what_it_says_is_found(text: str, why: str, tmp_path: Path) -> None:
    """With the place and the reason."""
    (line,) = wrong_in(text, tmp_path)
    assert "page.md:" in line
    assert why in line


def test_blocks_that_do_what_they_say_pass(tmp_path: Path) -> None:
    """Each kind of them; an exception is left out, durations and sizes may be others, dots stand for anything."""
    text = """
```sh
pip install oid-async
export COUNT=12
echo "$COUNT images, 3.4 MB in 2.0 s"
echo more
```

```text
12 images, 1.0 GB in 7 s
...
```

```python
import nowhere
```

```python
import asyncio

value = await asyncio.sleep(0, 7)
value  # 7
```

```
images/<name>.jpg    pictures
failures.csv         what failed; absent when there is none
```

- in a list

  ```json
  {"a": 1}
  ```
"""
    assert wrong_in(text, tmp_path) == []


@pytest.mark.parametrize(
    ("command", "plain"),
    [
        ("oid-async plan --where 'Dog | Cat'", True),
        ("oid-async plan --image-where \"Author <> 'X'\"", True),
        ("oid-async plan --ids - | wc -l", False),
        ("oid-async plan > plan.txt", False),
        ('oid-async plan --shard "$TASK/8"', False),
        ("cd demo_data", False),
    ],
)
def test_a_shell_runs_what_needs_one(command: str, plain: bool) -> None:
    """Signs in quotes are arguments."""
    assert is_plain(command) is plain
