"""The commands that list what there is: `classes`, `metadata`, `resolve`."""

import argparse

from oid_async.cli.running import open_screen, options_of, print_answer, run_to_end, say_interrupted
from oid_async.screen.stdio import print_json, print_rows


def run_classes(arguments: argparse.Namespace) -> int:
    """Run `oid-async classes`."""
    options = options_of(arguments)
    from oid_async.cli.listing_text import class_lines
    from oid_async.jobs.listings import Listings

    with open_screen(arguments) as screen:
        listings = Listings(options, screen.show)
        classes, code = run_to_end(lambda: listings.classes(arguments.pattern, tree=arguments.tree))
    if classes is None:
        return say_interrupted(arguments, code)
    return print_answer(arguments, classes.as_json(), class_lines(classes, tree=arguments.tree))


def run_metadata(arguments: argparse.Namespace) -> int:
    """Run `oid-async metadata`."""
    options = options_of(arguments)
    from oid_async.cli.listing_text import table_lines
    from oid_async.jobs.listings import Listings

    with open_screen(arguments) as screen:
        listings = Listings(options, screen.show)
        jobs = {
            "list": lambda: listings.tables(ask=arguments.sizes),
            "pull": listings.pull_sizes if arguments.sizes else listings.pull,
            "clear": lambda: listings.clear(
                everything=not {"splits", "release", "images", "mirror"} & vars(arguments).keys()
            ),
        }
        tables, code = run_to_end(jobs[arguments.action])
    if tables is None:
        return say_interrupted(arguments, code)
    listed = listings.listed(tables)
    return print_answer(arguments, listed.as_json(), table_lines(tables, listings.root))


def run_resolve(arguments: argparse.Namespace) -> int:
    """Run `oid-async resolve`."""
    options = options_of(arguments)
    from oid_async.cli.listing_text import resolved_rows, unknown_lines
    from oid_async.jobs.resolve import Resolve

    with open_screen(arguments) as screen:
        found, code = run_to_end(Resolve(arguments.given, options, screen.show).run)
        if found is not None:
            screen.say(unknown_lines(found))
    if found is None:
        return say_interrupted(arguments, code)
    if arguments.json:
        print_json(found.as_json())
    elif not arguments.quiet:
        print_rows(resolved_rows(found))
    return 0 if options.allows(len(found.unknown), found.lines) else 1
