"""The steps of a Dockerfile, run without a builder: below a folder that stands for the root, by this Python."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: its word and what is behind it."""

    word: str
    rest: str

    def items(self) -> list[str]:
        """Return the words behind it, of a JSON list too."""
        return list(json.loads(self.rest)) if self.rest.startswith("[") else shlex.split(self.rest)


def steps_of(dockerfile: Path) -> list[Step]:
    """Return the instructions of a Dockerfile in order."""
    lines = [line for line in dockerfile.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [Step(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined)]


def context_of(checkout: Path) -> Iterator[str]:
    """Yield the files that a builder would get of a checkout, by its .dockerignore: the last pattern that fits decides.

    https://docs.docker.com/build/concepts/context/#dockerignore-files
    """
    lines = (checkout / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    for folder, folders, files in os.walk(checkout):
        # Environments and caches are large, and a pattern with `!` means none of them.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(files):
            path = Path(folder, name).relative_to(checkout)
            fitting = [each for each in patterns if any(_fits(part, each) for part in (path, *path.parents[:-1]))]
            if not fitting or fitting[-1].startswith("!"):
                yield path.as_posix()


def _fits(path: Path, pattern: str) -> bool:
    """Return whether a pattern means a file or a folder above it; `**/` is any number of folders."""
    pattern = pattern.removeprefix("!")
    if pattern.startswith("**/"):
        return fnmatch(path.name, pattern[3:])
    return len(path.parts) == len(PurePosixPath(pattern).parts) and fnmatch(path.as_posix(), pattern)


@dataclass
class Image:
    """What the steps have made below a folder, and how a program is started there."""

    root: Path
    env: dict[str, str]
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)


class Build:
    """The steps of a checkout's Dockerfile, run one after the other, each stage below the same folder.

    What it cannot do as a builder does: this machine and its Python stand for the base image, and absolute paths of the
    image are found in a step's text, and put below `root`. A step of another sort than these ends it.
    """

    def __init__(self, checkout: Path, root: Path, arguments: dict[str, str]) -> None:
        self.checkout = checkout
        self.root = root
        self.arguments = arguments
        self.steps = steps_of(checkout / "Dockerfile")
        # The folders of the image that are not the machine's.
        made = [step.items()[-1] for step in self.steps if step.word == "COPY"]
        made += [volume for step in self.steps if step.word == "VOLUME" for volume in step.items()]
        tops = "|".join(sorted({PurePosixPath(path).parts[1] for path in made}))
        self._own = re.compile(rf"(?<![\w./-])/(?=({tops})\b)")
        self._stages: dict[str, Path] = {}
        self._stage = ""
        self._values: dict[str, str] = {}
        self.image = Image(root, {})

    def below(self, text: str) -> str:
        """Return a text with the image's own paths as they are on this machine."""
        return self._own.sub(f"{self.root}/", text)

    def run(self) -> Image:
        """Run all steps, and return the image of the last stage."""
        for step in self.steps:
            getattr(self, f"_{step.word.lower()}")(step)
        return self.image

    def _from(self, step: Step) -> None:
        """Begin a stage: an empty root in which `python` is this Python."""
        if self.root.exists():
            self._stages[self._stage] = self.root.rename(self.root.with_name(f"stage-{self._stage}"))
        _, _, self._stage = step.rest.partition(" AS ")
        programs = self.root / "usr" / "local" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        (programs / "python").chmod(0o755)
        self.image = Image(self.root, {"PATH": f"{programs}:/usr/bin:/bin"})
        self._values = {}

    def _arg(self, step: Step) -> None:
        name, _, default = step.rest.partition("=")
        self._values[name] = self.arguments.get(name, default)

    def _copy(self, step: Step) -> None:
        stage = re.match(r"--from=(\S+)", step.rest)
        *sources, target = [word for word in step.items() if not word.startswith("--")]
        for source in sources:
            if stage:
                shutil.copytree(self._stages[stage[1]] / source[1:], self.below(target), symlinks=True)
                continue
            for name in context_of(self.checkout):
                if name == source or name.startswith(f"{source}/"):
                    inner = name if target.endswith("/") else PurePosixPath(name).relative_to(source)
                    path = Path(self.below(target), inner)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(self.checkout / name, path)

    def _run(self, step: Step) -> None:
        # What reaches package servers is the machine's own: settings of pip, proxies.
        env = {**os.environ, **self._values, **self.image.env}
        command = ["/bin/sh", "-ec", self.below(step.rest)]
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{step.rest}: {done.stdout}{done.stderr}"

    def _env(self, step: Step) -> None:
        name, _, value = step.rest.partition("=")
        self.image.env[name] = self.below(value).replace("$PATH", self.image.env["PATH"])

    def _user(self, step: Step) -> None:
        self.image.user = step.rest

    def _entrypoint(self, step: Step) -> None:
        self.image.entrypoint = step.items()

    def _leave(self, step: Step) -> None:
        """Do nothing: folders exist already, and the test gives the words behind the entry point."""

    _workdir = _volume = _cmd = _leave
