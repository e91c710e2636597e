"""What the columns of samples are in the words of the Hugging Face `datasets` library.

A feature is a plain value as `Features.to_dict` has it: {"_type": "Value", "dtype": "string"}, {"_type": "Image"},
{"_type": "Sequence", "feature": ...}; a struct is a dict of features. Parquet files hold them as JSON in their
metadata, where the library looks for them; the card of an export has them in the form of YAML. Sequence and not List,
which releases before 4.0 do not know; to later ones they are the same.
"""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from oid_async.formats.samples import NOT_IN_SHARDS, schema

Feature = dict[str, Any]
# Longer lists of names make a card that nobody reads and the Hub may refuse; 601 classes have boxes.
MOST_CLASS_NAMES = 1000
# The key of the features in the metadata of a Parquet file (datasets: Features.from_arrow_schema, 5.2, 2026-11-29).
METADATA_KEY = "huggingface"
IMAGE: Feature = {"_type": "Image"}
_STRING: Feature = {"_type": "Value", "dtype": "string"}
_DTYPES: dict[Any, str] = {
    pl.String: "string",
    pl.Boolean: "bool",
    pl.Int8: "int8",
    pl.Int32: "int32",
    pl.Int64: "int64",
    pl.Float64: "float64",
}


def parquet_features(names: Sequence[str], *, has_roles: bool) -> Feature:
    """Return the features of the rows of `formats.parquet`; `names` are those of the classes, in order."""
    return {"image": IMAGE, **_sample(names, has_roles), "masks": {"_type": "Sequence", "feature": IMAGE}}


def webdataset_features(names: Sequence[str], *, has_roles: bool, has_masks: bool) -> Feature:
    """Return the features of a sample of `formats.webdataset`, by its members.

    The library's reader of shards names columns by the endings of their members, whatever features say: the image is
    `jpg`.
    """
    sample = _sample(names, has_roles)
    objects = {name: each for name, each in sample["objects"].items() if name not in ("mask", "has_box")}
    if has_masks:
        size = {"_type": "List", "feature": {"_type": "Value", "dtype": "int32"}}
        objects["segmentation"] = {"_type": "List", "feature": {"size": size, "counts": _STRING}}
    said = {name: each for name, each in sample.items() if name != NOT_IN_SHARDS}
    members: Feature = {"jpg": IMAGE, "json": said | {"objects": objects}}
    if has_masks:
        members["png"] = IMAGE
    return {**members, "__key__": _STRING, "__url__": _STRING}


def parquet_metadata(features: Feature) -> dict[str, str]:
    """Return the metadata of a Parquet file with these features."""
    return {METADATA_KEY: json.dumps({"info": {"features": features}}, ensure_ascii=False)}


def yaml_features(features: Feature) -> list[dict[str, Any]]:
    """Return features in the form of a card's YAML (datasets: Features._from_yaml_list).

    >>> yaml_features({"image": IMAGE, "captions": {"_type": "Sequence", "feature": _STRING}})
    [{'name': 'image', 'dtype': 'image'}, {'name': 'captions', 'list': 'string'}]
    """
    return [{"name": name, **_yaml(feature)} for name, feature in features.items()]


def _sample(names: Sequence[str], has_roles: bool) -> Feature:
    sample = {name: _feature(dtype) for name, dtype in schema(has_roles=has_roles).items()}
    if 0 < len(names) <= MOST_CLASS_NAMES:
        label = {"_type": "ClassLabel", "names": list(names)}
        sample["objects"]["category_id"] = {"_type": "Sequence", "feature": label}
    return sample


def _feature(dtype: Any) -> Feature:
    if isinstance(dtype, pl.Struct):
        return {each.name: _feature(each.dtype) for each in dtype.fields}
    if isinstance(dtype, pl.List):
        return {"_type": "Sequence", "feature": _feature(dtype.inner)}
    return {"_type": "Value", "dtype": _DTYPES[dtype]}


def _yaml(feature: Feature) -> dict[str, Any]:
    match feature.get("_type"):
        case "Value":
            return {"dtype": feature["dtype"]}
        case "Image":
            return {"dtype": "image"}
        case "ClassLabel":
            return {"dtype": {"class_label": {"names": {str(at): name for at, name in enumerate(feature["names"])}}}}
        case "Sequence" | "List":
            # `list` is read by all releases, for structs too, of which `sequence` makes a struct of lists.
            inner = _yaml(feature["feature"])
            (form, value), *more = inner.items()
            return {"list": value if form in ("dtype", "struct") and not more else inner}
        case _:
            return {"struct": yaml_features(feature)}
