"""The address of an object storage, as people give it. Pure."""

from urllib.parse import urlsplit

from oid_async.errors import UsageError
from oid_async.redaction import has_login, redacted


def read_endpoint_url(label: str, value: object) -> str:
    """Return the URL of a storage: http or https, a host, maybe a port and a path. Raises UsageError.

    >>> read_endpoint_url("--endpoint-url", "http://127.0.0.1:8333/")
    'http://127.0.0.1:8333'
    """
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{label} takes the URL of a storage such as https://minio.example.org:9000, not {value!r}")
    text = value.strip()
    if has_login(text):
        raise UsageError(f"{label} holds a user name and a password; give keys as the storage's own tools take them")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or any(sign.isspace() for sign in text):
        raise UsageError(
            f"{label} takes the URL of a storage such as https://minio.example.org:9000, not {redacted(text)!r}"
        )
    if "?" in text or "#" in text:
        raise UsageError(f"{label} takes no query and no fragment ({redacted(text)})")
    return text.rstrip("/")
