"""What obstore's errors mean, in words. Its own texts hold addresses, and signatures in them: they are never shown."""

import re

from oid_async.errors import OidError, StorageError, UsageError
from oid_async.options.places import Bucket

_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,80})</Code>")
_PASSING_STATUS = (408, 409, 429, *range(500, 600))
# Answers 400 that are about a connection: S3's error codes.
_PASSING_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "SlowDown", "InternalError", "OperationAborted")
_LASTING = re.compile(r"certificate|InvalidContentType|UnexpectedMessage|Parse\(|latest/api/token|metadata\.google")


def is_object_missing(error: Exception) -> bool:
    """Return whether an answer 404 is about an object, not about its bucket or a wrong endpoint."""
    return not re.search("NoSuchBucket|ContainerNotFound|bucket does not exist|page not found", str(error))


def is_passing(error: Exception) -> bool:
    """Return whether a request that failed so may succeed if it is sent again."""
    text = str(error)
    if _code(text) in _PASSING_CODES:
        return True
    status = _status(text)
    if status is not None:
        return status in _PASSING_STATUS
    return "HttpError" in text and not _LASTING.search(text)


def refusal(
    error: Exception, bucket: Bucket, endpoint_url: str | None, action: str, *, is_check: bool = False
) -> OidError:
    """Return the error for a person: what the storage refuses, and what to do about it, a line."""
    if isinstance(error, OidError):
        return error
    kind = UsageError if is_check else StorageError
    status, code = _status(str(error)), _code(str(error))
    return kind(f"{bucket}: it cannot {action} ({status or type(error).__name__} {code or ''})")


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return None if found is None else int(found[1] or found[2])


def _code(text: str) -> str | None:
    found = _CODE.search(text)
    return None if found is None else found[1]
