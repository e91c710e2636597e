"""Where a dataset is: a folder of this machine, or a prefix in a bucket."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

BucketScheme = Literal["s3", "gs", "az"]
BUCKET_SCHEMES: tuple[BucketScheme, ...] = get_args(BucketScheme)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix in a bucket: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix; no slash at either end."""

    scheme: BucketScheme
    name: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}" + (f"/{self.prefix}" if self.prefix else "")


Place = Path | Bucket
