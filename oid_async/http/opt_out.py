"""Whether the answer that brings an image says that it is not for AI: what its headers say, and whom they mean. Pure.

    X-Robots-Tag: noai, noimageai                              for everybody
    X-Robots-Tag: googlebot: noai                              for Googlebot alone, up to the end of the line
    X-Robots-Tag: unavailable_after: 25 Jun 2010 15:00:00 PST  a rule with a value, for everybody
    tdm-reservation: 1                                         text and data mining is reserved

Rules, agents and their separators are those of Google's page on X-Robots-Tag
(https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag), `noai` and `noimageai` are as img2dataset
reads them, the last one is TDMRep's (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/); all three
were read in November 2026. What is no rule that counts is passed over, whatever it is.
"""

import re
from collections.abc import Iterable

from oid_async.options.readers import RespectOptOut
from oid_async.report import OPTED_OUT

_ROBOTS, _RESERVATION = b"x-robots-tag", b"tdm-reservation"
_ALWAYS = frozenset(("noai", "noimageai"))
# They speak of search engines; `none` is noindex and nofollow.
_INDEXING = frozenset(("noindex", "noimageindex", "none"))
_AGENTS = frozenset(("oid-async", "oid_async", "*"))
# A rule whose value may hold anything, colons included.
_VALUED = frozenset(("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"))
_AGENT = re.compile(r"[\w.*+/-]+", re.ASCII)
_WORDS = re.compile(rb"noai|noimageai|noindex|noimageindex|none", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s'\"]+")
# What a failure memory does not believe, by what is respected now: a Detail's text behind the source and its colon.
_LIFTED = {
    True: rf"^{OPTED_OUT} \((?:{'|'.join(sorted(_INDEXING))})\)",
    False: rf"^{OPTED_OUT}\b",
    "noindex": None,
}


def is_opt_out_header(name: bytes) -> bool:
    """Return whether a header may say that an image is not for AI."""
    return name.lower() in (_ROBOTS, _RESERVATION)


def opt_out(lines: Iterable[tuple[bytes, bytes]], respect: RespectOptOut) -> str | None:
    """Return the rule by which an image is not for us, None if there is none; `lines` are names and values of headers.

    Of several rules one that always counts comes first: what a later run believes depends on it.

    >>> opt_out([(b"X-Robots-Tag", b"noindex, NoAI")], True), opt_out([(b"X-Robots-Tag", b"noindex")], True)
    ('noai', None)
    >>> opt_out([(b"X-Robots-Tag", b"noindex")], "noindex"), opt_out([(b"TDM-Reservation", b" 1 ")], False)
    ('noindex', None)
    """
    if respect is False:
        return None
    wanted = _ALWAYS | _INDEXING if respect == "noindex" else _ALWAYS
    found = None
    for name, value in lines:
        rule = _reservation(value) if name.lower() == _RESERVATION else _first_rule(value, wanted)
        if rule is not None and rule not in _INDEXING:
            return rule
        found = found or rule
    return found


def reason_for(rule: str) -> str:
    """Return what is written down of an image that is not for us.

    >>> reason_for("noai")
    'opted_out (noai)'
    """
    return f"{OPTED_OUT} ({rule})"


def lifted(respect: RespectOptOut) -> str | None:
    """Return the pattern of reasons that count no more with this option; None where all of them do."""
    return _LIFTED[respect]


def _reservation(value: bytes) -> str | None:
    return "tdm-reservation" if any(part.strip() == b"1" for part in value.split(b",")) else None


def _first_rule(value: bytes, wanted: frozenset[str]) -> str | None:
    """Return a wanted rule in the value of one X-Robots-Tag, preferably one that always counts."""
    if _WORDS.search(value) is None:
        return None
    found, is_for_us = None, True
    for part in value.decode("latin-1").lower().replace(";", ",").split(","):
        name, colon, words = part.partition(":")
        if not colon:
            words = name
        elif (name := name.strip()) in _VALUED or _AGENT.fullmatch(name) is None:
            continue  # a value, or the rest of one: a time of day has colons
        else:
            is_for_us = name.partition("/")[0] in _AGENTS
        if is_for_us and ":" not in words:
            for word in wanted.intersection(_BETWEEN.split(words)):
                if word in _ALWAYS:
                    return word
                found = found or word
    return found
