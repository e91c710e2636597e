"""Which headers say that an image is not for AI, and whom they mean."""

import pytest

from oid_async.http.opt_out import opt_out


def said(*values: str | bytes, respect: bool | str = True, name: bytes = b"X-Robots-Tag") -> str | None:
    lines = [(name, value if isinstance(value, bytes) else value.encode()) for value in values]
    return opt_out(lines, respect)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        ["noai"],
        ["noimageai"],
        ["noai, noimageai"],
        ["NoAI"],
        ["  noai  "],
        ["all", "noai"],
        ["noindex,nofollow,noimageai"],
        ["nofollow; noai"],
        ["oid-async: noai"],
        ["OID_Async: nofollow, noimageai"],
        ["oid-async/1.0: noai"],
        ["*: noai"],
        ["googlebot: noindex", "noai"],
        ["googlebot: noindex, oid-async: noai"],
        ["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"],
        ["unavailable_after: Friday, 25-Jun-10 15:00:00 PST, noai"],
        ["max-snippet: 20, max-image-preview: large, noai"],
        [b"\xff\xfe\x00, noai"],
        ["x" * 60_000 + ", noai"],
        ["," * 60_000 + "noai"],
    ],
)
def test_an_image_is_not_for_us(values: list[str | bytes]) -> None:
    """Any case, among other rules, in any line, for everybody or for this program by name."""
    assert said(*values) in ("noai", "noimageai")
    assert said(*values, respect="noindex") in ("noai", "noimageai")
    assert said(*values, respect=False) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "all",
        "noindex, nofollow",
        "none",
        "googlebot: noai",
        "googlebot: nofollow, noai",
        "GPTBot: noai, noimageai",
        "googlebot: unavailable_after: 25 Jun 2010 15:00:00 PST, noai",
        "unavailable_after: noai",
        "noairplanes, xnoai, noai2",
        "no ai",
        ":::,,,:",
        "googlebot: noai," * 3000,
        b"\xe9\xe8\xff: noai",
        "noaı",
    ],
)
def test_other_rules_do_not_count(value: str | bytes) -> None:
    """Rules for search engines, for other agents, values of rules, and what merely looks like a rule."""
    assert said(value) is None


def test_indexing_counts_only_if_asked_for() -> None:
    """noindex, noimageindex and none count with noindex alone; what always counts is named first."""
    for rule in ("noindex", "noimageindex", "none"):
        assert (said(rule), said(rule, respect="noindex")) == (None, rule)
    assert said("noindex", "noai", respect="noindex") == "noai"
    assert said("noindex, noai", respect="noindex") == "noai"
    assert said("googlebot: noindex", respect="noindex") is None


def test_a_reservation_of_text_and_data_mining_is_1() -> None:
    """Of TDMRep's header 1 alone reserves."""
    name = b"TDM-Reservation"
    assert said(" 1 ", name=name) == said("1, 1", name=name) == "tdm-reservation"
    assert [said(value, name=name) for value in ("0", "", "10", "yes", b"\xb9")] == [None] * 5
    assert said("1", name=name, respect=False) is None
