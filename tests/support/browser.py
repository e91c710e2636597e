"""Debian's Chromium, driven by Playwright, for the pages that the program serves and writes.

One browser is started for all tests of a process; each test has windows of its own (contexts: no cookie is shared), and
every request, error and dialog of them is kept, so that a test can promise that there was none.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request, async_playwright

# What .ci/run sets once it has installed Chromium: a green run then cannot hide that these tests were skipped.
REQUIRED = "OID_ASYNC_TEST_BROWSER"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Chromium's own requests (updates, field trials, sync) would run into time-outs where there is no network.
_QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
_FLAGS = (*_QUIET, "--disable-gpu", "--no-first-run", "--force-color-profile=srgb")


def chromium() -> str | None:
    """Return the path of an installed Chromium; Playwright's own download is never used."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


@asynccontextmanager
async def started_browser() -> AsyncIterator[Browser]:
    """Start Chromium; the test is skipped where there is none, and fails where there has to be one."""
    path = chromium()
    if path is None:
        reason = "no Chromium on PATH (Debian: apt-get install chromium)"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    # Chromium's sandbox refuses to run as root.
    flags = [*_FLAGS, "--no-sandbox"] if os.geteuid() == 0 else [*_FLAGS]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            await browser.close()


# Without slots: Playwright keeps a method that handles an event at its object.
@dataclass
class Windows:
    """The windows that a test opens, and what happened in all of them.

    `allowed` are the origins that may be asked (`http://127.0.0.1:8080`; `file://` for a saved page); what else is
    asked for is kept in `strangers`. `errors` are the console's errors and warnings (a violation of the
    Content-Security-Policy is one) and uncaught exceptions; those with a text of `expected` are what a test asks for,
    such as a browser's own line about an answer 404.
    """

    browser: Browser
    allowed: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    async def open(self, address: str, *, width: int = 1200, height: int = 800, **options: Any) -> Page:
        """Open an address in a window that shares nothing with others, and wait until it is loaded."""
        page = await self.blank(width=width, height=height, **options)
        await page.goto(address)
        return page

    async def blank(self, *, width: int = 1200, height: int = 800, **options: Any) -> Page:
        """Return an empty window; `options` are those of Playwright's `new_context` (color_scheme, has_touch ...)."""
        context = await self.browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(20_000)
        self._contexts.append(context)
        context.on("request", self._asked)
        context.on("console", self._said)
        context.on("dialog", self._dialog)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        return await context.new_page()

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" not in self.allowed:
            self.strangers.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    async def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        await dialog.dismiss()

    async def close(self) -> None:
        """Close every window of the test."""
        for context in self._contexts:
            await context.close()

    def assert_quiet(self) -> None:
        """Nothing was asked of another origin, nothing went wrong in a console, no dialog came up."""
        assert not self.strangers, f"other origins were asked: {self.strangers}"
        errors = [line for line in self.errors if not any(text in line for text in self.expected)]
        assert not errors, f"the console says: {errors}"
        assert not self.dialogs, f"dialogs came up: {self.dialogs}"
