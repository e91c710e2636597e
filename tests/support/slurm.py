"""A Slurm of this machine alone: munged, slurmctld and slurmd on loopback, in their own folder, stopped for sure."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
PACKAGES = ("slurm-wlm", "munge")
_CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0,defer_batch
MinJobAge=3600
KillWait=2
SlurmdParameters=config_overrides
NodeName=loopback NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 State=UNKNOWN
PartitionName=all Nodes=loopback Default=YES MaxTime=INFINITE State=UP
"""


class SlurmMissingError(Exception):
    """Slurm is not here and cannot be installed here; the text says why."""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm. `environment` is what its commands need, beside the usual one."""

    folder: Path
    environment: Mapping[str, str]

    def call(self, *command: str) -> str:
        """Run one of its commands and return what it says."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise AssertionError(f"{command}: exit {done.returncode}, {done.stderr}")
        return done.stdout

    def states(self, job: str) -> dict[str, str]:
        """Return the state of each task of an array, or of the job itself, by its index ("" for the job)."""
        rows = self.call("squeue", "-h", "-t", "all", "-r", "-j", job, "-o", "%K %T").splitlines()
        pairs = (row.split() for row in rows)
        return {index if index != "N/A" else "": state for index, state in pairs}

    def wait(self, job: str, *, seconds: float) -> dict[str, str]:
        """Wait until no task of a job is waiting or running, and return their states."""
        end = time.monotonic() + seconds
        while True:
            states = self.states(job)
            if states and not {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"} & set(states.values()):
                return states
            if time.monotonic() > end:
                raise AssertionError(f"job {job} is not over after {seconds} s: {states}")
            time.sleep(0.2)


def install() -> None:
    """Install Slurm by apt where it is not there. Raises SlurmMissingError."""
    # Where Debian puts the daemons, often not in a user's PATH.
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if os.geteuid() != 0:
        raise SlurmMissingError("Slurm is not installed, and only root can install and start it")
    if shutil.which("apt-get") is None:
        raise SlurmMissingError("Slurm is not installed, and there is no apt-get to install it")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update",), ("-y", "--no-install-recommends", "install", *PACKAGES)):
        done = subprocess.run(["apt-get", "-q", *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SlurmMissingError(f"apt-get {words[-1]}: {done.stderr.strip().splitlines()[-1:]}")


@contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """Start a Slurm with one node of 8 processors, and stop it with all its jobs. Raises SlurmMissingError."""
    install()
    if os.geteuid() != 0:
        raise SlurmMissingError("only root can start Slurm's daemons")
    for name in ("state", "spool", "log"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    configuration = folder / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, host=host, **ports))
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    munged = [
        "munged",
        "--force",
        "--foreground",
        *(f"--{option}={folder}/munge.{end}" for option, end in names.items()),
    ]
    slurm = Slurm(folder, environment)
    with ExitStack() as stack:
        stack.enter_context(_daemon(munged, folder, environment))
        _await(lambda: (folder / "munge.socket").exists(), "munged")
        stack.enter_context(_daemon(["slurmctld", "-D", "-i"], folder, environment))
        stack.enter_context(_daemon(["slurmd", "-D", "-N", "loopback"], folder, environment))
        _await(lambda: _is_idle(environment), "slurmd")
        stack.callback(_end_jobs, slurm)
        yield slurm


def _end_jobs(slurm: Slurm) -> None:
    slurm.call("scancel", "-u", "root")
    _await(lambda: not slurm.call("squeue", "-h").strip(), "the end of its jobs")


@contextmanager
def _daemon(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    # `timeout` ends it when this process dies before it can.
    with (folder / "log" / command[0]).open("wb") as log:
        process = subprocess.Popen(
            ["timeout", "--kill-after=5", "600", *command], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_idle(environment: Mapping[str, str]) -> bool:
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "idle"


def _await(holds: Callable[[], bool], name: str) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, f"waited 30 s for {name}"
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
