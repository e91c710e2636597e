"""`progress=True` of the Python functions: the screen beside the events that a program asks for."""

from collections.abc import Iterator
from contextlib import contextmanager

from oid_async.events import Event, Sink, ignore
from oid_async.options.signatures import check_switch


@contextmanager
def shown(on_event: Sink | None, *, progress: bool) -> Iterator[Sink]:
    """Yield the sink of a call: `on_event`, with `progress` a screen, too. Raises UsageError for what is no switch.

    The screen is a bar on a terminal and in a notebook, plain lines on stderr elsewhere; it goes when this is left.
    """
    check_switch("progress", progress)
    if not progress:
        yield on_event or ignore
        return
    from oid_async.screen.screen import Screen  # rich is loaded by who asks for it

    with Screen(quiet=False, is_guest=True) as screen:

        def show(event: Event) -> None:
            screen.show(event)
            if on_event is not None:
                on_event(event)

        yield show
