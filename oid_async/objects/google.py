"""Google's application default credentials: through google-auth where it is installed, else as obstore finds them.

obstore knows a service account's key file, what `gcloud auth application-default login` leaves, and the identity of the
machine; google-auth knows federated identities, too.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from oid_async.errors import UsageError
from oid_async.redaction import redacted_text

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


def application_default_credentials() -> Callable[[], Any] | None:
    """Return who gives access tokens; None leaves it to obstore. Raises UsageError where there are none."""
    if find_spec("google") is None or find_spec("google.auth") is None or find_spec("requests") is None:
        return None
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except GoogleAuthError as error:
        reason = redacted_text(" ".join(str(error).split())[:200])
        raise UsageError(f"gs://: no credentials: {reason}; run gcloud auth application-default login") from None

    def token() -> dict[str, Any]:
        if not credentials.valid:
            credentials.refresh(Request())
        expiry: datetime | None = credentials.expiry
        return {"token": credentials.token, "expires_at": expiry and expiry.replace(tzinfo=UTC)}

    return token
