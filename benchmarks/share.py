"""Where the processor time of an image goes: kernel, MD5, TLS, interpreter, Polars, by samples of perf.

Usage:
    python benchmarks/share.py [--only PROFILE,...] [--tools NAME,...] [--out FILE.md]

perf (Debian: linux-perf) looks 997 times a second of processor time which code runs, in a download of few images and in
one of four times as many; what the larger one has more is the steady state, as in download.py.  Samples are counted by
file and symbol alone: without call graphs, which need frame pointers and slow the program down.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import download
import harness
import server
from contestants import OURS, Contestant, Job, our_summary
from figures import markdown_table
from harness import BenchError
from profiles import NO_HASH, Kind, Profile, chosen_names, chosen_tools, make_profiles

FREQUENCY_HZ = 997
Group = Literal["kernel", "MD5", "TLS", "interpreter", "garbage collector", "Polars", "rest"]
# The file of the code and its symbol, or its address in the file where that has no symbols.
Code = tuple[str, str]
Samples = Counter[Code]
Rows = list[list[str]]

MD5_LOOP = "import hashlib; body = bytes(1 << 20); [hashlib.md5(body).digest() for _ in range(800)]"
MD5_SYMBOL = re.compile(r"md5", re.IGNORECASE)
# Functions of the interpreter's garbage collector (Modules/gcmodule.c, Python/gc.c) and what it visits objects with.
COLLECTOR = re.compile(r"^_?(Py)?(object)?_?gc_|^visit_|_traverse$|^deduce_unreachable|^update_refs|^subtract_refs")
INTERPRETER = re.compile(r"^(libpython|python3)|\.cpython-[^/]*\.so$")


@dataclass(frozen=True)
class Md5Code:
    """Where a library that has no symbols keeps its MD5: the addresses from `low` to `high`."""

    file: str
    low: int
    high: int

    def has(self, code: Code) -> bool:
        at = address(code[1])
        return code[0] == self.file and at is not None and self.low <= at <= self.high


def address(symbol: str) -> int | None:
    """The address that stands in the place of a symbol.

    >>> address("0x00000000002414a6"), address("EVP_DigestUpdate")
    (2364582, None)
    """
    return int(symbol, 16) if symbol.startswith("0x") else None


def parse_samples(report: str) -> Samples:
    """Count by file and symbol, of `perf report` with a tab between its columns.

    >>> parse_samples("# head\\n1.85%\\t54\\tlibc.so.6\\t[.] memset   -      -  \\n\\n")
    Counter({('libc.so.6', 'memset'): 54})
    """
    samples: Samples = Counter()
    for line in report.splitlines():
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) < 4 or line.startswith("#"):
            continue
        words = cells[3].split()
        samples[cells[2], words[1] if len(words) > 1 else "unknown"] += int(cells[1])
    return samples


def find_md5(samples: Samples) -> Md5Code:
    """Where nearly all samples are of a program that does MD5 alone: a hundredth at both ends is something else."""
    libraries: Counter[str] = Counter()
    for (library, _), count in samples.items():
        libraries[library] += count
    library = libraries.most_common(1)[0][0]
    found = [(address(symbol), count) for (file, symbol), count in samples.items() if file == library]
    places = sorted(at for at, count in found if at is not None for _ in range(count))
    if not places:
        return Md5Code(library, 0, -1)
    cut = len(places) // 100
    return Md5Code(library, places[cut], places[-1 - cut])


def group_of(code: Code, md5: Md5Code) -> Group:
    """Whose work a sample is.  Libraries that all use, such as libc and its allocator, are the rest."""
    file, symbol = code
    name = Path(file).name
    if file.startswith("["):
        return "kernel"
    if MD5_SYMBOL.search(symbol) or md5.has(code):
        return "MD5"
    if name.startswith(("libcrypto", "libssl")):
        return "TLS"
    if "polars" in name:
        return "Polars"
    if INTERPRETER.search(name):
        return "garbage collector" if COLLECTOR.search(symbol) else "interpreter"
    return "rest"


def shares(few: Samples, many: Samples, images: int, md5: Md5Code, frequency: int = FREQUENCY_HZ) -> dict[Group, float]:
    """Milliseconds of a processor for each of `images` further images, by group."""
    counts: Counter[Group] = Counter()
    for code in few.keys() | many.keys():
        counts[group_of(code, md5)] += many[code] - few[code]
    return {group: counts[group] * 1000 / frequency / images for group in get_args(Group)}


def find_perf() -> Path:
    found = shutil.which("perf")
    if found is None:
        raise BenchError("no perf on PATH, nothing can be said of shares (Debian: apt-get install linux-perf)")
    return Path(found)


def record(perf: Path, command: list[str], folder: Path, timeout: float, job: Job | None = None) -> Samples:
    """Run a command under perf and count its samples; of a download all images must have come."""
    data = folder / "perf.data"
    recording = [str(perf), "record", "-q", "-F", str(FREQUENCY_HZ), "-e", "cpu-clock", "-o", str(data), "--"]
    variables = {"SSL_CERT_FILE": str(job.authority)} if job and job.authority else {}
    cost = harness.measure([*recording, *command], folder, timeout, variables)
    if job is not None:
        our_summary(cost, len(job.corpus.sizes))
    fields = ["--stdio", "-q", "-n", "-t", "\t", "--sort", "dso,symbol", "-i", str(data)]
    reporting = [str(perf), "report", *fields]
    done = subprocess.run(reporting, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise BenchError(f"perf report: {done.stderr[-500:]}")
    samples = parse_samples(done.stdout)
    if not any(file.startswith("[") for file, _ in samples):
        raise BenchError("perf sees no code of the kernel: run as root, or set kernel.perf_event_paranoid to 1")
    return samples


def profile_once(perf: Path, contestant: Contestant, job: Job, timeout: float) -> Samples:
    job.out.mkdir(parents=True)
    try:
        harness.warm_memory(job.folder, job.corpus.image_bytes)
        return record(perf, contestant.command(job), job.folder, timeout, job)
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)


def md5_loop(program: Path) -> list[str]:
    """Nothing but MD5, by the interpreter that runs the program."""
    python = program.with_name("python")
    return [str(python if python.exists() else sys.executable), "-c", MD5_LOOP]


def row(name: str, milliseconds: dict[Group, float]) -> list[str]:
    total = sum(milliseconds.values())
    return [name, f"{total:.3f}", *(f"{value:.3f} ({value / total:.0%})" for value in milliseconds.values())]


def busiest(few: Samples, many: Samples, images: int, md5: Md5Code, symbols: int) -> list[str]:
    """The code that costs most in the steady state, a line each."""
    more = Counter({code: many[code] - few[code] for code in many})
    return [
        f"  {count * 1000 / FREQUENCY_HZ / images:.4f} ms {group_of(code, md5)}: {code[1]} in {code[0]}"
        for code, count in more.most_common(symbols)
    ]


def measure_share(perf: Path, profile: Profile, jobs: dict[Kind, Job], md5: Md5Code, args: argparse.Namespace) -> Rows:
    """A row for each of the profile's contestants."""
    rows: Rows = []
    for contestant in profile.contestants:
        job = jobs[profile.kind_of(contestant)]
        sizes = profile.sizes(contestant, len(job.corpus.sizes))
        few, many = (profile_once(perf, contestant, job.first(images), args.timeout) for images in sizes)
        more = sizes[1] - sizes[0]
        rows.append(row(f"{profile.name}, {contestant.name}", shares(few, many, more, md5)))
        print("\n".join([" ".join(rows[-1]), *busiest(few, many, more, md5, args.symbols)]), file=sys.stderr)
    return rows


