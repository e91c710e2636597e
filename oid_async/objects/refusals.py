"""What obstore's errors mean, in words. Its own texts hold addresses, and signatures in them: they are never shown."""

import re
from collections.abc import Mapping

from oid_async.errors import OidError, StorageError, UsageError
from oid_async.options.places import Bucket

_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,80})</Code>|\"code\": *\"?([A-Za-z0-9]{1,80})")
_PASSING_STATUS = (408, 409, 429, *range(500, 600))
# Answers 400 that are about a connection, not about what was asked: error codes of S3.
_PASSING_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "SlowDown", "InternalError", "OperationAborted")
# A provider of credentials that cannot be reached may be a moment later.
_PROVIDER = "External AWS credential provider"

_AWS_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile of AWS_PROFILE"
_KEYS = {
    "s3": _AWS_KEYS,
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or what gcloud auth application-default login left",
    "az": "AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or what az login left",
}
_LOG_IN = {
    "s3": f"set {_AWS_KEYS}, or run aws configure or aws sso login",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS or run gcloud auth application-default login",
    "az": "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or run az login",
}
_ENDPOINT = {
    "s3": "--endpoint-url (AWS_ENDPOINT_URL)",
    "gs": "--endpoint-url (STORAGE_EMULATOR_HOST)",
    "az": "AZURE_STORAGE_ACCOUNT and --endpoint-url",
}

# What the text of an error says of a cause that does not pass by itself, and what a person reads. The first that fits
# counts. Sources: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html,
# learn.microsoft.com/rest/api/storageservices/blob-service-error-codes; 2026-11; the rest was seen with obstore 0.12.
_LASTING: tuple[tuple[str, str], ...] = (
    ("latest/api/token|latest/meta-data|metadata/identity|metadata\\.google|169\\.254\\.", "no credentials: {log_in}"),
    ("OpenCredentials|DecodeCredentials", "its file of credentials cannot be read; check {keys}"),
    ("InvalidAccessKey {|Invalid Access Key", "the key is no base64, as Azure's keys are; check {keys}"),
    ("NoSuchBucket|ContainerNotFound|bucket does not exist|container does not exist", "no such {bucket}; {make}"),
    ("InvalidBucketName|InvalidResourceName", "the storage takes no {bucket} of this name; check it"),
    ("InvalidAccessKeyId", "the storage does not know this access key; check {keys}"),
    ("SignatureDoesNotMatch", "the secret key does not fit the access key; check {keys}"),
    ("ExpiredToken|TokenRefreshRequired|InvalidToken|RequestExpired", "the credentials have expired; {log_in}"),
    (
        "RequestTimeTooSkewed|not within allowed|too skewed",
        "the clock of this machine is wrong; set it (date, chronyc)",
    ),
    (
        "BareRedirect|PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|region .* is wrong",
        "the bucket is in another region; set AWS_REGION to {region}, or check {endpoint}",
    ),
    ("AuthenticationFailed|InvalidAuthenticationInfo|NoAuthenticationInformation", "wrong credentials; check {keys}"),
    ("InsufficientStorage|QuotaExceeded|status: 507|no space left|os error 28", "the storage is full; free some space"),
    ("InvalidContentType|wrong version number|CorruptMessage", "{url} does not speak TLS; try http:// in {endpoint}"),
    ("certificate|UnknownIssuer", "the TLS certificate of {url} is not trusted; AWS_CA_BUNDLE names one to trust"),
    ("UnexpectedMessage|Parse\\(|InvalidListResponse|MissingEtag|MissingLastModified", "{url} is no storage; {check}"),
    ("page not found", "{url} is no storage; {check}"),
)
# Causes that may pass, and so are waited for; said when they did not.
_PASSING: tuple[tuple[str, str], ...] = (
    ("Connection ?[Rr]efused", "nothing listens at {url} (connection refused); {check}"),
    ("dns error|failed to lookup", "no such host: {url}; {check}"),
    ("NetworkUnreachable|HostUnreachable|unreachable", "{url} cannot be reached from here; {check}"),
    ("kind: Timeout|TimedOut|timed out", "{url} does not answer in time; {check}"),
    ("tcp connect error|kind: Connect", "no connection to {url}; {check}"),
    ("ConnectionReset|Connection reset|IncompleteMessage|IncompleteBody|Interrupted", "{url} breaks connections off"),
    (_PROVIDER, "credentials cannot be had; {log_in}"),
)


