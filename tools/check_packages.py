"""Check the wheel and the source archive of a build: what they hold, and that each runs from an empty environment.

python -m build --outdir dist && python tools/check_packages.py dist

Files of the project are those that git tracks; outside of a checkout, or without git, the archives are run, and not
compared.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from oid_async.version import __version__

ROOT = Path(__file__).resolve().parent.parent
# Tracked, and of no use in an archive that no git looks at.
LEFT_OUT = {".gitignore"}
# What setuptools adds to a source archive.
ADDED = {"PKG-INFO", "setup.cfg"}
EGG_INFO = "oid_async.egg-info"
# Where a wheel has the files that are installed beside the package, such as the manual.
_BESIDE = ".data/data/"


def main(dist: Path) -> int:
    """Return 1 with a line for each thing that is not as it should be, else 0."""
    wheel, archive = (next(dist.glob(f"oid_async-{__version__}{end}"), None) for end in ("-*.whl", ".tar.gz"))
    if wheel is None or archive is None or len(list(dist.iterdir())) != 2:
        return report([f"{dist} has to hold one wheel and one source archive of version {__version__}, nothing else"])
    faults = []
    tracked = tracked_files()
    if tracked is not None:
        package = {name for name in tracked if name.startswith("oid_async/")}
        package |= {f"share/man/man1/{PurePosixPath(name).name}" for name in tracked if name.startswith("man/")}
        faults += differences(wheel.name, files_of_wheel(wheel), package)
        faults += differences(archive.name, files_of_archive(archive), tracked - LEFT_OUT)
    with tempfile.TemporaryDirectory() as folder:
        for package_file in (wheel, archive):
            faults += wrong_when_installed(package_file, Path(folder, package_file.suffix))
    return report(faults)


def report(faults: list[str]) -> int:
    """Print the faults, and return the exit code."""
    for fault in faults:
        print(f"{Path(__file__).name}: {fault}", file=sys.stderr)
    return 1 if faults else 0


def tracked_files() -> set[str] | None:
    """Return the files of the project, None and a line where there is no checkout or no git.

    Raises CalledProcessError where git fails.
    """
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        print("What the packages hold is not compared: there is no checkout here, or no git", file=sys.stderr)
        return None
    # The checkout may belong to another user, as in a container.
    words = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name}


def files_of_wheel(wheel: Path) -> set[str]:
    """Return the files in a wheel but for its own records; those beside the package from its environment on."""
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    return {name.partition(_BESIDE)[2] or name for name in names}


def files_of_archive(archive: Path) -> set[str]:
    """Return the files in a source archive, relative to its one folder, but for what setuptools has added."""
    with tarfile.open(archive) as opened:
        names = {PurePosixPath(member.name) for member in opened.getmembers() if member.isfile()}
    inner = {name.relative_to(name.parts[0]) for name in names}
    return {str(name) for name in inner if name.parts[0] != EGG_INFO} - ADDED


def differences(name: str, found: set[str], wanted: set[str]) -> list[str]:
    """Return a line for each file that a package lacks or has without need."""
    missing = [f"{name} lacks {file}: MANIFEST.in or pyproject.toml has to name it" for file in sorted(wanted - found)]
    return missing + [f"{name} holds {file}, which is no file of the project" for file in sorted(found - wanted)]


def wrong_when_installed(package: Path, environment: Path) -> list[str]:
    """Install a package into an empty environment and return what is wrong with it there."""
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", package], check=True)
    # From a folder of its own: the checkout must not be what is imported.
    elsewhere = environment / "elsewhere"
    elsewhere.mkdir()
    program = environment / "bin" / "oid-async"
    calls: list[tuple[list[str | Path], Callable[[str], bool]]] = [
        ([program, "--version"], lambda said: said == f"oid-async {__version__}\n"),
        ([program, "demo", "--json"], lambda said: json.loads(said)["downloaded"] == 312),
        ([python, "-P", ROOT / "tools" / "check_plain_install.py"], lambda said: said == ""),
    ]
    faults = []
    for call, is_right in calls:
        done = subprocess.run(call, cwd=elsewhere, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode or not is_right(done.stdout):
            words = " ".join(Path(word).name for word in call)
            faults.append(f"{package.name}, {words}: exit {done.returncode}, said {done.stdout + done.stderr!r}")
    return faults


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
