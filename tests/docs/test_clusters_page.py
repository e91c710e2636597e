"""The files that docs/clusters.md shows are accepted by who reads them; on a real Slurm they run (tests/cluster)."""

import json
import re
import shlex

from support.clusters_page import shown_file

from oid_async.cli.parser import make_parser
from oid_async.options.query import option_fields


def accepted(words: list[str]) -> dict[str, object]:
    """Return the values of the options of a command, as the command line reads them."""
    values = vars(make_parser().parse_args(words))
    return {field.name: values[field.name] for field in option_fields() if field.name in values}


def test_the_script_of_the_slurm_array_is_a_command() -> None:
    """Its last line is a download by an array."""
    program, *words = shlex.split(shown_file("download.sh").splitlines()[-1])
    assert program == "oid-async"
    assert accepted(words)["cluster"] == "array"


def test_the_job_of_kubernetes_runs_a_command() -> None:
    """Its container's command is a download by an array, and names no file of the user's machine."""
    (command,) = re.findall(r"command: \[(.*?)\]", shown_file("job.yaml"), re.DOTALL)
    program, *words = (word.strip().strip('"') for word in command.split(","))
    assert program == "oid-async"
    values = accepted(words)
    assert (values["cluster"], str(values["savepath"])) == ("array", "s3://my-bucket/person")


def test_the_rule_of_the_bucket_is_json() -> None:
    """It ends unfinished uploads and touches nothing else."""
    (rule,) = json.loads(shown_file("lifecycle.json"))["Rules"]
    assert rule.keys() == {"ID", "Status", "Filter", "AbortIncompleteMultipartUpload"}
