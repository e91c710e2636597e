"""What is published at a place, and what is done of it: the query, its generations, which parts have a record."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO

import polars as pl

from oid_async.cluster.layout import PLAN, PLANS, RECORDS, begun_key, generation_key
from oid_async.cluster.part_file import MASKS, part_bytes, read_part
from oid_async.cluster.published import DAMAGED, Begun, Generation, Part, PublishedQuery
from oid_async.cluster.record import reading_record
from oid_async.errors import InputError
from oid_async.masks.archive import ArchiveState
from oid_async.objects.store import ExistsError, MissingError, Objects
from oid_async.objects.values import md5_of


def read_query(objects: Objects) -> PublishedQuery | None:
    """Return the query of a place, None if there is none. Blocking. Raises InputError, StorageError."""
    try:
        text = objects.get(PLAN)
    except MissingError:
        return None
    try:
        return PublishedQuery.from_json(text)
    except DAMAGED as error:
        raise _damaged(objects, PLAN) from error


def read_generation(objects: Objects, number: int) -> Generation | None:
    """Return a published generation, None if there is none of this number. Blocking. Raises InputError."""
    key = generation_key(number)
    try:
        text = objects.get(key)
    except MissingError:
        return None
    try:
        return Generation.from_json(text)
    except DAMAGED as error:
        raise _damaged(objects, key) from error


def read_generations(objects: Objects) -> list[Generation]:
    """Return all published generations, in order. Blocking. Raises InputError, StorageError."""
    found: list[Generation] = []
    while (generation := read_generation(objects, len(found))) is not None:
        found.append(generation)
    return found


def read_begun(objects: Objects, number: int) -> Begun | None:
    """Return how a generation is made, None if nobody has begun it. Blocking. Raises InputError."""
    key = begun_key(number)
    try:
        return Begun.from_json(objects.get(key))
    except MissingError:
        return None
    except DAMAGED as error:
        raise _damaged(objects, key) from error


def put_begun(objects: Objects, number: int, begun: Begun) -> Begun:
    """Put how a generation is made; return what counts, maybe somebody else's. Blocking."""
    try:
        objects.put_new(begun_key(number), begun.to_json())
    except ExistsError:
        theirs = read_begun(objects, number)
        assert theirs is not None
        return theirs
    return begun


def put_generation(objects: Objects, generation: Generation) -> Generation:
    """Publish a generation whose parts are there; return the one that counts, maybe somebody else's. Blocking."""
    try:
        objects.put_new(generation_key(generation.number), generation.to_json())
    except ExistsError:
        theirs = read_generation(objects, generation.number)
        assert theirs is not None
        return theirs
    return generation


def put_part(objects: Objects, part: Part, images: pl.DataFrame, archives: Mapping[str, ArchiveState]) -> Part:
    """Put the file of a part; return the part with the MD5 of the file that is there. Blocking. Raises InputError.

    Another release of Polars may have written the same rows in other bytes.
    """
    body = part_bytes(images, archives)
    try:
        objects.put_new(part.plan_key, body)
    except ExistsError as error:
        body = objects.get(part.plan_key)
        try:
            is_same = pl.read_parquet(BytesIO(body), glob=False).equals(images)
        except pl.exceptions.PolarsError:
            is_same = False
        if not is_same:
            raise InputError(
                f"{objects.place}: {part.plan_key} has other images or annotations than this query has now: the tables "
                "have changed since its plan was begun; name another --savepath, or remove this one's .oid_async/plan "
                "and .oid_async/plan.json, as long as there are no records"
            ) from error
    return replace(part, md5=md5_of(body))


def used_archives(images: pl.DataFrame, states: Mapping[str, ArchiveState]) -> dict[str, ArchiveState]:
    """Return the states of those archives, by key, that hold masks of these images."""
    if MASKS not in images.columns:
        return {}
    keys = images.get_column(MASKS).explode().struct.field("archive").unique().drop_nulls()
    return {key: states[key] for key in keys}


def get_part(objects: Objects, part: Part) -> tuple[pl.DataFrame, dict[str, ArchiveState]]:
    """Return the rows of a part's file, and the archives of its masks. Blocking. Raises InputError, StorageError."""
    return read_part(get_part_bytes(objects, part))


def get_part_bytes(objects: Objects, part: Part) -> bytes:
    """Return a part's file. Blocking. Raises InputError for one that is not as it was published, StorageError."""
    try:
        body = objects.get(part.plan_key)
    except MissingError as error:
        raise _missing(objects, part.plan_key) from error
    if md5_of(body) != part.md5:
        raise InputError(
            f"{objects.place}: {part.plan_key} is not what was published (its MD5 differs); name another --savepath, "
            "and begin there"
        )
    return body


def get_record(objects: Objects, part: Part, columns: Sequence[str]) -> pl.DataFrame:
    """Return columns of the rows of a part's record. Blocking. Raises InputError, StorageError."""
    try:
        body = objects.get(part.record_key)
    except MissingError as error:
        raise _missing(objects, part.record_key) from error
    with reading_record(f"{objects.place}/{part.record_key}"):
        return pl.read_parquet(BytesIO(body), columns=list(columns), glob=False)


def parts_to_do(objects: Objects, generation: Generation) -> list[Part]:
    """Return the parts of a generation that have no record, in order. Blocking: one listing."""
    done = {found.key for found in objects.list(f"{RECORDS}/{generation.number:02}")}
    return [part for part in generation.parts if part.record_key not in done]


def has_begun(objects: Objects) -> int:
    """Return how many objects of a plan there are: it grows as long as somebody publishes. Blocking."""
    return sum(1 for _ in objects.list(PLANS))


def _missing(objects: Objects, key: str) -> InputError:
    return InputError(
        f"{objects.place}: {key} is missing, without which nothing can go on; name another --savepath, and begin there"
    )


def _damaged(objects: Objects, key: str) -> InputError:
    return InputError(
        f"{objects.place}: {key} is damaged, or of a later version of oid-async; take that, or name another --savepath"
    )
