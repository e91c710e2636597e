"""The file of `--report`: how a run went, written once at its end, however that comes.

    before the first request ──▶ may it be written there? ──▶ the run ──▶ numbers, or a page ──▶ its name

A page has plots if what draws them is installed. Its JavaScript is made meanwhile by a process of its own
(`jobs.plot_library`), so that neither the event loop nor an interrupted run waits for it.
"""

import json
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from oid_async.concurrency import in_thread
from oid_async.errors import OidError, StorageError, UsageError, storage_errors
from oid_async.events import Note, Sink
from oid_async.jobs.query_document import chosen_options
from oid_async.openimages.kinds import KINDS
from oid_async.options.paths import shown
from oid_async.options.query import Options
from oid_async.pages.plotting import INSTALL, has_library
from oid_async.report import Report
from oid_async.store.named_file import check_file_place, write_named
from oid_async.version import __version__

# Names in SAVEPATH that are a run's own.
_OWN = frozenset((".oid_async", "images", "export", "query.json", *(kind.folder for kind in KINDS.values())))
# The options that a report must not replace the file of.
_INPUTS = ("label", "annotation", "image_url", "image_ids", "exclude_ids", "category_file", "class_map")
_FORCED_S = 0.5
_NO_PLOTS = f"{{}}: the page will have its tables, but no plots, which need Altair; install it with: {INSTALL}"


@asynccontextmanager
async def reporting(options: Options, report: Report, sink: Sink) -> AsyncIterator[None]:
    """Around a run: write its report when it ends, fails or is interrupted, if its options ask for one.

    Raises UsageError or StorageError at once where no file can be written, StorageError at the end when it cannot after
    all; an error of the run goes first. Of a run that is refused before it has selected anything there is no report.
    """
    path = options.report
    if path is None:
        yield
        return
    from oid_async.jobs.plot_library import PlotLibrary

    await in_thread(check_place, path, options)
    is_page = path.suffix.lower() == ".html"
    if is_page and not has_library():
        sink(Note(_NO_PLOTS.format(f"--report {path}")))
    async with PlotLibrary(wanted=is_page and has_library()) as library:
        try:
            yield
        except BaseException as error:
            if not isinstance(error, OidError) or report.selected or isinstance(error, StorageError):
                try:
                    content = document(report, options, error, without_cpu_s=library.cpu_s)
                    await in_thread(write_report, path, content, library.is_ready)
                except StorageError as unwritten:
                    sink(Note(f"--report: {unwritten}"))
            raise
        content = document(report, options, without_cpu_s=library.cpu_s)
        await library.ready()
        await in_thread(write_report, path, content, is_page and has_library())
        sink(Note(f"how the run went is in {shown(path)}"))


def document(
    report: Report,
    options: Options,
    error: BaseException | None = None,
    *,
    without_cpu_s: tuple[float, float] = (0.0, 0.0),
) -> dict[str, Any]:
    """Return what the report says, as plain values; docs/looking.md explains each number."""
    said: dict[str, Any] = {"report": report.as_json(), "version": __version__, "options": chosen_options(options)}
    if isinstance(error, OidError):
        said["error"] = {"kind": error.kind, "message": str(error)}
    elif isinstance(error, Exception):
        said["error"] = {"kind": "internal", "message": f"a fault of oid-async ({type(error).__name__})"}
    return said | report.measures.as_json(without_cpu_s)


def write_report(path: Path, content: Mapping[str, Any], plots: bool) -> None:
    """Write a report, whole or not at all. Blocking. Raises StorageError."""
    if path.suffix.lower() == ".json":
        text = json.dumps(content, indent=1, ensure_ascii=False)
    else:
        from oid_async.pages.run import run_page

        text = run_page(content, plots=plots)
    write_named(path, [text.encode("utf-8", "backslashreplace")])


def write_at_forced_end(options: Options, report: Report) -> None:
    """Write the report of a run that cannot be ended in time, if a disk that hangs allows it within half a second."""
    if options.report is None:
        return
    path = options.report

    def write() -> None:
        # The run may still count: what a dict then raises costs the report, not the end.
        with suppress(StorageError, RuntimeError):
            write_report(path, document(report, options), plots=False)

    writing = Thread(target=write, daemon=True)
    writing.start()
    writing.join(_FORCED_S)


def check_place(path: Path, options: Options) -> None:
    """Raise UsageError or StorageError if no report can be written here: it replaces nothing of a run. Blocking."""
    with storage_errors(path):
        _check_name(path, options)
        if path.parent == options.savepath and not path.parent.exists():
            return  # the run makes it
        check_file_place("--report", path)
        if path.exists() and not path.is_file():
            raise UsageError(f"--report {path}: it is no file that could be replaced")
        # Permissions do not tell everything: there are quotas, and folders of the kernel.
        part = path.with_name(f".oid-async-{secrets.token_hex(8)}.part")
        part.touch(exist_ok=False)
        part.unlink()


def _check_name(path: Path, options: Options) -> None:
    """Raise UsageError for the name of what a run reads or writes."""
    real = path.parent.resolve() / path.name
    if options.out is not None and real.is_relative_to(options.out.resolve()):
        raise UsageError(f"--report {path}: {options.out} is for the export alone; choose another folder")
    if isinstance(options.savepath, Path) and real.is_relative_to(savepath := options.savepath.resolve()):
        inside = real.relative_to(savepath).parts
        if not inside or inside[0] in _OWN:
            own = inside[0] if inside else path.name
            raise UsageError(f"--report {path}: {own} there is the run's own; choose another name")
    for name in _INPUTS:
        value = getattr(options, name)
        if isinstance(value, str | Path) and path.exists() and os.path.exists(value) and path.samefile(value):
            raise UsageError(f"--report {path}: {name} is read from this file; choose another name")
