"""The pages in a real browser: they open offline, draw every plot, and do nothing else."""

from pathlib import Path

import pytest
from playwright.async_api import Page
from support.browser import Windows
from support.page_samples import HOSTILE, run, statistics

from oid_async.pages.run import run_page
from oid_async.pages.statistics import statistics_page

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.browser]


def saved(page: str, folder: Path) -> str:
    """Write a page and return the address of its file."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


async def opened(windows: Windows, address: str, *, width: int = 1200, has_touch: bool = False) -> Page:
    """Open a file, and wait until its plots are drawn."""
    windows.allowed.add("file://")
    window = await windows.open(address, width=width, has_touch=has_touch)
    await window.wait_for_selector("html[data-plots=drawn]")
    return window


async def is_within_its_window(window: Page) -> bool:
    """Return whether nothing has to be scrolled sideways but tables in their own place."""
    wide: bool = await window.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return not wide


async def test_the_statistics_open_offline_with_every_plot_drawn(windows: Windows, tmp_path: Path) -> None:
    """Each plot has marks; the file asks for nothing, the console is silent, and a phone needs no sideways scrolling.

    Names are as hostile as can be: they are text in plots, tables and the hover.
    """
    address = saved(statistics_page(statistics(list(HOSTILE))), tmp_path)
    window = await opened(windows, address)
    assert await window.locator(".plot").count() == 10
    assert await window.locator(".plot:has(.role-mark path)").count() == 10
    assert windows.requests == [address]
    axis = await window.locator("#plot-1 .role-axis-label text").all_text_contents()
    assert "__proto__" in axis
    assert all(len(name) <= 60 for name in axis)

    await window.locator("#plot-1 .mark-rect path").first.hover()
    hover = window.locator("#hover")
    assert HOSTILE[0] in await hover.inner_text()
    assert await hover.locator("script, img").count() == 0

    await window.set_viewport_size({"width": 390, "height": 800})
    assert await is_within_its_window(window)
    widths = await window.evaluate(
        "[...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect().right)"
    )
    assert max(widths) <= 390


@pytest.mark.slow
async def test_the_table_of_classes_is_searched_and_sorted(windows: Windows, tmp_path: Path) -> None:
    """What is typed leaves the rows that hold it, shown or not before; a click on a head sorts numbers as numbers."""
    names = [f"Class {index}" for index in range(1200)]
    window = await opened(windows, saved(statistics_page(statistics(names), plots=False), tmp_path))
    search = window.locator("input[type=search]")
    head = window.locator("table").first.get_by_role("button", name="images")

    async def shown() -> list[str]:
        """Return the images of the rows that can be seen, in their order."""
        cells: list[str] = await window.evaluate(
            "[...document.querySelector('table').querySelectorAll('tbody tr')]"
            ".filter(row => row.getClientRects().length).map(row => row.cells[2].textContent.trim())"
        )
        return cells

    assert len(await shown()) == 1000
    await search.fill("class 119")
    assert len(await shown()) == 11
    await search.fill("")
    assert len(await shown()) == 1000
    await window.get_by_role("button", name="Show all 1,200 rows").click()
    assert len(await shown()) == 1200
    await head.click()
    assert (await shown())[0] == "860,000"
    await head.click()
    assert (await shown())[-1] == "860,000"


async def test_the_report_of_a_run_opens_offline_on_a_phone(windows: Windows, tmp_path: Path) -> None:
    """Throughput, hosts and waits are drawn within its width; nothing is asked for; a touch shows a mark's numbers.

    Host names are as hostile as can be.
    """
    address = saved(run_page(run(list(HOSTILE))), tmp_path)
    window = await opened(windows, address, width=390, has_touch=True)
    assert await window.locator(".plot").count() == 5
    assert await window.locator(".plot:has(.role-mark path)").count() == 5
    assert windows.requests == [address]
    assert await is_within_its_window(window)
    await window.locator("#plot-5 .mark-rect path").first.tap()
    assert "1,200" in await window.locator("#hover").inner_text()