def is_object_missing(error: Exception) -> bool:
    """Return whether an answer 404 is about an object, not about its bucket or a wrong endpoint."""
    return not re.search("NoSuchBucket|ContainerNotFound|(bucket|container) does not exist|page not found", str(error))


def is_passing(error: Exception) -> bool:
    """Return whether a request that failed so may succeed if it is sent again."""
    text = str(error)
    if _code(text) in _PASSING_CODES:
        return True
    status = _status(text)
    if status is not None:
        return status in _PASSING_STATUS and status != 507
    if _first(_LASTING, text) is not None:
        return False
    return "HttpError" in text or "HTTP error" in text or _PROVIDER in text


def refusal(
    error: Exception, bucket: Bucket, endpoint_url: str | None, action: str, *, is_check: bool = False
) -> OidError:
    """Return the error for a person: what the storage refuses, and what to do about it, a line.

    `action` continues "it cannot ...". With `is_check`, before anything was done, it is what the user typed or set that
    is wrong: a UsageError.
    """
    if isinstance(error, OidError):
        return error
    words = {**_words(bucket, endpoint_url), "region": _region(str(error))}
    said = _first((*_LASTING, *_PASSING), str(error)) or _by_status(error, action)
    text = f"{bucket}: {said.format_map(words)}"
    if is_check:
        return UsageError(text)
    return StorageError(f"{text}{'' if 'run again' in text else '; then run again to go on'}")


def _words(bucket: Bucket, endpoint_url: str | None) -> Mapping[str, str]:
    scheme = bucket.scheme
    container = "container" if scheme == "az" else "bucket"
    default = {"s3": "Amazon S3", "gs": "Google Cloud Storage", "az": "Azure's storage"}[scheme]
    endpoint = _ENDPOINT[scheme]
    check = f"check {endpoint}" if endpoint_url or scheme == "az" else f"check the network, or give {endpoint}"
    return {
        "bucket": container,
        "make": f"make it, or check its name{'' if endpoint_url is None else ' and ' + endpoint}",
        "keys": _KEYS[scheme],
        "log_in": _LOG_IN[scheme],
        "endpoint": endpoint,
        "url": endpoint_url or default,
        "check": check,
    }


def _by_status(error: Exception, action: str) -> str:
    status, code = _status(str(error)), _code(str(error))
    answer = " ".join(str(each) for each in (status, code) if each)
    if status in (401, 403) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        return f"not allowed to {_active(action)} ({answer or 'access denied'}); give {{keys}} that right"
    if status == 404 or isinstance(error, FileNotFoundError):
        return f"it cannot {action} ({answer or 'not found'}); check the {{bucket}}'s name and {{endpoint}}"
    if status in _PASSING_STATUS:
        return f"it cannot {action}: the storage fails again and again ({answer}); wait, or see to it"
    if answer:
        return f"it cannot {action}: the storage answers {answer}; {{check}}"
    return f"it cannot {action}: the storage's answer is not understood ({type(error).__name__}); {{check}}"


def _active(action: str) -> str:
    return {"be written to": "write", "be read": "read", "be listed": "list it"}.get(action, "delete")


def _region(text: str) -> str:
    """Return the region that the storage would have had a request signed for, as far as it says so."""
    found = re.search("<Region>([a-z0-9-]{1,40})</Region>|expecting '([a-z0-9-]{1,40})'", text)
    return "that" if found is None else found[1] or found[2]


def _first(table: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((said for pattern, said in table if re.search(pattern, text)), None)


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return None if found is None else int(found[1] or found[2])


def _code(text: str) -> str | None:
    found = _CODE.search(text)
    return None if found is None else found[1] or found[2]
