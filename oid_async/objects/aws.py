"""Where an S3 bucket is and whose credentials are used, as boto3 finds both; without boto3 as obstore does.

boto3 reads the environment, ~/.aws (profiles, SSO, roles to assume, processes) and the identity of the machine or
container. Its credentials are asked for anew every few minutes; they stand in no file, message or pickled object.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from importlib.util import find_spec
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from oid_async.errors import UsageError
from oid_async.options.endpoints import read_endpoint_url
from oid_async.options.places import Bucket
from oid_async.redaction import redacted_text

_DEFAULT_REGION = "us-east-1"
_REFRESHED_EVERY = timedelta(minutes=5)
_LOOKUP_S = 5
_WAYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run aws configure"


@dataclass(frozen=True, slots=True)
class S3Access:
    """An endpoint, a region and who is asked for credentials: None is obstore's own chain, or nobody (anonymous)."""

    endpoint_url: str
    region: str
    credentials: Callable[[], Any] | None
    is_anonymous: bool = False


def s3_access(bucket: Bucket, endpoint_url: str | None) -> S3Access:
    """Return how a bucket is reached. Raises UsageError where there are no credentials."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _access(bucket, endpoint_url, settings)


@lru_cache(maxsize=8)
def _access(bucket: Bucket, endpoint_url: str | None, settings: tuple[tuple[str, str], ...]) -> S3Access:
    environment = dict(settings)
    is_anonymous = environment.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes")
    if find_spec("boto3") is None:
        configured = next((environment[name] for name in _ENDPOINTS if environment.get(name)), None)
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        return _placed(bucket, endpoint_url or configured, region, None, is_anonymous)
    from botocore.exceptions import BotoCoreError

    try:
        return _by_boto3(bucket, endpoint_url, is_anonymous)
    except (BotoCoreError, ValueError) as error:
        reason = redacted_text(" ".join(str(error).split())[:300])
        if "ndpoint" in reason:
            raise UsageError(f"{bucket}: {reason}; check AWS_ENDPOINT_URL and what the profile says") from None
        raise UsageError(f"{bucket}: no credentials: {reason}; {_WAYS}") from None


# In the order in which they count for boto3, and obstore's own.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def _by_boto3(bucket: Bucket, endpoint_url: str | None, is_anonymous: bool) -> S3Access:
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    client = session.client("s3", endpoint_url=endpoint_url)
    region: str | None = session.region_name
    found: str = client.meta.endpoint_url
    # boto3's own default, when nothing is configured, is no endpoint that somebody chose.
    chosen = endpoint_url or (None if found.endswith((".amazonaws.com", ".amazonaws.com/")) and not region else found)
    credentials = None
    if not is_anonymous:
        held = session.get_credentials()
        if held is None:
            raise UsageError(f"{bucket}: there are no credentials for it: {_WAYS}")
        held.get_frozen_credentials()  # raises what is wrong with them, in botocore's words
        credentials = Boto3CredentialProvider(session, ttl=_REFRESHED_EVERY)
    return _placed(bucket, chosen, region, credentials, is_anonymous)


def _placed(
    bucket: Bucket,
    endpoint_url: str | None,
    region: str | None,
    credentials: Callable[[], Any] | None,
    is_anonymous: bool,
) -> S3Access:
    if endpoint_url is not None:
        url = read_endpoint_url("--endpoint-url (or what configures it for AWS)", endpoint_url)
        return S3Access(url, region or _DEFAULT_REGION, credentials, is_anonymous)
    region = region or bucket_region(bucket.name) or _DEFAULT_REGION
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return S3Access(f"https://s3.{region}.{domain}", region, credentials, is_anonymous)


def bucket_region(name: str, url: str = "https://s3.amazonaws.com") -> str | None:
    """Return the region of a bucket of AWS, which any answer about it names; None where none comes.

    Source: docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html, x-amz-bucket-region; 2026-11.
    """
    with suppress(OSError, ValueError):
        try:
            with urlopen(Request(f"{url}/{name}", method="HEAD"), timeout=_LOOKUP_S) as answer:
                return _region_of(answer.headers)
        except HTTPError as error:
            return _region_of(error.headers)
    return None


def _region_of(headers: Any) -> str | None:
    found: str | None = headers.get("x-amz-bucket-region")
    return found
