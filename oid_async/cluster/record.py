"""The record of a part: one row a planned image, and of the part what its shard is. Putting it commits the part."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.ids import KEY
from oid_async.store.results import MANIFEST_SCHEMA

# After the columns of the manifest. `Next`: sources that are still to be asked, with a comma between them, null for
# none: the image waits for a later generation, and its Status is pending. `Offset`: where its bytes begin in the shard
# (tar alone). `Known`: what is remembered of each source that failed, as in a plan.
RECORD_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    KEY: pl.UInt64,
    **MANIFEST_SCHEMA,
    "Detail": pl.String,
    "Attempts": pl.Int64,
    "Known": pl.String,
    "Next": pl.String,
    "Offset": pl.Int64,
}
_NOTE = "oid_async.record"
# What to do about a record that cannot be used.
MADE_AGAIN = "remove it, then run the same command again, and its part is made again"


@dataclass(frozen=True, slots=True)
class ShardNote:
    """A shard as it was put: key below the place, size in bytes, MD5 (hexadecimal), ETag, number of samples."""

    key: str
    size: int
    md5: str
    etag: str | None
    samples: int


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a part. `plan_md5` is that of its plan file, `shard` is None where no image was saved.

    `rows` counts the annotations in the shard by kind, `left_out` what was left out of it by reason, `masks` are the
    counts of a report's `masks`; `failed_masks` are (MaskPath, reason, detail). `requests` and `seconds` are those of
    who committed it, `saved_bytes` are those of its images; `failures` and `sources` count its images.
    """

    generation: int
    name: str
    plan_md5: str
    shard: ShardNote | None
    images: int
    saved: int
    failures: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    masks: Mapping[str, int] = field(default_factory=dict)
    failed_masks: tuple[tuple[str, str, str], ...] = ()
    requests: int = 0
    saved_bytes: int = 0
    seconds: float = 0.0

    def to_parquet(self, outcomes: pl.DataFrame) -> bytes:
        """Return its file: `outcomes` have RECORD_SCHEMA (and Role, VerifiedAbsent of a query with negatives)."""
        file = BytesIO()
        outcomes.write_parquet(file, metadata={_NOTE: json.dumps(asdict(self))}, row_group_size=1 << 16)
        return file.getvalue()

    @classmethod
    def read(cls, file: Path | bytes) -> Self:
        """Read what a record says of its part, without its rows. Raises as Polars does, ValueError, TypeError."""
        note = pl.read_parquet_metadata(file if isinstance(file, Path) else BytesIO(file))[_NOTE]
        values: dict[str, Any] = json.loads(note)
        shard: dict[str, Any] | None = values["shard"]
        values["shard"] = None if shard is None else ShardNote(**shard)
        values["failed_masks"] = tuple(tuple(each) for each in values["failed_masks"])
        return cls(**values)


@contextmanager
def reading_record(name: str) -> Iterator[None]:
    """Raise what is raised by the bytes of a record as an InputError that names it and says what to do."""
    try:
        yield
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(f"{name}: it cannot be read as the record of a part; {MADE_AGAIN}") from error
