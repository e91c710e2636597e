"""The commands; those of a query are in `cli.query_commands`, those that list in `cli.listing_commands`.

Each reads its arguments, runs its job on a loop of its own, prints the result, returns the exit code.

Nothing heavy is imported before a command really runs.
"""

import argparse
from collections.abc import Callable, Mapping

from oid_async.cli.help_commands import run_completion, run_help
from oid_async.cli.listing_commands import run_classes, run_metadata, run_resolve
from oid_async.cli.looking_commands import run_stats, run_view
from oid_async.cli.polars_settings import set_up_polars
from oid_async.cli.query_commands import run_demo, run_download, run_plan, run_repeat
from oid_async.cli.running import open_screen, print_answer, run_to_end, say_interrupted
from oid_async.options.export import ExportOptions
from oid_async.options.keywords import PlaceOptions, VerifyOptions
from oid_async.options.query import Options
from oid_async.screen.stdio import print_json, print_row


def run_verify(arguments: argparse.Namespace) -> int:
    """Run `oid-async verify`."""
    savepath = Options(savepath=arguments.savepath).savepath
    given = {name: value for name, value in vars(arguments).items() if name in VerifyOptions.__annotations__}
    options = Options(savepath=savepath, **given)
    set_up_polars(options if arguments.repair else None)
    from oid_async.cli.result_text import finding_rows, verification_lines
    from oid_async.jobs.stored_query import Given
    from oid_async.jobs.verify import verification

    these = Given.of(savepath, given, repairs=arguments.repair)

    with open_screen(arguments) as screen:
        verify = verification(
            these, screen.show, repair=arguments.repair, deep=arguments.deep, exports=arguments.exports
        )
        found, code = run_to_end(verify.run)
        if found is not None:
            screen.say(verification_lines(found))
    if found is None:
        return say_interrupted(arguments, code)
    if arguments.json:
        print_json(found.as_json())
    elif not arguments.quiet:
        for row in finding_rows(found):
            print_row(row)
    return 0 if found.clean or (arguments.repair and found.allows(options)) else 1


def run_export(arguments: argparse.Namespace) -> int:
    """Run `oid-async export`."""
    fields = ExportOptions.__dataclass_fields__
    options = ExportOptions(**{name: value for name, value in vars(arguments).items() if name in fields})
    also = Options(savepath=arguments.savepath, processes=vars(arguments).get("processes", "auto"))
    set_up_polars(None)
    from oid_async.cli.result_text import export_lines
    from oid_async.jobs.export import Export
    from oid_async.jobs.stored_query import Given

    read = {name: value for name, value in vars(arguments).items() if name in PlaceOptions.__annotations__}
    these = Given.of(also.savepath, read)
    with open_screen(arguments) as screen:
        export = Export(
            also.savepath,
            options,
            screen.show,
            processes=also.processes,
            edited=arguments.edited,
            given=these,
            endpoint_url=these.options.endpoint_url,
        )
        report, code = run_to_end(export.run)
        if report is not None:
            screen.say(export_lines(report))
    if report is None:
        return say_interrupted(arguments, code)
    if arguments.json:
        print_json(report.as_json())
    return 0


def run_prune(arguments: argparse.Namespace) -> int:
    """Run `oid-async prune`."""
    savepath = Options(savepath=arguments.savepath).folder_for("prune")
    set_up_polars(None)
    from oid_async.cli.result_text import prune_lines
    from oid_async.jobs.prune import Prune

    with open_screen(arguments) as screen:
        report, code = run_to_end(Prune(savepath, screen.show, dry_run=arguments.dry_run).run)
    if report is None:
        return say_interrupted(arguments, code)
    return print_answer(arguments, report.as_json(), prune_lines(report))


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "download": run_download,
    "plan": run_plan,
    "repeat": run_repeat,
    "classes": run_classes,
    "metadata": run_metadata,
    "resolve": run_resolve,
    "verify": run_verify,
    "export": run_export,
    "prune": run_prune,
    "view": run_view,
    "stats": run_stats,
    "demo": run_demo,
    "help": run_help,
    "completion": run_completion,
}
