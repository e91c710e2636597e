"""Whether a host's ETags are the MD5s of what it sends, and what an ETag states."""

import re
from base64 import b64encode

from oid_async.quick_values import define

_MD5_ETAG = re.compile(r'"([0-9a-fA-F]{32})"')


@define
class EtagTrust:
    """Whether one host's ETags are the MD5s of its bodies: None until seen, then True or False for the run.

    No document states it for the bucket, so a mismatch counts only after a match.
    """

    host: str
    is_md5: bool | None = None

    def contradicts(self, etag: str | None, md5: str | None) -> tuple[str | None, str | None] | None:
        """Compare an MD5 with an ETag, if both are known; return (reason to refuse, note for the user) if not equal."""
        stated = etag_md5(etag)
        if stated is None or md5 is None or self.is_md5 is False:
            return None
        if stated == md5:
            self.is_md5 = True
            return None
        if self.is_md5:
            return "checksum", None
        self.is_md5 = False
        return None, f"{self.host}: its ETags are not the MD5s of what it sends; that check is off for this run"


def etag_md5(etag: str | None) -> str | None:
    """Return the base64 MD5 that a strong ETag of 32 hex digits states, None for any other form (S3 multipart, weak).

    >>> etag_md5('"d41d8cd98f00b204e9800998ecf8427e"'), etag_md5('"abc-2"')
    ('1B2M2Y8AsgTpgAmY7PhCfg==', None)
    """
    digits = _MD5_ETAG.fullmatch(etag or "")
    return b64encode(bytes.fromhex(digits[1])).decode() if digits else None
