"""The Dockerfile: a small image that runs as nobody in particular, and writes to two folders alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.dockerfile import Build, Image, context_of, steps_of

ROOT = Path(__file__).resolve().parents[2]
STEPS = steps_of(ROOT / "Dockerfile")


def last(word: str) -> str:
    """Return what is behind the last instruction of a sort."""
    return [step.rest for step in STEPS if step.word == word][-1]


def test_the_base_is_a_slim_python_that_the_project_supports() -> None:
    """Both stages begin with the same one, whose version is a classifier: what one has built the other runs."""
    bases = {step.items()[0] for step in STEPS if step.word == "FROM"}
    (version,) = [match[1] for match in map(re.compile(r"python:(3\.\d+)-slim").fullmatch, bases) if match]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
    assert f"Programming Language :: Python :: {version}" in classifiers


def test_it_does_not_run_as_root() -> None:
    """The user is a number: Kubernetes can see that it is not root (runAsNonRoot)."""
    uid, gid = last("USER").split(":")
    assert int(uid) > 0
    assert int(gid) > 0


def test_what_it_writes_is_in_volumes() -> None:
    """Cache and data are volumes, and a download goes to the folder of the data."""
    assert json.loads(last("VOLUME")) == ["/cache", "/data"]
    assert last("ENV") == "OID_ASYNC_CACHE=/cache"
    assert last("WORKDIR") == "/data"
    assert json.loads(last("ENTRYPOINT")) == ["oid-async"]


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    """No cache, environment, data or test is sent to the builder."""
    context = set(context_of(ROOT))
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "oid_async").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert context == package | {"LICENSE", "README.md", "pyproject.toml"}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Yield what the Dockerfile's steps make on this machine, with an extra whose libraries are small."""
    # Not below pytest's own folder, which other users may not enter: the program runs as another user.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Build(ROOT, Path(folder, "root"), {"EXTRAS": "s3"}).run()


def started(image: Image, *words: str) -> list[str]:
    """Return the command that starts the image's program as the image's user, if this user may become that one."""
    env = [f"{name}={value}" for name, value in image.env.items()]
    return [*as_user(image.user), "env", "-i", *env, *image.entrypoint, *words]


@cache
def as_user(user: str) -> list[str]:
    """Return the words that make what follows them run as a user; none where this one may not do so."""
    uid, gid = user.split(":")
    words = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    if os.getuid() or shutil.which("setpriv") is None:
        return []
    # This Python may be where nobody else can read it, as in the home of root. setpriv itself still could: hence env.
    tried = subprocess.run([*words, "env", sys.executable, "-c", ""], capture_output=True, check=False)
    return words if tried.returncode == 0 else []


def ran(image: Image, call: list[str]) -> dict[str, Any]:
    """Run a command in the folder of the data, and return the JSON that it prints."""
    data = image.root / "data"
    done = subprocess.run(call, cwd=data, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.programs
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("dockerfile")
def test_its_steps_make_a_program_that_runs(image: Image) -> None:
    """Run one after the other they install the program in the last stage; as the image's user it runs the demo."""
    program = image.root / "opt" / "oid_async" / "bin" / "oid-async"
    assert program.read_text("utf-8").startswith(f"#!{program.parent}/python")
    assert ran(image, started(image, "demo", "--json", "written"))["downloaded"] == 312
    written = {path for folder in ("cache", "data") for path in (image.root / folder).iterdir()}
    assert written
    if as_user(image.user):
        assert {path.stat().st_uid for path in written} == {int(image.user.partition(":")[0])}


@pytest.mark.programs
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("dockerfile")
def test_it_runs_where_nothing_else_can_be_written(image: Image) -> None:
    """All is read-only but /cache, /data and /tmp, as with `docker run --read-only --tmpfs /tmp`."""
    root = image.root
    # An own mount namespace takes the place of a container's root file system.
    read_only = f"""
        mkdir -p -m 1777 {root}/tmp
        for folder in cache data tmp; do mount --bind {root}/$folder {root}/$folder; done
        mount --options remount,bind,ro "$(findmnt --noheadings --output TARGET --target {root}/opt)"
        mount --options remount,bind,ro /
        ! touch {root}/opt/probe 2>/dev/null
        ! touch /probe 2>/dev/null
        exec "$@"
    """
    namespace = ["unshare", "--mount", "sh", "-ec", read_only, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("this user may not make files read-only in a mount namespace of its own")
    image.env["TMPDIR"] = f"{root}/tmp"
    assert ran(image, [*namespace, *started(image, "demo", "--json", "read_only")])["downloaded"] == 312
    assert (
        ran(image, [*namespace, *started(image, "export", "read_only", "--format", "coco", "--json")])["images"] == 312
    )
