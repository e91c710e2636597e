"""obstore's client of a bucket: where the storage is, credentials as its own tools find them, how patient it is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from oid_async.errors import OidError, UsageError
from oid_async.objects.aws import s3_access
from oid_async.objects.refusals import refusal
from oid_async.options.places import Bucket

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_CONNECT_S = 5


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request may take, all of it, and how often and for how long a failed one is sent anew; seconds."""

    timeout_s: int
    retries: int
    for_s: int

    @property
    def config(self) -> "RetryConfig":
        """What obstore takes."""
        pauses = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
        return {"max_retries": self.retries, "retry_timeout": timedelta(seconds=self.for_s), "backoff": pauses}  # type: ignore[typeddict-item]


def open_store(bucket: Bucket, endpoint_url: str | None, patience: Patience) -> "ObjectStore":
    """Return the client of a prefix. Raises UsageError where the extra or the credentials are missing."""
    if find_spec("obstore") is None:
        raise UsageError(f'{bucket}: buckets need one more package: pip install "oid-async[s3]"')
    openers = {"s3": _s3, "gs": _gs, "az": _az}
    try:
        return openers[bucket.scheme](bucket, endpoint_url, patience)
    except OidError:
        raise
    except Exception as error:
        raise refusal(error, bucket, endpoint_url, "be opened", is_check=True) from None


def configured_url(bucket: Bucket, endpoint_url: str | None) -> str | None:
    """Return where a bucket's storage is, given or configured; None for its provider's own place. Raises UsageError."""
    if endpoint_url is not None:
        return endpoint_url
    if bucket.scheme == "az":
        found: str | None = azure_settings(os.environ).get("endpoint")
        return found
    if bucket.scheme == "gs":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST") or None
        return emulator if emulator is None or "://" in emulator else f"http://{emulator}"
    url = s3_access(bucket, None).endpoint_url
    return None if url.endswith((".amazonaws.com", ".amazonaws.com.cn")) else url


def _s3(bucket: Bucket, endpoint_url: str | None, patience: Patience) -> "ObjectStore":
    from obstore.store import S3Store

    access = s3_access(bucket, endpoint_url)
    # Everything that obstore would look up in the environment by itself is given, so that one reading holds.
    config: Any = {
        "region": access.region,
        "aws_endpoint_url_s3": access.endpoint_url,
        "virtual_hosted_style_request": False,
        "conditional_put": "etag",
        "skip_signature": access.is_anonymous,
    }
    return S3Store(
        bucket.name,
        prefix=bucket.prefix or None,
        config=config,
        client_options=_client(access.endpoint_url, patience),
        retry_config=patience.config,
        credential_provider=access.credentials,
    )


def _gs(bucket: Bucket, endpoint_url: str | None, patience: Patience) -> "ObjectStore":
    from obstore.store import GCSStore

    from oid_async.objects.google import application_default_credentials

    url = configured_url(bucket, endpoint_url)
    # No token goes over a line that is not encrypted.
    is_anonymous = url is not None and url.startswith("http://")
    config: Any = {"skip_signature": True} if is_anonymous else {}
    if url is not None:
        config["base_url"] = url.rstrip("/")
    return GCSStore(
        bucket.name,
        prefix=bucket.prefix or None,
        config=config,
        client_options=_client(url, patience),
        retry_config=patience.config,
        credential_provider=None if is_anonymous else application_default_credentials(),
    )


def _az(bucket: Bucket, endpoint_url: str | None, patience: Patience) -> "ObjectStore":
    from obstore.store import AzureStore

    config: Any = azure_settings(os.environ)
    if endpoint_url is not None:
        config["endpoint"] = endpoint_url.rstrip("/")
    if "account_name" not in config:
        raise UsageError(
            f"{bucket}: name the storage account: set AZURE_STORAGE_ACCOUNT, and AZURE_STORAGE_KEY or what else gives "
            "access (docs/clusters.md)"
        )
    if not {"account_key", "sas_key", "token", "client_secret", "federated_token_file"} & config.keys():
        # What `az login` has left; without it, the identity that the machine itself has.
        config["use_azure_cli"] = which("az") is not None and "IDENTITY_ENDPOINT" not in os.environ
    return AzureStore(
        bucket.name,
        prefix=bucket.prefix or None,
        config=config,
        client_options=_client(config.get("endpoint"), patience),
        retry_config=patience.config,
    )


# What obstore calls it, and the variables of the command `az` (learn.microsoft.com/cli/azure/storage) and of Azure's
# identity library (azure-identity, EnvironmentCredential), checked 2026-11.
_AZURE_VARIABLES = {
    "account_name": ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"),
    "account_key": ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
    "sas_key": ("AZURE_STORAGE_SAS_TOKEN",),
    "client_id": ("AZURE_CLIENT_ID",),
    "client_secret": ("AZURE_CLIENT_SECRET",),
    "tenant_id": ("AZURE_TENANT_ID",),
    "authority_host": ("AZURE_AUTHORITY_HOST",),
    "federated_token_file": ("AZURE_FEDERATED_TOKEN_FILE",),
}
_AZURE_STRING = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
}


def azure_settings(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what environment variables say of an Azure storage account, as obstore calls it.

    A connection string counts before single variables, as in Azure's command line.
    """
    settings: dict[str, Any] = {}
    for name, variables in _AZURE_VARIABLES.items():
        found = next((environment[each] for each in variables if environment.get(each)), None)
        if found is not None:
            settings[name] = found
    for part in environment.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"):
        name, _, value = part.partition("=")
        if name.strip() in _AZURE_STRING and value:
            settings[_AZURE_STRING[name.strip()]] = value.strip().rstrip("/")
    return settings


def _client(url: str | None, patience: Patience) -> "ClientConfig":
    client: ClientConfig = {
        "timeout": timedelta(seconds=patience.timeout_s),
        "connect_timeout": timedelta(seconds=_CONNECT_S),
        "allow_http": url is not None and url.startswith("http://"),
    }
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle:
        try:
            client["root_certificate"] = Path(bundle).read_bytes()
        except OSError as error:
            raise UsageError(f"AWS_CA_BUNDLE: {bundle} cannot be read ({error.strerror})") from error
    return client
