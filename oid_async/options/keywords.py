"""The keywords of the Python functions, for type checkers: names and types; `options.query.Options` explains each.

A test keeps them and the table of options together.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TypedDict


class SelectOptions(TypedDict, total=False):
    """The keywords of `Query`: what to select and which annotations to save; `Options` explains each."""

    categories: Sequence[str]
    category_file: str | os.PathLike[str] | Sequence[str] | None
    with_subclasses: bool
    match: str
    exclude: Sequence[str]
    is_occluded: bool | str | None
    is_truncated: bool | str | None
    is_group_of: bool | str | None
    is_depiction: bool | str | None
    is_inside: bool | str | None
    min_area: str | None
    max_area: str | None
    min_boxes: int | None
    max_boxes: int | None
    image_ids: str | os.PathLike[str] | Sequence[str] | None
    exclude_ids: str | os.PathLike[str] | Sequence[str] | None
    limit: int | str | Mapping[str, int] | None
    limit_per_class: int | None
    balanced: int | None
    negatives: int | str | None
    shuffle: bool
    seed: int
    splits: Sequence[str]
    kinds: Sequence[str]
    select_by: str | None
    where: str | None
    caption: str | None
    triplet: Sequence[str]
    image_where: str | None
    label_source: str
    min_confidence: float | None
    verified_absent: Sequence[str]
    point_answer: str | None
    traces: bool
    voice: bool
    mask_size: str
    only_matching: bool | None
    all_boxes: bool
    shard: str | None
    release: str
    images: str
    label: str | os.PathLike[str] | None
    annotation: str | os.PathLike[str] | None
    image_url: str | os.PathLike[str] | None


class QueryOptions(SelectOptions, total=False):
    """The keywords of `plan`, which `download` and `stream` take, too; `Options` explains each."""

    savepath: str | os.PathLike[str]
    source: Sequence[str] | None
    names: str
    mirror: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    offline: bool
    max_bad_rows: int
    concurrency: int | None
    rate: float | None
    period: float
    processes: int | str | None
    allow_hosts: Sequence[str]
    retries: int
    timeout: float
    max_wait: float
    max_image_bytes: int | str
    limit_rate: int | str | None
    retry_failed: bool
    respect_opt_out: bool | str
    top_up: bool
    max_failures: int | str
    no_hash: bool
    format: str | None
    out: str | os.PathLike[str] | None
    export_splits: str | None
    max_side: int | None
    copy: bool
    min_box_area: float | str
    group_boxes: str
    no_masks: bool
    class_map: str | os.PathLike[str] | None
    shard_size: int | str
    margin: str
    no_files: bool
    cluster: str | None
    part_size: int | str
    endpoint_url: str | None


class RunOptions(QueryOptions, total=False):
    """The keywords of `download` and `stream`; `Options` explains each."""

    report: str | os.PathLike[str] | None


class ReadOptions(TypedDict, total=False):
    """The keywords of `open`, `export` and `verify` that are not taken from query.json; `Options` explains each."""

    cache_dir: str | os.PathLike[str] | None
    label: str | os.PathLike[str] | None
    annotation: str | os.PathLike[str] | None
    image_url: str | os.PathLike[str] | None
    image_ids: str | os.PathLike[str] | None
    exclude_ids: str | os.PathLike[str] | None
    category_file: str | os.PathLike[str] | None


class PlaceOptions(ReadOptions, total=False):
    """The keywords of `open` and `export`, which read buckets, too."""

    endpoint_url: str | None


class StatsOptions(SelectOptions, total=False):
    """The keywords of `stats`: what is selected, and where its tables come from; `Options` explains each."""

    mirror: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    offline: bool
    max_bad_rows: int
    allow_hosts: Sequence[str]


class ClassesOptions(TypedDict, total=False):
    """The keywords of `classes`; `Options` explains each."""

    kinds: Sequence[str]
    label: str | os.PathLike[str] | None
    release: str
    mirror: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    offline: bool


class MetadataOptions(TypedDict, total=False):
    """The keywords of `metadata_list` and `metadata_pull`; `Options` explains each."""

    splits: Sequence[str]
    kinds: Sequence[str]
    label_source: str
    release: str
    images: str
    mirror: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None


class ResolveOptions(TypedDict, total=False):
    """The keywords of `resolve`; `Options` explains each."""

    release: str
    mirror: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    offline: bool
    max_failures: int | str


class RepeatOptions(TypedDict, total=False):
    """The keywords of `verify` that a repair does not take from query.json; `Options` explains each."""

    mirror: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    allow_hosts: Sequence[str]
    offline: bool
    respect_opt_out: bool | str
    max_failures: int | str
    label: str | os.PathLike[str] | None
    annotation: str | os.PathLike[str] | None
    image_url: str | os.PathLike[str] | None
    image_ids: str | os.PathLike[str] | Sequence[str] | None
    exclude_ids: str | os.PathLike[str] | Sequence[str] | None
    category_file: str | os.PathLike[str] | Sequence[str] | None


class VerifyOptions(RepeatOptions, total=False):
    """The keywords of `verify`, which reads buckets, too."""

    endpoint_url: str | None


class FetchAgainOptions(RepeatOptions, total=False):
    """The keywords of `repeat`: those that a repair takes, and how to fetch; `Options` explains each."""

    report: str | os.PathLike[str] | None
    concurrency: int | None
    rate: float | None
    period: float
    processes: int | str | None
    retries: int
    timeout: float
    max_wait: float
    max_image_bytes: int | str
    limit_rate: int | str | None
    retry_failed: bool
