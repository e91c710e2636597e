"""No control character of a table, a server, a file, an option or a variable reaches a terminal or a pipe."""

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from support.published import Box, Dataset, Image
from support.scripted import Scripted, http

import oid_async
from oid_async.cli import main as cli
from oid_async.cli.commands import COMMANDS
from oid_async.errors import InputError
from oid_async.events import Note, TableProgress
from oid_async.http.retry import FetchError
from oid_async.redaction import printable
from oid_async.screen.screen import Screen

# A title, a place on the screen, a clipboard, C1's short forms, turned text, invisible signs, line ends, rich's markup.
SIGNS = (
    "\x1b]0;owned\x07\x1b[66;6H\x1b]52;c;aGk=\x1b\\\x07\x08\x7f\x9b66;6H\x9d0;owned\x9c\x85\r\n\x0b"
    "\u202e\u2066\u200f\u061c\u2028\u2029\u200b\ufeff\U000e0041"
)
HOSTILE = f"Kite{SIGNS}[red][link=http://x.example]:bug:"
MARK = ":bug:"
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
# What rich writes on a terminal: colours, the cursor's line, erasing, the cursor hidden and shown.
OURS = re.compile(r"\x1b\[[0-9;]*[mAK]|\x1b\[\?25[hl]|\r")
BALL, KITE = "/m/018xm", "/m/02zt3"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror folder in which all text that may be odd is hostile; one picture is missing."""
    images = [Image(f"{number:016x}", f"{number}{SIGNS}.jpg", stored=number != 2) for number in range(1, 4)]
    boxes = [Box(image.image_id, label) for image in images for label in (BALL, KITE)]
    boxes.append(Box(f"3{SIGNS}", BALL))
    return Dataset([(BALL, f"Ball{SIGNS}"), (KITE, HOSTILE)], images, boxes, {BALL: [KITE]}).publish(
        tmp_path / "mirror"
    )


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Put a terminal in place of stdout and stderr; the list holds what was written to it once the block is left."""
    said: list[str] = []
    master, slave = os.openpty()
    modes = termios.tcgetattr(slave)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    received = bytearray()

    def read() -> None:
        try:
            while block := os.read(master, 65536):
                received.extend(block)
        except OSError:
            pass  # the terminal is closed

    thread = Thread(target=read)
    thread.start()
    with open(slave, "w", encoding="utf-8", newline="\n") as stream, monkeypatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("NO_COLOR", raising=False)
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield said
    thread.join()
    os.close(master)
    said.append(received.decode())


# What may stand in a head of HTTP: all but the ends of its lines.
IN_HEAD = SIGNS.replace("\r", "").replace("\n", "") + MARK
ANSWERS: dict[str, list[Any]] = {
    "/status.csv": [f"HTTP/1.1 404 {IN_HEAD}\r\nContent-Length: 0\r\n\r\n".encode()],
    "/odd.csv": [f"HTTP/1.1 {IN_HEAD}\r\n\r\n".encode()],
    "/there.csv": [http(302, Location=f"ftp://{IN_HEAD}")],
    "/range.csv": [http(200, b"ImageID,", 100), http(206, b"x", Content_Range=f"bytes {IN_HEAD}")],
    "/columns.csv": [http(200, IN_HEAD.encode() * 9, Content_Type=IN_HEAD, ETag=f'"{IN_HEAD}"')],
    "/header.csv": [f"HTTP/1.1 200 OK\r\n{IN_HEAD}\r\n\r\n".encode()],
}


