"""The notes of a job, in a list."""

from oid_async.events import Event, Note, Sink


def notes_into(notes: list[str]) -> Sink:
    """Return what takes the events of a job, and adds the text of each note to the list."""

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    return listen
