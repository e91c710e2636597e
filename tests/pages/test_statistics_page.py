"""The page of statistics, as text: what is in it, and what is not taken for markup."""

import re
import sys
from html.parser import HTMLParser

import pytest
from support.page_samples import HOSTILE, LICENCE, statistics

from oid_async.errors import UsageError
from oid_async.pages import document, plotting
from oid_async.pages.charts import finite_bins, is_wide
from oid_async.pages.statistics import statistics_page


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and the text of its body."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_every_class_is_in_the_page_with_its_numbers_grouped() -> None:
    """All 601 classes are in the table, not only those of the plot, and numbers have commas."""
    page = statistics_page(statistics([f"Class {index}" for index in range(601)]), plots=False)
    assert all(f"<td>Class {index}<td>" in page for index in range(601))
    assert "<td>860,000<td>2,580,000" in page
    assert "1,743,042" in page


@pytest.mark.parametrize("plots", [False, True])
def test_hostile_names_stay_text(plots: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of classes, authors and licences make no element and no link but to http(s), in data of plots neither."""
    monkeypatch.setattr(document, "bundle", lambda: "// the library, which takes two seconds to make")
    page = statistics_page(statistics(list(HOSTILE)), plots=plots)
    found = Elements(page)
    usual = Elements(statistics_page(statistics(["a" * (index + 1) for index in range(len(HOSTILE))]), plots=plots))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in usual.elements]
    assert {attributes["href"] for tag, attributes in found.elements if tag == "a"} == {LICENCE}
    assert all(attributes.get("rel") == "noopener noreferrer" for tag, attributes in found.elements if tag == "a")
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert "‮" not in page
    assert "\x1b" not in page
    assert "x" * 10_000 in page


def test_the_policy_of_a_page_allows_its_own_style_and_script_alone() -> None:
    """Nothing may be loaded, no text may become code, no form may send."""
    page = statistics_page(statistics(["Football"]), plots=False)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert not re.search(r'\s(src|style)="', page)


def test_the_page_of_a_query_says_what_was_asked_for() -> None:
    """The options of the query, as text."""
    page = statistics_page({"of": "query"}, plots=False, asked={"categories": ["Ball", "<b>"], "limit": 500})
    assert "<td>categories<td>Ball, &lt;b&gt;" in page
    assert "<td>limit<td>500" in page


@pytest.mark.parametrize("of", ["folder", "query", "export"])
def test_a_page_of_nothing_is_a_page(of: str) -> None:
    """No images, no classes, parts that are empty or missing: the page says so and has no plot."""
    page = statistics_page({"of": of, "images": {"selected": 0}}, plots=True)
    assert "nothing was selected" in page
    assert "<svg" not in page
    assert len(page) < 20_000


def test_without_the_extra_the_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without plots needs no library; asking for plots is a usage error that names the extra."""
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    assert not plotting.has_library()
    with pytest.raises(UsageError, match=re.escape("--html: plots need Altair")) as raised:
        plotting.require_library("--html")
    assert 'pip install "oid-async[view]"' in str(raised.value)


def test_a_library_that_may_not_be_imported_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """None in sys.modules, as tests of others put it there, is no error."""
    monkeypatch.setitem(sys.modules, "altair", None)
    assert not plotting.has_library()


@pytest.mark.parametrize(
    ("edges", "log", "bins"),
    [
        ([0, 1], False, [(0, 1)]),
        ([0, 1], True, [(0.1, 1)]),
        ([None, 1, 2, None], False, [(0, 1), (1, 2), (2, 3)]),
        ([1, 2, float("inf")], True, [(1, 2), (2, 4)]),
    ],
)
def test_bins_without_an_end_are_drawn_as_wide_as_their_neighbour(
    edges: list[float | None], log: bool, bins: list[tuple[float, float]]
) -> None:
    """Every bin has two ends on its axis."""
    assert finite_bins(edges, log=log) == bins


def test_a_scale_is_logarithmic_only_where_bars_would_be_invisible() -> None:
    """Zeros and small differences keep a linear scale."""
    assert is_wide([1, 1000])
    assert not is_wide([0, 50, 100])
    assert not is_wide([])
