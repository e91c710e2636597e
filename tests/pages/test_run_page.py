"""The page of a run, as text: its numbers, what held it up, and that it needs no plotting library."""

from typing import Any

import pytest
from support.page_samples import HOSTILE, run

from oid_async.pages import plotting
from oid_async.pages.holding import what_held_up
from oid_async.pages.run import run_page


def test_a_page_without_plots_has_every_number_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts, percentiles, waits, retries, failures, processor time: all in tables, without the extra."""
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    page = run_page(run(["storage.googleapis.com", "live.staticflickr.com"]), plots=False)
    for number in (
        "497,000",
        "150.0 GB",
        "310.6",
        "20.5",
        "1,800",
        "1,200",
        "52.2",
        "1,120",
        "13 min 20 s",
        "2.014 ms",
    ):
        assert number in page, number
    assert "2026-03-01 12:00:00 UTC" in page
    assert "oid-async[view]" in page.replace("&quot;", '"')
    assert len(page) < 100_000


def test_what_was_asked_for_is_shown_if_it_is_known() -> None:
    """Options and version, where the report has them."""
    page = run_page({**run(["a.org"]), "version": "9.8.7", "options": {"categories": ["Ball", "<b>"]}}, plots=False)
    assert "left out: they need" not in page
    assert "9.8.7" in page
    assert "<td>Ball, &lt;b&gt;" in page


@pytest.mark.parametrize("hosts", [[], list(HOSTILE), [f"host{index}.example.org" for index in range(101)]])
def test_any_number_of_hosts_makes_a_page(hosts: list[str]) -> None:
    """None, hostile names, more than a plot can name: every host is in the tables, as text."""
    page = run_page(run(hosts, intervals=600 if hosts else 0), plots=False)
    assert all(name in page for name in hosts if name.isalnum())
    assert page.count("<script") == 1
    assert "onerror=alert" not in page.replace("&lt;img src=x onerror=alert", "")


def test_an_empty_report_makes_a_page() -> None:
    """Parts that are missing are left out."""
    assert "No image was fetched" in run_page({}, plots=False)


@pytest.mark.parametrize(
    ("waits", "cpu_s", "said"),
    [
        (
            {"rate_cap": 60.0},
            10.0,
            "For 60 % of the time that the images took, requests to a.org waited for the rate cap.",
        ),
        ({"retry_after": 90.0, "backoff": 95.0}, 10.0, "it had asked for that (Retry-After)"),
        ({"backoff": 95.0}, 10.0, "waited to be tried again"),
        ({"backoff": 95.0}, 95.0, "The processor held this run up: each of its processes used 95 % of a core."),
        ({"rate_cap": 3.0}, 20.0, "Nothing waited for a cap or a host for long and its processes used 20 %"),
        ({}, 0.0, "Nothing waited"),
    ],
)
def test_a_sentence_says_what_held_the_run_up(waits: dict[str, float], cpu_s: float, said: str) -> None:
    """The longest wait does if it lasted for half of the run, else a busy processor, else line and hosts are left."""
    value: dict[str, Any] = {
        "report": {"downloaded": 10, "seconds": 100.0},
        "hosts": {"a.org": {"waits": {reason: {"count": 1, "seconds": seconds} for reason, seconds in waits.items()}}},
        "cpu": {"user_s": cpu_s, "system_s": 0.0, "processes": 1},
    }
    assert said in what_held_up(value)[0]


def test_waits_are_compared_with_the_time_that_the_images_took() -> None:
    """A run that fetched tables for most of its time was held up by its cap all the same, while images came."""
    value: dict[str, Any] = {
        "report": {"downloaded": 10, "seconds": 100.0},
        "hosts": {"a.org": {"waits": {"rate_cap": {"count": 1, "seconds": 9.0}}}},
        "throughput": {"interval_s": 2.0, "images": [*[0] * 40, 1, 2, 0, 3, 1], "bytes": [], "failed": []},
    }
    said = what_held_up(value)
    assert said[0].startswith("For 90 % of the time that the images took, requests to a.org waited for the rate cap")
    assert said[1].startswith("The images took 10 % of this run")


def test_an_error_that_stopped_the_run_stands_first() -> None:
    """The line that the command line printed is at the top, as text."""
    page = run_page(
        {"report": {"downloaded": 3, "seconds": 2.0}, "error": {"kind": "storage", "message": "<full>"}}, plots=False
    )
    assert page.index("The run stopped: &lt;full&gt;") < page.index("Nothing waited")
