"""Where the masks of a plan lie in their archives, by the archives' directories, which the cache keeps."""

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oid_async.cluster.part_file import MASK_FIELDS
from oid_async.concurrency import in_thread
from oid_async.errors import UnavailableError
from oid_async.http.retry import FetchError, is_final
from oid_async.masks.archive import Archive, ArchiveState, ChangedError, NoRangeError
from oid_async.masks.fetch import BUCKET, WHY, find_in_archive
from oid_async.masks.zip_archive import ArchiveError
from oid_async.openimages.catalogue import mask_archive, object_url
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import SPLITS
from oid_async.store.attached_files import NAMES
from oid_async.store.written_files import MASKS

if TYPE_CHECKING:
    from oid_async.http.client import Client

_TRIES = 3
_NO_PLACE = {name: pl.lit(None, dtype) for name, dtype in MASK_FIELDS.items() if name != "MaskPath"}


class MaskPlaces:
    """Finds masks in their archives; `cache` keeps the archives' directories, `scratch` is for temporaries.

    `states` are those of the archives that were looked into, by key.
    """

    def __init__(self, client: "Client", *, mirror: str | None, cache: Path, scratch: Path) -> None:
        self._client = client
        self._mirror = mirror
        self._cache = cache
        self._scratch = scratch
        self._archives: dict[str, Archive] = {}
        # What is wrong with an archive that has been given up: "failure kind: text".
        self._given_up: dict[str, str] = {}
        self.states: dict[str, ArchiveState] = {}

    async def find(self, masks: pl.DataFrame) -> pl.DataFrame:
        """Return KEY and MASK_FIELDS of masks (KEY, Subset, MaskPath), in their order, each path once.

        A path that is no mask's name is left out. Raises UnavailableError for an archive that cannot be had just now.
        """
        named = pl.col("MaskPath").str.contains(f"^{NAMES[MASKS].pattern}$")
        masks = masks.filter(named).unique("MaskPath", keep="first", maintain_order=True)
        digit = pl.col("MaskPath").str.slice(0, 1).alias("digit")
        found = [pl.DataFrame(schema=MASK_FIELDS)]
        for (split, first), group in masks.group_by("Subset", digit, maintain_order=True):
            found.append(await self._find_in_archive(split, str(first), group.select("MaskPath")))
        return masks.select(KEY, "MaskPath").join(pl.concat(found), on="MaskPath", how="left", maintain_order="left")

    async def _find_in_archive(self, split: object, digit: str, masks: pl.DataFrame) -> pl.DataFrame:
        known = next((each for each in SPLITS if each == split), None)
        if known is None:
            return _placed(masks, "not_found: its image is of no published split")
        key = mask_archive(known, digit)
        if key not in self._given_up:
            try:
                return await self._members(key, masks)
            except FetchError as error:
                if not is_final(error.kind):
                    raise UnavailableError(
                        f"{key}: the archive of masks cannot be had ({error.kind}: {error}); run again to go on"
                    ) from error
                self._given_up[key] = f"{error.kind}: {_file(key)}: {error}"
            except ArchiveError as error:
                self._given_up[key] = f"bad_response: {_file(key)}: {error}"
        return _placed(masks, self._given_up[key])

    async def _members(self, key: str, masks: pl.DataFrame) -> pl.DataFrame:
        """Return MASK_FIELDS of masks (MaskPath). Raises FetchError, ArchiveError."""
        archive = self._archives.get(key)
        if archive is None:
            url = object_url(BUCKET, key, self._mirror)
            archive = Archive(self._client, url, self._cache / BUCKET / f"{key}.directory", self._scratch)
            self._archives[key] = archive
        sized = masks.with_columns(pl.lit(None, pl.Int64).alias(side) for side in ("Width", "Height"))
        for _ in range(_TRIES):
            try:
                members = await find_in_archive(archive, sized)
                break
            except ChangedError:
                archive.forget()
            except NoRangeError:
                archive.forget()
                await archive.fetch_whole()
        else:
            raise FetchError("bad_response", "it has changed while it was read")
        assert archive.state is not None
        if self.states.setdefault(key, archive.state) != archive.state:
            raise UnavailableError(f"{key}: the archive of masks has changed while the plan was made; run again")
        return await in_thread(_as_fields, masks, members, key)


def _as_fields(masks: pl.DataFrame, members: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return MASK_FIELDS of each mask, by the members that were found; no place for one that is not fetched."""
    kind = pl.col(WHY).str.extract("^([a-z_]+): ")
    text = pl.col(WHY).str.replace("^[a-z_]+: ", "")
    members = members.select(
        pl.col("name").alias("MaskPath"),
        *("start", "stop", "packed", "size", "crc", "method"),
        why=kind + pl.lit(f": {_file(key)}: ") + text,
        archive=pl.lit(key),
    )
    found = masks.join(members, on="MaskPath", how="left", maintain_order="left")
    missing = pl.when(pl.col("archive").is_null()).then(pl.lit(f"not_found: {_file(key)} has no such member"))
    found = found.with_columns(why=pl.coalesce("why", missing))
    is_placed = pl.col("why").is_null()
    placed = (pl.when(is_placed).then(name).alias(name) for name in MASK_FIELDS if name not in ("MaskPath", "why"))
    return found.with_columns(placed).select(pl.col(name).cast(dtype) for name, dtype in MASK_FIELDS.items())


def _placed(masks: pl.DataFrame, why: str) -> pl.DataFrame:
    return masks.with_columns(**{**_NO_PLACE, "why": pl.lit(why)}).select(
        pl.col(name).cast(dtype) for name, dtype in MASK_FIELDS.items()
    )


def _file(key: str) -> str:
    return key.rpartition("/")[2]
