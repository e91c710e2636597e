"""What a final failure is about: the address that was asked, and the size and MD5 that were expected there.

A failure is remembered for these alone. The journal keeps a hash of them for each source that failed for good,

    cvdf:8d0b1f0c77aa original:03c1a9be5f42

so that a run asks again where its address or what it expects is another one. As a hash the query of a URL, which may
hold a secret, is not written down once more. No Polars here: worker processes write these hashes, too.
"""

from collections.abc import Iterable
from hashlib import blake2b

from oid_async.store.image_check import Expected

_HASH_BYTES = 6


def memory_text(address: str | None, expected: Expected) -> str:
    """Return what a failure is about, in one text, which `hashed` makes short; no address is one of its own.

    >>> memory_text("http://h/a.jpg", Expected(7, None)), memory_text(None, Expected())
    ('http://h/a.jpg\\n7\\n', '\\n\\n')
    """
    size = expected.saved_bytes if expected.size is None else expected.size
    return "\n".join((address or "", "" if size is None else str(size), expected.md5 or ""))


def hashed(text: str) -> str:
    """Return the 12 hex digits that stand for a text in the journal."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()


def write_asked(sources: Iterable[tuple[str, str | None, Expected]]) -> str | None:
    """Return the journal's field for sources that failed for good: (source, address, expected) each; None for none."""
    parts = [f"{source}:{hashed(memory_text(address, expected))}" for source, address, expected in sources]
    return " ".join(parts) or None
