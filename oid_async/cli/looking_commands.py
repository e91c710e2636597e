"""The commands that show what was saved."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from oid_async.cli.polars_settings import set_up_polars
from oid_async.cli.running import named_target, open_screen, run_to_end, say_interrupted
from oid_async.events import Event, Note
from oid_async.options.keywords import ReadOptions, StatsOptions
from oid_async.options.paths import read_path
from oid_async.options.query import Options
from oid_async.screen.stdio import print_drawing, print_json, print_message, print_result, terminal_width


def run_view(arguments: argparse.Namespace) -> int:
    """Run `oid-async view`: it ends by a signal alone, or by an error."""
    given = Options(savepath=arguments.savepath)
    set_up_polars(None)
    from oid_async.gallery.listening import Place
    from oid_async.jobs.stored_query import Given
    from oid_async.jobs.view import View

    read = {name: value for name, value in vars(arguments).items() if name in ReadOptions.__annotations__}
    out = None if arguments.out is None else Path(read_path("--out", arguments.out))

    def say_address(url: str) -> None:
        # With --quiet, too: nobody could look without it.
        ending = "  (Ctrl-C ends it)" if arguments.no_open and not arguments.quiet else ""
        print_message(f"view: {url}{ending}")
        if arguments.json:
            print_json({"url": url})

    def say_note(event: Event) -> None:
        # No screen: its bars would be drawn anew ten times a second for as long as somebody looks.
        if isinstance(event, Note) and not arguments.quiet:
            print_message(event.text)

    view = View(Given.of(given.savepath, read), Place.read(arguments.host, arguments.port), out=out)
    _, code = run_to_end(partial(view.run, say_address, say_note, print_message, opens=not arguments.no_open))
    return code


def run_stats(arguments: argparse.Namespace) -> int:
    """Run `oid-async stats`."""
    html = named_target(arguments, "--html", arguments.html)
    given: Any = {name: value for name, value in vars(arguments).items() if name in StatsOptions.__annotations__}
    is_query = arguments.savepath is None
    set_up_polars(Options.of(**given) if is_query else None, None if is_query else Path(arguments.savepath))
    from oid_async.jobs.stats import Stats

    with open_screen(arguments) as screen:
        found, code = run_to_end(Stats(arguments.savepath, None, given, screen.show, html=html).run)
    if found is None:
        return say_interrupted(arguments, code)
    if isinstance(html, Path) and not arguments.quiet:
        print_message(f"written: {html}")
    if arguments.json:
        print_json(found.as_json())
    elif not arguments.quiet and (html is None or isinstance(html, Path)):
        from oid_async.screen.stats_text import drawn, plain_lines

        if (width := terminal_width()) is None:
            print_result(*plain_lines(found))
        else:
            print_drawing(drawn(found, width))
    return 0