@pytest.fixture
def url() -> Iterator[str]:
    """Serve ANSWERS from a loop of its own; return the address."""
    loop, server = asyncio.new_event_loop(), Scripted(ANSWERS)
    thread = Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
    yield server.url

    async def close() -> None:
        await server.__aexit__()
        await asyncio.sleep(0.05)  # its sockets close in the loop's next turns

    asyncio.run_coroutine_threadsafe(close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def hostile_tables(folder: Path) -> dict[str, Path]:
    """Write tables and lists under hostile names, each wrong in a way of its own, that quote what they hold."""
    quoted = f'"{HOSTILE}"'
    bodies = {
        "boxes": f"ImageID,LabelName,{quoted}\n0000000000000001,{BALL},1\n",
        "columns": f"{quoted},LabelName\n1,2\n",
        "twice": f"{quoted},{quoted},ImageID,LabelName\n1,2,3,4\n",
        "rows": f"ImageID,LabelName,XMin\n0000000000000001,{BALL},0.5\n0000000000000002,{BALL},{quoted}\n",
        "ids": f"ImageID,LabelName\n{quoted},{BALL}\n{quoted},{KITE}\n",
        "classes": f"{BALL},{quoted}\n{quoted},Ball\n",
        "list": f"0000000000000001\n0000000000000009\n{SIGNS}\n{HOSTILE}\n",
        "json": json.dumps([HOSTILE]),
        "map": f"{quoted},x\n",
    }
    root = folder / f"tables{SIGNS}{MARK}"
    root.mkdir()
    for name, body in bodies.items():
        (root / f"{name}.csv").write_text(body, encoding="utf-8", newline="")
    return {name: root / f"{name}.csv" for name in bodies}


def jobs_of(mirror: Path, folder: Path) -> Iterator[list[Any]]:
    """Yield the command lines of jobs that come to their end, or find what is damaged."""
    saved, odd = folder / "d", folder / f"odd{SIGNS}{MARK}"
    yield ["download", "--mirror", mirror, "--savepath", saved, "--category", HOSTILE, "--max-failures", "9"]
    yield ["download", "--mirror", mirror, "--savepath", odd, "--category", f"Ball{SIGNS}", "--processes", "2"]
    yield ["plan", "--mirror", mirror, "--savepath", saved, "--category", KITE]
    for words in ([], [HOSTILE], ["none"], ["--tree"]):
        yield ["classes", "--mirror", mirror, *words]
    for action in ("list", "pull", "clear"):
        yield ["metadata", action, "--mirror", mirror, "--cache-dir", odd / "cache", "--split", "train"]
    (odd / "images" / f"foreign{SIGNS}{MARK}.jpg").write_bytes(b"x")
    next((odd / "images").glob("3*")).write_bytes(b"\xff\xd8")
    repair: list[Any] = ["--repair", "--mirror", mirror]
    for words in ([], repair):
        yield ["verify", odd, *words]
    for form in ("coco", "voc", "parquet"):
        yield ["export", odd, "--format", form]
    yield ["prune", odd]
    (odd / "query.json").write_text(json.dumps({HOSTILE: HOSTILE}), encoding="utf-8")
    yield ["verify", odd, "--repair", "--mirror", mirror]


def refused_of(mirror: Path, folder: Path, url: str) -> Iterator[list[Any]]:
    """Yield command lines with hostile names, tables, lists, values, variables and servers: most are refused."""
    tables = hostile_tables(folder)
    query = ["--mirror", mirror, "--savepath", folder / "d"]
    for option, names in (
        ("--annotation", ("boxes", "columns", "twice", "rows", "ids", "none")),
        ("--image-url", ("columns",)),
        ("--label", ("classes", "json")),
        ("--image-ids", ("list", "json")),
        ("--exclude-ids", ("list",)),
        ("--category-file", ("json",)),
    ):
        for name in names:
            yield ["plan", *query, option, tables.get(name, f"{tables['map']}.none")]
    for given in (tables["list"], tables["json"], f"{tables['map']}.none"):
        yield ["resolve", given, "--mirror", mirror]
    yield from ([HOSTILE], ["plan", f"--{HOSTILE}"], ["plan", HOSTILE])
    yield ["plan", *query, "--category", f"{HOSTILE}x"]
    options = "ndata split type source mirror allow-host shard max-image-bytes release is-occluded triplet processes"
    for option in options.split():
        yield ["plan", *query, f"--{option}", HOSTILE]
    for kind, option in (("bbox", "where"), ("narrative", "caption")):
        yield ["plan", *query, "--kind", kind, f"--{option}", f"({HOSTILE}"]
    short = ["--allow-host", url.removeprefix("http://"), "--retries", "1", "--max-wait", "1", "--timeout", "1"]
    for path in ANSWERS:
        yield ["plan", *query, "--annotation", f"{url}{path}", *short]
    for variable in ("OID_ASYNC_MIRROR", "SLURM_ARRAY_TASK_ID", "http_proxy", "SSL_CERT_FILE"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, f"x{SIGNS}{MARK}")
            patch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
            yield ["plan", *([] if variable == "OID_ASYNC_MIRROR" else ["--mirror", url])]


def odd_signs(text: str) -> list[str]:
    """Return what stands round each character that must not leave."""
    return [text[max(0, found.start() - 60) : found.end() + 20] for found in FORBIDDEN.finditer(text)]


def test_nothing_obeyed_reaches_a_terminal(
    mirror: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal no command writes a control character but rich's own, and what is quoted stays to be read."""
    quoting = 0
    for words in chain(jobs_of(mirror, tmp_path), refused_of(mirror, tmp_path, url)):
        with terminal(monkeypatch) as said:
            code = cli.main(list(map(str, words)))
        text = OURS.sub("", said[0])
        assert (code in (0, 1, 2), odd_signs(text)) == (True, []), words
        quoting += "\\x1b]" in text
    assert quoting > 40


def test_nothing_obeyed_goes_into_a_pipe(
    mirror: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines in a pipe are as clean, one a message; JSON escapes what it holds, and means the data as it is."""
    answers = []
    for at, words in enumerate(chain(jobs_of(mirror, tmp_path), refused_of(mirror, tmp_path, url))):
        as_json = at % 2 == 0 or words[0] == "classes"
        code = cli.main([*map(str, words), *(["--json"] if as_json else [])])
        said = capsys.readouterr()
        assert (odd_signs(said.out), odd_signs(said.err)) == ([], []), words
        if code == 2 and not as_json:
            assert said.err.splitlines()[-1].startswith("oid-async: error: "), words
        if as_json:
            answers.append(json.loads(said.out))
    listings = [answer["classes"] for answer in answers if isinstance(answer.get("classes"), list)]
    assert HOSTILE in [row["class_name"] for rows in listings for row in rows]
    assert "error" in answers[-1]


def test_what_others_write_to_stderr_is_clean_too() -> None:
    """A warning, a log line and a traceback of Python's keep their lines and lose their control characters."""
    code = f"""
import logging, sys, warnings
from oid_async.screen import stdio
signs = {SIGNS!r}
stdio.guard_stderr()
warnings.warn(signs)
logging.getLogger("asyncio").error("%s", signs)
sys.stderr.writelines([signs])
stdio.print_message(signs)
raise ValueError(f"{{signs}}\\nsecond")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert odd_signs(done.stderr) == []
    assert done.stderr.count("\\x1b]0;owned") == 5
    assert done.stderr.endswith("\nsecond\n")


def test_what_others_write_while_bars_are_up_is_clean_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes stderr over then; bars named by a table, and others' text, stay text, and stderr is given back."""
    with terminal(monkeypatch) as said:
        before = sys.stderr
        with Screen(quiet=False) as screen:
            screen.show(TableProgress(HOSTILE, 1, 10))
            print(f"others {SIGNS}", file=sys.stderr)
            screen.show(TableProgress(HOSTILE, 10, 10, finished=True))
        assert sys.stderr is before
    text = OURS.sub("", said[0])
    assert odd_signs(text) == []
    assert "others \\x1b]0;owned" in text
    assert "[red]" in text


def test_errors_and_notes_hold_nothing_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the Python API raises or reports is clean as well: whoever prints it is safe. So is the log of a fault."""
    assert odd_signs(str(InputError(SIGNS)) + Note(SIGNS).text + str(FetchError("network", SIGNS))) == []

    def fail(*_: object) -> int:
        raise ValueError(SIGNS)

    monkeypatch.setitem(COMMANDS, "demo", fail)
    assert cli.main(["demo"]) == 5
    (log,) = (tmp_path / "metadata-cache" / "logs").glob("*.log")
    assert odd_signs(log.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Åse 球 ‌ـ \u00a0\u202f🏴", None),
        ("\x1b[0m\x9b\x7f\x00", r"\x1b[0m\x9b\x7f\x00"),
        ("a\r\n\tb", r"a\r\n\tb"),
        ("\u202e\u2066\u200e\u2028", r"\u202e\u2066\u200e\u2028"),
        ("\udcff\ud800\U000e0041", r"\xff\ud800\U000e0041"),
        (r"C:\new", None),
    ],
)
def test_escapes_can_be_read(text: str, shown: str | None) -> None:
    """Each sign is an escape as in Python's own text, made once; all scripts and blanks that are seen stay."""
    assert printable(text) == (text if shown is None else shown)
    assert printable(printable(text)) == printable(text)


TORCH = ("downloader", "samples", "saved_images", "shard_reader", "stream")


def test_lines_leave_at_one_place() -> None:
    """Nothing in the package writes to a stream by itself: the room `screen` does, by `stdio.py` and by rich."""
    package = Path(oid_async.__file__).parent
    writes = re.compile(
        r"print|.*\.print|sys\.(__)?std(out|err)(__)?\b.*|logging\..*|sys\.\w+hook|warnings\.warn|traceback\.print.*"
    )
    found = set()
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and writes.fullmatch(ast.unparse(node.func)):
                found.add(f"{name}: {ast.unparse(node)}")
            elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stderr", "sys.__stderr__"):
                found.add(name)
    # Warnings of the datasets of PyTorch, and what a process of theirs says of a fault of its own.
    torch = {each for each in found if each.startswith("torch/")}
    assert {each.partition(":")[0] for each in torch} <= {f"torch/{name}.py" for name in TORCH}
    assert {each for each in found - torch if not each.startswith("screen/")} == {
        "cli/main.py: sys.stdout.fileno()",
        "cluster/dask_cluster.py: logging.getLogger(name)",  # to be silenced
        "gallery/connections.py: logging.Logger('oid_async.gallery')",  # writes nothing
        "jobs/opening.py: warnings.warn(printable(dataset.made.note), stacklevel=3)",
        # To the process that has started this one.
        "pages/plotting.py: sys.stdout.buffer.write(json.dumps(cpu_s()).encode() + b'\\n' + text.encode())",
    }
