"""obstore's client of a bucket: its address, its credentials as the storage's own tools find them, its patience."""

from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING

from oid_async.errors import UsageError
from oid_async.options.places import Bucket

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request may take, all of it, and how often and for how long a failed one is sent anew; seconds."""

    timeout_s: int
    retries: int
    for_s: int

    @property
    def config(self) -> "RetryConfig":
        """What obstore takes."""
        return {
            "max_retries": self.retries,
            "retry_timeout": timedelta(seconds=self.for_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        }


def open_store(bucket: Bucket, endpoint_url: str | None, patience: Patience) -> "ObjectStore":
    """Return the client of a prefix. Raises UsageError where the extra or the credentials are missing."""
    if find_spec("obstore") is None:
        raise UsageError(f'{bucket}: buckets need obstore; install it with pip install "oid-async[s3]"')
    from obstore.store import from_url

    client: ClientConfig = {"timeout": timedelta(seconds=patience.timeout_s), "connect_timeout": timedelta(seconds=5)}
    if endpoint_url is not None and endpoint_url.startswith("http://"):
        client["allow_http"] = True
    return from_url(str(bucket), client_options=client, retry_config=patience.config)
