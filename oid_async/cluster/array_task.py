"""Which task of a Slurm array, a Slurm step or a Kubernetes Indexed Job this process is, by its environment. Pure.

It says which parts to begin with and who asks capped hosts, nothing else: whatever is missing or odd in it, every part
is done. slurm.schedmd.com/job_array.html, slurm.schedmd.com/srun.html and
kubernetes.io/docs/concepts/workloads/controllers/job.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArrayTask:
    """The task at `index` (from 0) of `count` (None: not known) of a `job` (None: of none), said by `source`."""

    index: int = 0
    count: int | None = 1
    job: str | None = None
    source: str = ""

    @property
    def is_alone(self) -> bool:
        """Return whether there is no other task."""
        return self.count == 1


def array_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the task that this process is; the only one where no variable says otherwise.

    A job that is started anew under its old name has another OID_ASYNC_JOB, or is taken for the old one.

    >>> array_task({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8",
    ...             "SLURM_ARRAY_JOB_ID": "99"})
    ArrayTask(index=6, count=8, job='99', source='SLURM_ARRAY_TASK_ID')
    >>> array_task({"JOB_COMPLETION_INDEX": "3", "HOSTNAME": "open-images-3"})
    ArrayTask(index=3, count=None, job='open-images', source='JOB_COMPLETION_INDEX')
    """

    def number(name: str) -> int | None:
        text = environment.get(name, "")
        return int(text) if re.fullmatch("[0-9]{1,9}", text) else None

    job = environment.get("OID_ASYNC_JOB") or None
    task, first = number("SLURM_ARRAY_TASK_ID"), number("SLURM_ARRAY_TASK_MIN") or 0
    if task is not None:
        index = max(0, task - first) // max(1, number("SLURM_ARRAY_TASK_STEP") or 1)
        job = job or environment.get("SLURM_ARRAY_JOB_ID") or None
        return ArrayTask(index, number("SLURM_ARRAY_TASK_COUNT"), job, "SLURM_ARRAY_TASK_ID")
    tasks = number("SLURM_STEP_NUM_TASKS") or number("SLURM_NTASKS") or 1
    # A batch script runs once, whatever number of tasks its job may start.
    is_batch = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    process = number("SLURM_PROCID")
    if process is not None and tasks > 1 and not is_batch:
        step = ".".join(environment[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if environment.get(name))
        return ArrayTask(process, tasks, job or step or None, "SLURM_PROCID")
    pod = number("JOB_COMPLETION_INDEX")
    if pod is not None:
        named = re.fullmatch(rf"(.+)-{pod}(?:-[a-z0-9]+)?", environment.get("HOSTNAME", ""))
        return ArrayTask(pod, number("OID_ASYNC_SHARDS"), job or (named[1] if named else None), "JOB_COMPLETION_INDEX")
    return ArrayTask(job=job)
