"""The files of examples/cluster are accepted by who reads them, and two tasks do here what they describe."""

import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.cluster_runs import counting_origin
from support.published import read_manifest, run_cli
from support.shown_examples import EXAMPLES

from oid_async.cli.parser import make_parser

# It has no types, and a type checker may find types of others or not.
yaml: Any = importlib.import_module("yaml")

SCRIPT, JOB = EXAMPLES / "cluster" / "download.sh", EXAMPLES / "cluster" / "job.yaml"
# All of the split: the Person images of train, of which one is missing, in parts of some images.
PERSONS, MISSING = 114, 1
SMALL_PARTS = ("--part-size", "8M")


def job() -> dict[str, Any]:
    """Return the manifest of the Kubernetes Job."""
    loaded: dict[str, Any] = yaml.safe_load(JOB.read_text(encoding="utf-8"))
    return loaded


def command_of_the_job(**instead: object) -> list[str]:
    """Return the words of the container's command behind the program's name, with other values of some options."""
    (container,) = job()["spec"]["template"]["spec"]["containers"]
    program, *words = container["command"]
    assert program == "oid-async"
    for option, value in instead.items():
        words[words.index(f"--{option}") + 1] = str(value)
    return list(words)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `oid-async` be the one that is tested, and SAVEPATH that of the script."""
    program = tmp_path / "bin" / "oid-async"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m oid_async "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SAVEPATH", str(tmp_path / "person"))


def run_tasks(command: Sequence[object], *tasks: dict[str, str]) -> None:
    """Run a command once for each task, all at the same time; each ends with exit code 0."""
    words = list(map(str, command))
    started = [
        subprocess.Popen(words, env=os.environ | task, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for task in tasks
    ]
    ends = [(each.communicate(timeout=100)[1], each.returncode) for each in started]
    assert [code for _, code in ends] == [0] * len(tasks), ends


def assert_complete(place: Path) -> None:
    """Every image of the selection is in the manifest, those that could be had in a shard; all of it is whole."""
    rows = read_manifest(place)
    saved = {row["Shard"] for row in rows if row["Status"] == "ok"}
    assert Counter(row["Status"] for row in rows) == {"ok": PERSONS - MISSING, "failed": MISSING}
    assert saved == {f"shards/{path.name}" for path in (place / "shards").iterdir()}
    assert len(saved) > 2
    assert run_cli("verify", place).code == 0


def test_the_job_is_an_indexed_job_of_a_download() -> None:
    """Its command is accepted, its volumes are those that are mounted, and no root runs it."""
    spec = job()["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (job()["apiVersion"], job()["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert spec["parallelism"] <= spec["completions"]
    assert pod["restartPolicy"] == "OnFailure"
    values = vars(make_parser().parse_args(command_of_the_job()))
    assert (values["cluster"], str(values["savepath"]), values["no_files"]) == ("array", "s3://my-bucket/person", True)
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    (variable,) = container["env"]
    assert variable["name"] == "OID_ASYNC_CACHE"
    assert variable["value"].startswith(container["volumeMounts"][0]["mountPath"])
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]


def test_slurm_finds_its_options_before_the_first_command() -> None:
    """Behind a command sbatch reads no #SBATCH line any more."""
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    options = {line.split("=")[0]: number for number, line in enumerate(lines) if line.startswith("#SBATCH ")}
    assert options.keys() == {f"#SBATCH --{name}" for name in ("job-name", "array", "cpus-per-task", "mem", "time")}
    assert max(options.values()) < min(commands)


@pytest.mark.cluster
def test_two_tasks_of_the_array_fill_one_place(demo_mirror: Path, environment: None, tmp_path: Path) -> None:
    """The script, started twice as Slurm starts it; two workers of one machine then find nothing left to fetch."""
    place = tmp_path / "person"
    with counting_origin(demo_mirror) as (url, origin):
        array = {"OID_ASYNC_MIRROR": url, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0"}
        run_tasks(["bash", SCRIPT, *SMALL_PARTS], *(array | {"SLURM_ARRAY_TASK_ID": str(task)} for task in range(2)))
        assert_complete(place)
        origin.forget()
        words = command_of_the_job(savepath=place, cluster="local:2")
        done = run_cli(*words, *SMALL_PARTS, "--mirror", url, "--json")
        assert (done.code, json.loads(done.stdout)["present"]) == (0, PERSONS - MISSING), done.stderr
        assert not origin.asked


@pytest.mark.cluster
def test_two_pods_of_the_job_fill_one_place(demo_mirror: Path, environment: None, tmp_path: Path) -> None:
    """The container's command, started twice as Kubernetes starts it, with a folder in place of the bucket."""
    command = ["oid-async", *command_of_the_job(savepath=tmp_path / "person"), *SMALL_PARTS]
    with counting_origin(demo_mirror) as (url, _):
        pods = [{"JOB_COMPLETION_INDEX": str(pod), "HOSTNAME": f"open-images-{pod}"} for pod in range(2)]
        run_tasks(command, *({"OID_ASYNC_MIRROR": url} | pod for pod in pods))
    assert_complete(tmp_path / "person")