def table(rows: Rows) -> str:
    return "\n".join(markdown_table(["CPU ms per image", "all", *get_args(Group)], rows)) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Where the processor time of an image goes, by samples of perf.")
    parser.add_argument("--only", metavar="PROFILE,...", default="300k,24k,https", help="profiles of download.py")
    download.add_common_arguments(parser)
    parser.add_argument("--symbols", type=int, default=12, help="so many of the busiest are named on stderr")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    perf, nginx = find_perf(), harness.find_tool("nginx")
    is_wanted = chosen_tools(args.tools) if args.tools else {OURS, NO_HASH}.__contains__
    made = make_profiles(chosen_names(args.only), args.program, nginx, args.scale, is_wanted)
    chosen = [profile.only(lambda name: name.startswith(OURS)) for profile in made if profile.few]
    rows: Rows = []
    with harness.work_folder(args.work_dir, download.room_needed(chosen, args)) as work:
        certificate, served = server.make_certificate(work / "certificate"), download.made_corpora(work, args)
        md5 = find_md5(record(perf, md5_loop(args.program), work, args.timeout))
        for profile in chosen:
            with download.open_jobs(profile, served, work, nginx, certificate, args) as jobs:
                rows += measure_share(perf, profile, jobs, md5, args)
            if args.out:
                args.out.write_text(table(rows), encoding="utf-8")
    print(table(rows))


def main() -> None:
    harness.carry_out(run, parse_arguments())


if __name__ == "__main__":
    main()
