"""Where a dataset is: a folder of this machine, or a prefix in a bucket; and how both are written. Pure."""

import re
from pathlib import Path
from typing import Literal, get_args

from oid_async.errors import UsageError
from oid_async.options.paths import read_path, refuse_login, url_scheme
from oid_async.quick_values import frozen
from oid_async.redaction import redacted

BucketScheme = Literal["s3", "gs", "az"]
BUCKET_SCHEMES: tuple[BucketScheme, ...] = get_args(BucketScheme)

# Spellings of other programs.
_ALIASES = {
    "s3a": "s3",
    "s3n": "s3",
    "gcs": "gs",
    "azure": "az",
    "abfs": "az",
    "abfss": "az",
    "wasb": "az",
    "wasbs": "az",
}
# S3's rules but for capitals and _, which old buckets and other servers have; Google's and Azure's own. Sources:
# docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, cloud.google.com/storage/docs/buckets#naming,
# learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata; 2026-11.
_NAMES = {
    "s3": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]"),
    "gs": re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
    "az": re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}|\$root|\$web"),
}
# Keys have at most 1,024 bytes, of which the longest of ours below the prefix takes some.
_MOST_PREFIX_BYTES = 900
# What becomes of s3://bucket/prefix where somebody has taken it for a path.
_FLATTENED = re.compile(r"(s3|gs|az):/(?!/)", re.IGNORECASE)


@frozen
class Bucket:
    """A prefix in a bucket: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix; no slash at either end."""

    scheme: BucketScheme
    name: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}" + (f"/{self.prefix}" if self.prefix else "")


Place = Path | Bucket


def read_place(label: str, value: object) -> Place:
    """Return a folder as an absolute path, or a prefix in a bucket. Raises UsageError.

    >>> read_place("--savepath", "s3://my-bucket/open images/"), read_place("--savepath", "/data/s3")
    (Bucket(scheme='s3', name='my-bucket', prefix='open images'), PosixPath('/data/s3'))
    """
    if isinstance(value, Bucket):
        value = str(value)
    text = str(value)
    if _FLATTENED.match(text):
        raise UsageError(f"{label} {text!r} has lost a slash: a bucket is written s3://BUCKET/PREFIX, as text")
    scheme = url_scheme(text) if isinstance(value, str) else None
    if scheme in _ALIASES:
        raise UsageError(f"{label} knows no {scheme}://; write {_ALIASES[scheme]}:// ({redacted(text)!r})")
    for known in BUCKET_SCHEMES:
        if scheme == known:
            return _bucket(label, known, text.strip())
    return Path(read_path(label, value, also=BUCKET_SCHEMES))


def as_folder(place: Place, who: str) -> Path:
    """Return a place that must be a folder. Raises UsageError for a bucket, which `who` cannot take."""
    if isinstance(place, Bucket):
        raise UsageError(
            f"{who} takes a folder on this disk, not {place}; a bucket is filled by download --format webdataset (or "
            "parquet) --no-files, and read by verify, export and oid_async.open"
        )
    return place


def _bucket(label: str, scheme: BucketScheme, text: str) -> Bucket:
    refuse_login(label, text)
    what = "CONTAINER" if scheme == "az" else "BUCKET"
    form = f"{scheme}://{what}/PREFIX"
    if "?" in text or "#" in text:
        raise UsageError(f"{label} takes {form}, without query or fragment ({redacted(text)!r})")
    name, _, prefix = text.partition("://")[2].partition("/")
    if not name:
        raise UsageError(f"{label} names no {what.lower()}: write {form}")
    if ":" in name:
        raise UsageError(f"{label} takes {form}, not {text!r}; where the storage is says --endpoint-url")
    if not _NAMES[scheme].fullmatch(name) or ".." in name:
        raise UsageError(f"{label} takes {form}; {name!r} is no name of a {what.lower()}")
    prefix = prefix.removesuffix("/")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise UsageError(f"{label} {text!r}: a prefix has no empty part, no . and no .. between its slashes")
    try:
        size = len(prefix.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{label}: the prefix must be UTF-8, and {text!a} is not") from error
    if size > _MOST_PREFIX_BYTES or not all(sign.isprintable() for sign in prefix):
        raise UsageError(f"{label}: a prefix has at most {_MOST_PREFIX_BYTES} bytes and no control characters")
    return Bucket(scheme, name, prefix)
