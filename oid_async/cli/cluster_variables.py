"""Which part of a selection this process takes when a cluster runs several: read from its environment variables.

Slurm numbers the tasks of an array and the processes of a step; Kubernetes numbers the pods of an Indexed Job, and
does not say how many there are. slurm.schedmd.com/job_array.html, slurm.schedmd.com/srun.html and
kubernetes.io/docs/concepts/workloads/controllers/job.
"""

import re
from collections.abc import Mapping

from oid_async.errors import UsageError

_ADVICE = "say --shard K/N, or --shard 1/1 for everything"


def shard_from(environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the value of --shard (None for everything), and a line that explains it (None if there is nothing to say).

    Raises UsageError when the variables show that there are parts, but not which one this is.
    """
    variables = {name: value for name, value in environment.items() if value}
    if variables.keys() >= {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"}:
        return _part("SLURM_ARRAY_TASK_ID", _array_place(variables), _number(variables, "SLURM_ARRAY_TASK_COUNT"))
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in variables else "SLURM_NTASKS"
    # A batch script runs once, whatever number of tasks its job may start: it is process 0 of them by name alone.
    is_batch = "SLURM_JOB_ID" in variables and "SLURM_STEP_ID" not in variables
    if not is_batch and variables.keys() >= {"SLURM_PROCID", tasks} and (count := _number(variables, tasks)) > 1:
        return _part("SLURM_PROCID", _number(variables, "SLURM_PROCID"), count)
    if "JOB_COMPLETION_INDEX" not in variables:
        return None, None
    if "OID_ASYNC_SHARDS" not in variables:
        return None, (
            "JOB_COMPLETION_INDEX is set and OID_ASYNC_SHARDS is not, so this is no part but everything: "
            "set OID_ASYNC_SHARDS to the number of completions of the Job"
        )
    return _part(
        "JOB_COMPLETION_INDEX", _number(variables, "JOB_COMPLETION_INDEX"), _number(variables, "OID_ASYNC_SHARDS")
    )


def _array_place(variables: Mapping[str, str]) -> int:
    """Return which task of its array this is, from 0. Raises UsageError for an array with gaps, such as 1,3,7."""
    task, count = _number(variables, "SLURM_ARRAY_TASK_ID"), _number(variables, "SLURM_ARRAY_TASK_COUNT")
    first = _number(variables, "SLURM_ARRAY_TASK_MIN", 0)
    step = max(1, _number(variables, "SLURM_ARRAY_TASK_STEP", 1))
    last = _number(variables, "SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
    if (last - first) // step + 1 != count or (task - first) % step:
        raise UsageError(
            f"SLURM_ARRAY_TASK_ID is {task} in an array of {count} from {first} to {last}, which leaves some out: "
            f"which part this is cannot be told; {_ADVICE}"
        )
    return (task - first) // step


def _part(name: str, place: int, count: int) -> tuple[str, str]:
    """Return the value of --shard for a part counted from 0, and the line that explains it."""
    if not 0 <= place < count:
        raise UsageError(f"{name} makes this part {place + 1} of {count}, which there is not; {_ADVICE}")
    return f"{place + 1}/{count}", f"part {place + 1} of {count}, from {name}; --shard 1/1 for everything"


def _number(variables: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = variables.get(name)
    if value is None and default is not None:
        return default
    if value is None or not re.fullmatch("[0-9]{1,9}", value):
        raise UsageError(f"{name} is no number: {value!r}; {_ADVICE}")
    return int(value)
