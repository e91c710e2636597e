"""What a test sees of the gallery's page: waiting until it is still, where things stand, the pixels of a screenshot."""

import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image
from playwright.async_api import Locator, Page, expect

Rectangle = tuple[float, float, float, float]
"""Left, top, width, height, in CSS pixels of the window."""


def part(page: Page, name: str) -> Locator:
    """Return the elements of a data-testid."""
    return page.get_by_test_id(name)


async def go(page: Page, state: str) -> None:
    """Lead the page to another state, as the browser's back and forward do: it is not loaded again."""
    await page.evaluate(
        "address => { history.pushState(null, '', address); dispatchEvent(new PopStateEvent('popstate')); }",
        f"./?{state}",
    )


# Functions, not expressions: Playwright would evaluate an expression again in the page, which its policy forbids.
_IS_SETTLED = """() => document.querySelector('[data-testid=grid]').dataset.busy === 'false' && (
    document.querySelector('[data-testid=found]').textContent !== '' ||
    document.querySelector('[data-testid=note][data-note=error]') !== null)"""


async def settled(page: Page) -> None:
    """Wait until the grid has what it shows, or the page says why it has not."""
    await page.wait_for_function(_IS_SETTLED)


async def total(page: Page) -> int:
    """Return the number of images that pass the filters, once it is known."""
    await settled(page)
    return int(await part(page, "grid").get_attribute("data-total") or -1)


async def shown_images(page: Page) -> list[str]:
    """Return the images of the tiles that are in the document, in the order of the result."""
    await settled(page)
    tiles = await part(page, "tile").evaluate_all(
        "tiles => tiles.map(tile => [Number(tile.dataset.index), tile.dataset.image ?? ''])"
    )
    return [image for _, image in sorted(tiles)]


async def opened(page: Page) -> None:
    """Wait until the large view has its image, its annotations and its masks."""
    await expect(part(page, "viewer")).to_be_visible()
    await page.wait_for_selector('[data-testid=viewer][data-busy="false"]')


async def place(target: Locator) -> Rectangle:
    """Return where an element stands."""
    box = await target.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"], box["height"]


async def drawn_rows(page: Page, kind: str) -> list[dict[str, Any]]:
    """Return the drawn annotations of a kind: label, then left, top, width, height from the corner of the stage.

    What a change of the address asks for is drawn in the next frame: it is waited for.
    """
    await page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    rows = await page.eval_on_selector_all(
        f'[data-testid=row][data-kind="{kind}"][data-left]', "rows => rows.map(row => JSON.stringify(row.dataset))"
    )
    return [json.loads(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Shot:
    """The pixels of a window; `scale` is pixels of the picture per CSS pixel."""

    picture: Image.Image
    scale: float

    @classmethod
    async def of(cls, page: Page) -> "Shot":
        """Take a picture of what the window shows."""
        picture = Image.open(io.BytesIO(await page.screenshot())).convert("RGB")
        size = page.viewport_size
        assert size is not None
        return cls(picture, picture.width / size["width"])

    def line(self, *, x: float | None = None, y: float | None = None) -> list[tuple[int, int, int]]:
        """Return the pixels of one row (y) or column (x), given in CSS pixels."""
        if y is not None:
            across = range(self.picture.width)
            return [self._at(position, int(y * self.scale)) for position in across]
        assert x is not None
        return [self._at(int(x * self.scale), position) for position in range(self.picture.height)]

    def _at(self, x: int, y: int) -> tuple[int, int, int]:
        red, green, blue = self.picture.getpixel((x, y))  # type: ignore[misc]
        return int(red), int(green), int(blue)


def runs(line: list[tuple[int, int, int]], colour: tuple[int, int, int], within: int) -> list[tuple[int, int]]:
    """Return where a line has a colour: (first, behind the last) pixel of every run.

    >>> runs([(0, 0, 0), (9, 9, 9), (8, 9, 9), (0, 0, 0)], (9, 9, 9), 2)
    [(1, 3)]
    """
    found: list[tuple[int, int]] = []
    for position, pixel in enumerate(line):
        if max(abs(one - other) for one, other in zip(pixel, colour, strict=True)) <= within:
            if found and found[-1][1] == position:
                found[-1] = (found[-1][0], position + 1)
            else:
                found.append((position, position + 1))
    return found
