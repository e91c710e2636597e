"""The browser that tests drive: what a page does wrong in it is seen."""

from pathlib import Path

import pytest
from support.browser import Windows

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.browser]

HARMLESS = "<!doctype html><title>x</title><p>Here</p>"
# An alert, a question to another origin, an exception and an element whose handler would run markup from a file.
HOSTILE = f"{HARMLESS}<script>alert(1);fetch('http://127.0.0.1:9/').catch(() => 0);throw new Error('thrown')</script>"


async def test_a_page_that_does_nothing_wrong_passes(windows: Windows, tmp_path: Path) -> None:
    """A page without script is shown, and the fixture finds nothing."""
    path = tmp_path / "page.html"
    path.write_text(HARMLESS)
    windows.allowed.add("file://")
    page = await windows.open(path.as_uri())
    assert await page.inner_text("p") == "Here"


async def test_what_a_page_does_wrong_is_seen(windows: Windows, tmp_path: Path) -> None:
    """A dialog, a request to another origin and an exception of the page are kept, each in its list."""
    path = tmp_path / "page.html"
    path.write_text(HOSTILE)
    windows.allowed.add("file://")
    page = await windows.blank()
    async with page.expect_console_message(lambda message: "Failed to load" in message.text):
        await page.goto(path.as_uri())
    assert windows.dialogs == ["1"]
    assert windows.strangers == ["http://127.0.0.1:9/"]
    assert any("thrown" in line for line in windows.errors)
    for found in (windows.dialogs, windows.strangers, windows.errors):
        found.clear()
