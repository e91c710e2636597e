"""ETags that are MD5s: what one claims of a body, and whether a host's are to be believed. Pure."""

import re
from base64 import b64encode
from dataclasses import dataclass

_MD5_ETAG = re.compile(r'"([0-9a-fA-F]{32})"')


def etag_md5(etag: str | None) -> str | None:
    """Return the base64 MD5 that a strong ETag of 32 hex digits claims, None for any other form (S3 multipart, weak).

    >>> etag_md5('"d41d8cd98f00b204e9800998ecf8427e"'), etag_md5('"abc-2"')
    ('1B2M2Y8AsgTpgAmY7PhCfg==', None)
    """
    claim = _MD5_ETAG.fullmatch(etag or "")
    return b64encode(bytes.fromhex(claim[1])).decode() if claim else None


@dataclass(slots=True)
class EtagTrust:
    """Whether one host's ETags are the MD5s of its bodies: None until seen, then True or False for the run.

    No document says so of the bucket, so a mismatch counts only once a match has shown it.
    """

    host: str
    is_md5: bool | None = None

    def contradicts(self, etag: str | None, md5: str | None) -> tuple[str | None, str | None] | None:
        """Hold a body's MD5 against its ETag; return (reason to refuse it, note to give once) when they differ.

        A body that was not hashed (None) is not held against anything.
        """
        owned_folder = etag_md5(etag)
        if owned_folder is None or md5 is None or self.is_md5 is False:
            return None
        if owned_folder == md5:
            self.is_md5 = True
            return None
        if self.is_md5:
            return "checksum", None
        self.is_md5 = False
        return None, f"{self.host}: its ETags are not the MD5s of what it sends; that check is off for this run"
