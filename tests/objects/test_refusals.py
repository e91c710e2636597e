"""What a storage refuses reaches a person as one line that says what to do, and never as the library's own text."""

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError

from oid_async.errors import OidError, StorageError, UsageError
from oid_async.objects.refusals import is_object_missing, is_passing, refusal
from oid_async.options.places import Bucket

URL = "http://127.0.0.1:8333"


def answer(status: int, code: str = "", more: str = "") -> str:
    """Return obstore's text of an answer."""
    body = f"<Error><Code>{code}</Code><Message>m</Message>{more}</Error>" if code else ""
    return (
        f"Generic S3 error: Error performing GET {URL}/b?X-Amz-Signature=S3CRET in 1ms - Server returned non-2xx "
        f"status code: {status} X: {body}\n\nDebug source:\nGeneric {{ RetryError( Status {{ status: {status} }} ) }}"
    )


def no_answer(source: str) -> str:
    """Return obstore's text of a request without an answer."""
    return (
        f"Generic S3 error: Error performing PUT {URL}/b/k, after 1 retries - HTTP error: error sending request\n\n"
        f"Debug source:\nGeneric {{ RetryError( inner: Http( HttpError {{ {source} }} ) ) }}"
    )


CASES = [
    (GenericError(answer(404, "NoSuchBucket")), "no such bucket; make it", False),
    (GenericError(answer(404, "ContainerNotFound")), "no such bucket; make it", False),
    (PermissionDeniedError(answer(403, "InvalidAccessKeyId")), "does not know this access key", False),
    (PermissionDeniedError(answer(403, "SignatureDoesNotMatch")), "secret key does not fit", False),
    (PermissionDeniedError(answer(403, "AccessDenied")), "not allowed to write (403 AccessDenied)", False),
    (PermissionDeniedError(answer(403)), "not allowed to write (403)", False),
    (UnauthenticatedError("Unauthenticated"), "not allowed to write (access denied)", False),
    (GenericError(answer(400, "ExpiredToken")), "credentials have expired; set AWS_ACCESS_KEY_ID", False),
    (PermissionDeniedError(answer(403, "RequestTimeTooSkewed")), "the clock of this machine is wrong", False),
    (
        GenericError(answer(400, "AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>")),
        "in another region; set AWS_REGION to eu-west-3",
        False,
    ),
    (GenericError("Generic S3 error\n\nDebug source: BareRedirect"), "in another region", False),
    (GenericError(answer(400, "InvalidBucketName")), "takes no bucket of this name", False),
    (GenericError(answer(507)), "the storage is full", False),
    (
        GenericError(no_answer("PUT http://169.254.169.254/latest/api/token")),
        "no credentials: set AWS_ACCESS_KEY_ID",
        False,
    ),
    (GenericError(no_answer("InvalidMessage( InvalidContentType )")), "does not speak TLS; try http://", False),
    (GenericError(no_answer("InvalidCertificate(UnknownIssuer)")), "AWS_CA_BUNDLE", False),
    (GenericError(no_answer("hyper::Error( Parse( Version ) )")), f"{URL} is no storage", False),
    (GenericError("Generic S3 error\n\nDebug source: Metadata { source: MissingEtag }"), "is no storage", False),
    (GenericError(answer(400, "InvalidArgument")), "the storage answers 400 InvalidArgument", False),
    (ValueError("odd S3CRET"), "answer is not understood (ValueError)", False),
    (GenericError(answer(500)), "the storage fails again and again (500)", True),
    (GenericError(answer(503, "SlowDown")), "the storage fails again and again (503 SlowDown)", True),
    (GenericError(answer(429)), "the storage fails again and again (429)", True),
    (GenericError(answer(400, "RequestTimeout")), "the storage answers 400 RequestTimeout", True),
    (GenericError(no_answer('code: 111, message: "Connection refused"')), f"nothing listens at {URL}", True),
    (GenericError(no_answer('ConnectError( "dns error" )')), f"no such host: {URL}", True),
    (GenericError(no_answer("kind: Timeout, source: TimedOut")), "does not answer in time", True),
    (GenericError(no_answer('kind: Interrupted, "Connection reset by peer"')), "breaks connections off", True),
    (GenericError(no_answer("kind: Connect")), "no connection to", True),
    (UnauthenticatedError("External AWS credential provider ... S3CRET"), "credentials cannot be had", True),
]


@pytest.mark.parametrize(("error", "says", "passes"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_refusal_is_one_line_that_says_what_to_do(error: Exception, says: str, passes: bool) -> None:
    """What passes by itself is waited for; no line holds an address with a signature, or the library's text."""
    before = refusal(error, Bucket("s3", "b", "p"), URL, "be written to", is_check=True)
    later = refusal(error, Bucket("s3", "b", "p"), URL, "be written to")
    assert isinstance(before, UsageError)
    assert isinstance(later, StorageError)
    assert is_passing(error) is passes
    for line in (str(before), str(later)):
        assert says in line
        assert line.startswith("s3://b/p: ")
        assert "S3CRET" not in line
        assert "Debug" not in line
        assert "\n" not in line
        assert "{" not in line
    assert "run again" in str(later)


def test_an_absent_object_is_no_absent_bucket() -> None:
    """Both are answered 404."""
    assert is_object_missing(FileNotFoundError(answer(404, "NoSuchKey")))
    assert is_object_missing(FileNotFoundError(answer(404)))
    assert not is_object_missing(FileNotFoundError(answer(404, "NoSuchBucket")))
    assert not is_object_missing(FileNotFoundError(f"{answer(404)} 404 page not found"))


def test_an_error_of_ours_stays_as_it_is() -> None:
    """It is in words already."""
    error: OidError = UsageError("words")
    assert refusal(error, Bucket("gs", "bucket"), None, "be read") is error
