"""The digest of a query: whether a manifest, or a shard, is of the query that is asked now."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

from oid_async.options.export import ExportOptions
from oid_async.options.query import Options
from oid_async.redaction import is_http

# Options that make no difference to what is selected and saved, nor to what is in a shard.
_WITHOUT_EFFECT = frozenset(
    """
    savepath mirror cache_dir offline concurrency rate period processes allow_hosts retries timeout max_wait limit_rate
    retry_failed respect_opt_out max_failures max_bad_rows out report cluster part_size endpoint_url
    """.split()  # noqa: SIM905 (as below)
)
# The options whose values version 0.1.0 hashed, all of them.
_HASHED_BY_0_1_0 = frozenset(
    """
    all_boxes annotation caption categories category_file class_map copy exclude exclude_ids export_splits format
    group_boxes image_ids image_url is_depiction is_group_of is_inside is_occluded is_truncated kinds label label_source
    limit limit_per_class mask_size match max_image_bytes max_side min_box_area min_confidence names no_files no_hash
    no_masks only_matching release seed select_by shard shard_size shuffle source splits top_up traces triplet
    verified_absent voice where with_subclasses
    """.split()  # noqa: SIM905 (four lines, not fifty)
)
TABLES = ("label", "annotation", "image_url")


def query_digest(options: Options, identities: Iterable[Mapping[str, Any]]) -> str:
    """Return the hash of a query, as manifest.parquet and query.json hold it.

    Hashed are the options that differ from their default, so that an option of a later version leaves the hash as it
    is, and the size and MD5 of each table and list that was given as a file: an edited list is another query.
    """
    given = {str(each["table"]): [each.get("bytes"), each.get("md5")] for each in identities if "etag" not in each}
    options_of_export = ExportOptions.__dataclass_fields__
    changed = {name: value for name, value in _changed(options).items() if name not in options_of_export}
    return _digest({"query": changed, "files": given})


def shard_digests(options: Options) -> tuple[str, str | None]:
    """Return the hash of a query and of how its samples are made, and the hash that version 0.1.0 wrote for it.

    Only options that differ from their default are hashed, so that an option of a later version leaves the hash as it
    is. 0.1.0 hashed them all; it has no hash of a query that names an option which it did not know.
    """
    changed = _changed(options)
    if changed.keys() - _HASHED_BY_0_1_0:
        return _digest(changed), None
    # It hashed URLs with their queries.
    urls = {name: url for name in TABLES if (url := getattr(options, name)) is not None and is_http(url)}
    values = options.as_json() | urls
    return _digest(changed), _digest({name: values[name] for name in _HASHED_BY_0_1_0})


def typed_digest(options: Options) -> str | None:
    """Return the hash that 0.1.0 wrote if its class map was typed from the current folder: it hashed it as typed."""
    if options.class_map is None:
        return None
    typed = copy(options)
    object.__setattr__(typed, "class_map", os.path.relpath(options.class_map))
    return shard_digests(typed)[1]


def _changed(options: Options) -> dict[str, Any]:
    """Return the options with an effect that differ from their default, as plain JSON values."""
    usual = Options().as_json()
    values = options.as_json().items()
    return {name: value for name, value in values if name not in _WITHOUT_EFFECT and value != usual[name]}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
