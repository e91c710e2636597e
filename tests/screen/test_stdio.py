"""stdout and stderr that cannot be written, and signals before the program is at work."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.published import Box, Dataset, Finished, Image, image_names

BALL = "/m/018xm"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror folder of two images, one of which is not there."""
    images = [Image("0000000000000001"), Image("0000000000000002", stored=False)]
    boxes = [Box(image.image_id, BALL) for image in images]
    return Dataset([(BALL, "Football")], images, boxes).publish(tmp_path / "mirror")


def run(redirection: str, *args: object) -> Finished:
    """Run the program with its streams as a shell redirects them."""
    words = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "oid_async", *map(str, args)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ, timeout=60, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


BROKEN = ["/dev/full", "&-"]
pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's"),
]


@pytest.mark.parametrize("where", BROKEN)
def test_a_stderr_that_cannot_be_written_costs_nothing_else(where: str, mirror: Path, tmp_path: Path) -> None:
    """Progress and closing words are dropped: the images are saved, the JSON is whole, the exit code is the run's."""
    query = ["download", "--mirror", mirror, "--savepath", tmp_path / "d"]
    assert run(f"2>{where}", *query, "--ndata", 1) == Finished(0, "", "")
    assert image_names(tmp_path / "d") == ["000000_o.jpg"]
    again = run(f"2>{where}", *query, "--json")
    assert (again.code, again.stderr, json.loads(again.stdout)["failures"]) == (1, "", {"not_found": 1})


@pytest.mark.parametrize("where", BROKEN)
def test_an_error_that_nobody_can_read_keeps_its_code(where: str) -> None:
    """Wrong use is exit 2 and nothing on stdout, also when stderr is closed or full; as JSON it can still be read."""
    command = ["plan", "--ndata", "many"]
    assert run(f"2>{where}", *command) == Finished(2, "", "")
    assert json.loads(run(f"2>{where}", *command, "--json").stdout)["error"]["kind"] == "usage"
    refused = run(f">{where}", *command, "--json")
    assert (refused.code, refused.stdout) == (2, "")
    assert refused.stderr.startswith("oid-async: error: limit (--ndata)")


@pytest.mark.parametrize("where", ["/dev/full", pytest.param("&-", marks=pytest.mark.slow)])
@pytest.mark.parametrize("words", ["download --json", "plan", "--help", "--version"])
def test_an_answer_that_cannot_be_written_is_exit_3(words: str, where: str, mirror: Path, tmp_path: Path) -> None:
    """With a stdout that takes nothing the work is done all the same; one line says so on stderr, where that works."""
    query = [] if words.startswith("--") else ["--mirror", mirror, "--savepath", tmp_path / "d", "--ndata", 1]
    done = run(f">{where}", *words.split(), *query)
    assert (done.code, done.stdout) == (3, "")
    errors = [line for line in done.stderr.splitlines() if line.startswith("oid-async: error: stdout")]
    assert done.stderr.splitlines()[-1:] == errors
    assert "Traceback" not in done.stderr
    if words == "download --json":
        assert image_names(tmp_path / "d") == ["000000_o.jpg"]
    if words == "--version":
        assert run(f">{where} 2>{where}", words).code == 3


def test_what_answers_nothing_needs_no_stdout(mirror: Path, tmp_path: Path) -> None:
    """A download without --json says all on stderr: a closed stdout is none of its business."""
    assert run(">&-", "download", "--mirror", mirror, "--savepath", tmp_path / "d", "--ndata", 1).code == 0


def test_no_file_takes_the_number_of_a_closed_stream(mirror: Path, tmp_path: Path) -> None:
    """With all three streams closed a run saves what it would, and no stray text stands in any file of it."""
    query = ["download", "--mirror", mirror, "--ndata", 1, "--savepath"]
    assert run("", *query, tmp_path / "calm").code == 0
    assert run("<&- >&- 2>&-", *query, tmp_path / "d").code == 0
    for name in ("bbox/bbox.csv", "manifest.parquet", "images/000000_o.jpg", ".oid_async/journal.tsv"):
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


def test_a_reader_that_has_gone_is_no_news(mirror: Path, tmp_path: Path) -> None:
    """When nobody reads stdout any more the program ends quietly."""
    done = run("| true", "classes", "--mirror", mirror)
    assert "rror" not in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "module"), [(signal.SIGINT, 130, "argparse"), (signal.SIGTERM, 143, "polars.datatypes")]
)
def test_a_signal_while_it_starts_ends_it_quietly(
    number: int, code: int, module: str, mirror: Path, tmp_path: Path
) -> None:
    """A signal while modules are imported is no traceback but the exit code of an interrupt."""
    words = [sys.executable, "-X", "importtime", "-m", "oid_async", "download", "--mirror", str(mirror)]
    words += ["--savepath", str(tmp_path / "d")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.split("|")[-1].strip() == module:
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err


def test_the_console_script_starts_as_the_module_does() -> None:
    """`oid-async` takes the way of `python -m oid_async`, which is ready for signals before anything is imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"oid-async": "oid_async.__main__:run"}
