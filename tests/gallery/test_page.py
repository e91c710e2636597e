"""The gallery's page in a real browser: what is shown is what the tables say, and stands where they say it."""

import asyncio
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import duckdb
import polars as pl
import pytest
from aiohttp import web
from playwright.async_api import Page, Route, expect
from support.browser import Windows
from support.gallery_folders import (
    GREY,
    HOSTILE_LINKS,
    HOSTILE_TEXTS,
    MASK_SIZES,
    PIXEL_BOX,
    PIXEL_SIZE,
    image_id,
    white_part,
)
from support.gallery_page import Shot, drawn_rows, go, opened, part, place, runs, settled, shown_images, total
from support.gallery_server import Served

from oid_async.redaction import printable

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.browser]


async def looked_at(windows: Windows, gallery: Served, state: str = "", **options: object) -> Page:
    """Open a state of a gallery as someone who has the printed address."""
    windows.allowed.add(gallery.origin)
    page = await windows.open(gallery.enter(state), **options)  # type: ignore[arg-type]
    await settled(page)
    return page


TABLES = {
    "bbox": "bbox/bbox",
    "masks": "segmentation/segmentation",
    "labels": "label/labels",
    "points": "point/points",
    "pairs": "relationship/relationship",
}


def images_that(folder: Path, *conditions: str) -> list[int]:
    """Return how many rows of the manifest duckdb finds for each condition about it and the saved tables."""
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE manifest AS SELECT * FROM read_parquet('{folder}/manifest.parquet')")
        for name, path in TABLES.items():
            # The tables are small: what duckdb would find out about each is told.
            options = "all_varchar=true, header=true, delim=',', quote='\"', escape='\"'"
            database.execute(f"CREATE TABLE {name} AS SELECT * FROM read_csv('{folder}/{path}.csv', {options})")
        database.execute(
            f"CREATE TABLE captions AS SELECT image_id AS ImageID, caption "
            f"FROM read_json('{folder}/narrative/narratives.jsonl', format='newline_delimited')"
        )
        counts = [database.execute(f"SELECT count(*) FROM manifest WHERE {each}").fetchone() for each in conditions]
    return [count[0] for count in counts if count is not None]


def has_box(condition: str) -> str:
    return f"ImageID IN (SELECT ImageID FROM bbox WHERE {condition})"


SHARE = "(least(1, XMax::DOUBLE) - greatest(0, XMin::DOUBLE)) * (least(1, YMax::DOUBLE) - greatest(0, YMin::DOUBLE))"
DOG, PERSON, TREE = "Category = 'Dog'", "Category = 'Person'", "Category = 'Tree'"
ANY_TREE = (
    f"ImageID IN (SELECT ImageID FROM bbox WHERE {TREE} UNION SELECT ImageID FROM masks WHERE {TREE} "
    f"UNION SELECT ImageID FROM labels WHERE {TREE} AND Confidence::DOUBLE > 0 UNION SELECT ImageID FROM points "
    f"WHERE {TREE} UNION SELECT ImageID FROM pairs WHERE Category1 = 'Tree' OR Category2 = 'Tree')"
)
# What an address asks for, and what it means in SQL.
FILTERS = (
    ("class=Dog&kind=bbox", has_box(DOG)),
    ("class=Dog&class=Person&kind=bbox", has_box(f"{DOG} OR {PERSON}")),
    ("class=Dog&class=Tree&match=all&kind=bbox", f"{has_box(DOG)} AND {has_box(TREE)}"),
    ("class=Person&without=Tree&kind=bbox", f"{has_box(PERSON)} AND NOT {ANY_TREE}"),
    ("class=Tree", ANY_TREE),
    ("class=Tree&kind=segmentation", "ImageID IN (SELECT ImageID FROM masks WHERE Category = 'Tree')"),
    ("kind=segmentation", "ImageID IN (SELECT ImageID FROM masks)"),
    ("kind=narrative", "ImageID IN (SELECT ImageID FROM captions)"),
    ("flag=IsOccluded:yes", has_box("IsOccluded::DOUBLE = 1")),
    ("class=Person&flag=IsOccluded:no&kind=bbox", has_box(f"{PERSON} AND IsOccluded::DOUBLE = 0")),
    ("split=test", "Subset = 'test'"),
    ("split=test&split=validation", "Subset IN ('test', 'validation')"),
    ("status=failed", "Status = 'failed'"),
    ("status=failed&reason=not_found", "Status = 'failed' AND Reason = 'not_found'"),
    ("source=cvdf&status=ok", "Source = 'cvdf' AND Status = 'ok'"),
    ("caption=TREE", "ImageID IN (SELECT ImageID FROM captions WHERE caption ILIKE '%tree%')"),
    ("min_area=20", has_box(f"{SHARE} >= 0.2")),
    ("class=Person&max_area=3&kind=bbox", has_box(f"{PERSON} AND {SHARE} <= 0.03")),
    ("class=Person&min_area=2&max_area=5&kind=bbox", has_box(f"{PERSON} AND {SHARE} BETWEEN 0.02 AND 0.05")),
)


TO_THE_END = "grid => grid.scrollTo(0, grid.scrollHeight)"
LAST_TILE = '[data-testid=tile][data-index="319"][data-image]'


async def test_the_grid_shows_every_image_as_one_scrolls(windows: Windows, demo: Served) -> None:
    """All 320 images have a place, only those in sight are in the document, and each has its picture or its reason."""
    page = await looked_at(windows, demo)
    assert await total(page) == 320
    assert "320" in await part(page, "found").inner_text()
    first = await shown_images(page)
    assert len(first) < 160
    await page.wait_for_function("() => document.querySelector('[data-testid=tile] img')?.naturalWidth > 0")
    await part(page, "grid").evaluate(TO_THE_END)
    await page.wait_for_selector(LAST_TILE)
    assert not set(first) & set(await shown_images(page))


async def test_a_scroll_is_kept_when_the_grid_is_laid_out_before_the_browser_tells_of_it(
    windows: Windows, demo: Served
) -> None:
    """Tiles get a size in the very moment of a scroll: the end of the result comes into sight all the same."""
    page = await looked_at(windows, demo)
    size = await part(page, "tile-size").element_handle()
    both = f"(grid, size) => {{ ({TO_THE_END})(grid); size.dispatchEvent(new Event('input')); }}"
    await part(page, "grid").evaluate(both, size)
    await page.wait_for_selector(LAST_TILE)
    assert await part(page, "grid").evaluate("grid => grid.scrollTop") > 0


async def test_the_grid_stays_where_it_is_while_the_folder_is_read_anew(windows: Windows, demo: Served) -> None:
    """The index becomes ready: the note goes, which gives the grid more room, before the images are there again."""
    windows.allowed.add(demo.origin)
    page = await windows.blank()
    is_ready, may_answer = asyncio.Event(), asyncio.Event()

    async def folder(route: Route) -> None:
        answer = await (response := await route.fetch()).json()
        if not is_ready.is_set():
            answer |= {"revision": -1, "index": {"ready": False, "done": 1, "total": 2, "error": None}}
        await route.fulfill(response=response, json=answer)

    async def images(route: Route) -> None:
        if is_ready.is_set():
            await may_answer.wait()
        await route.continue_()

    await page.route("**/api/folder", folder)
    await page.goto(demo.entry)
    await settled(page)
    await expect(page.locator("[data-note=index]")).to_be_visible()
    await part(page, "grid").evaluate(TO_THE_END)
    await page.wait_for_selector(LAST_TILE)
    await settled(page)
    await page.route("**/api/images*", images)
    is_ready.set()
    await expect(page.locator("[data-note=index]")).to_have_count(0)
    # Two frames: the grid has been measured, and drawn.
    await page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    may_answer.set()
    await settled(page)
    await page.wait_for_selector(LAST_TILE)
    assert await page.locator('[data-testid=tile][data-index="0"]').count() == 0


async def test_filters_show_what_the_tables_say(windows: Windows, demo: Served, demo_folder: Path) -> None:
    """Each filter, and some together, shows as many images as duckdb finds in the manifest and the saved tables."""
    page = await looked_at(windows, demo, "class=Dog")
    await page.wait_for_function(
        "() => fetch('api/folder').then(answer => answer.json()).then(folder => folder.index.ready)", polling=100
    )
    found = {}
    for state, _ in FILTERS:
        await go(page, state)
        found[state] = await total(page)
    meant = images_that(demo_folder, *(condition for _, condition in FILTERS))
    assert found == {state: number for (state, _), number in zip(FILTERS, meant, strict=True)}
    assert [state for state, number in found.items() if not 0 < number < 320] == []


async def test_filters_are_chosen_on_the_page(windows: Windows, demo: Served, demo_folder: Path) -> None:
    """A class, its absence and a flag are picked in the panel; the address says so, and one click forgets them."""
    page = await looked_at(windows, demo)
    await part(page, "class-search").fill("dog")
    await part(page, "class-option").first.click()
    await expect(part(page, "chip").filter(has_text="Dog")).to_be_visible()
    await part(page, "flag-IsOccluded").select_option("yes")
    await page.wait_for_url("**flag=**")
    query = parse_qs(urlsplit(page.url).query)
    assert query["flag"] == ["IsOccluded:yes"]
    assert query["class"] in (["Dog"], ["/m/0bt9lr"])
    (expected,) = images_that(demo_folder, has_box(f"{DOG} AND IsOccluded::DOUBLE = 1"))
    await expect(part(page, "grid")).to_have_attribute("data-total", str(expected))
    await part(page, "clear-filters").click()
    await expect(part(page, "grid")).to_have_attribute("data-total", "320")
    assert "class" not in page.url
    # A text that the browser's back took away does not come again with the next click.
    if await part(page, "filters").is_hidden():
        await part(page, "filters-toggle").click()
    await part(page, "caption").fill("tree")
    await page.wait_for_url("**caption=tree")
    await page.go_back()
    await expect(part(page, "caption")).to_have_value("")
    await part(page, "legend-row").first.click()
    await page.wait_for_url("**hide=**")
    assert "caption" not in page.url


def image_of_most_boxes(folder: Path) -> tuple[str, pl.DataFrame]:
    """Return split/ImageID and the box rows of the image that has most of them."""
    boxes = pl.read_csv(folder / "bbox" / "bbox.csv", infer_schema=False)
    found = boxes.group_by("ImageID").len().sort("len", "ImageID", descending=[True, False]).row(0)[0]
    manifest = pl.read_parquet(folder / "manifest.parquet").filter(pl.col("ImageID") == found)
    return f"{manifest['Subset'][0]}/{found}", boxes.filter(pl.col("ImageID") == found)


async def assert_boxes_are_in_place(page: Page, boxes: pl.DataFrame) -> None:
    """Each box of the table is drawn where it is in the picture, within one CSS pixel."""
    await opened(page)
    left, top, width, height = await place(part(page, "picture"))
    corner = await place(part(page, "stage"))
    drawn = sorted(
        [float(row[side]) for side in ("left", "top", "width", "height")] for row in await drawn_rows(page, "bbox")
    )
    sides = boxes.select(pl.col("XMin", "XMax", "YMin", "YMax").cast(pl.Float64).clip(0, 1)).rows()
    meant = sorted(
        [
            left - corner[0] + xmin * width,
            top - corner[1] + ymin * height,
            (xmax - xmin) * width,
            (ymax - ymin) * height,
        ]
        for xmin, xmax, ymin, ymax in sides
    )
    assert len(drawn) == len(meant)
    assert_close([value for row in drawn for value in row], [value for row in meant for value in row])


def assert_close(found: Sequence[float], meant: Sequence[float]) -> None:
    assert found == pytest.approx(list(meant), abs=1.0)


async def test_boxes_stand_where_the_table_has_them(windows: Windows, demo: Served, demo_folder: Path) -> None:
    """In a wide window, in a narrow one and after zooming each box is within one CSS pixel of its row in bbox.csv."""
    image, boxes = image_of_most_boxes(demo_folder)
    page = await looked_at(windows, demo, f"image={image}")
    await assert_boxes_are_in_place(page, boxes)
    await page.set_viewport_size({"width": 500, "height": 900})
    await page.wait_for_timeout(100)
    await assert_boxes_are_in_place(page, boxes)
    before = await place(part(page, "picture"))
    await page.keyboard.press("+")
    await page.wait_for_function("() => Number(document.querySelector('[data-testid=stage]').dataset.zoom) > 1")
    await page.wait_for_timeout(100)
    assert (await place(part(page, "picture")))[2] > before[2]
    await assert_boxes_are_in_place(page, boxes)


def edges(line: list[tuple[int, int, int]], start: float, end: float, scale: float) -> list[float]:
    """Return where the grey of the image ends on a line between two places, in CSS pixels: middles of what is drawn."""
    first, last = round(start * scale), round(end * scale)
    grey = runs(line[first:last], GREY, 8)
    gaps = [(before[1], after[0]) for before, after in pairwise(grey)]
    return [(first + (begin + finish) / 2) / scale for begin, finish in gaps]


@pytest.mark.parametrize(
    ("width", "height", "ratio"), [(1280, 800, 1), pytest.param(700, 900, 1, marks=pytest.mark.slow), (1000, 700, 2)]
)
async def test_a_box_is_drawn_on_its_pixels(
    windows: Windows, pixels: Served, width: int, height: int, ratio: int
) -> None:
    """In a picture of the window, read pixel by pixel, the four lines of a box lie within one CSS pixel of its row."""
    page = await looked_at(
        windows, pixels, f"image=train/{image_id(1)}", width=width, height=height, device_scale_factor=ratio
    )
    await opened(page)
    left, top, wide, high = await place(part(page, "picture"))
    assert wide / high == pytest.approx(PIXEL_SIZE[0] / PIXEL_SIZE[1], abs=0.01)
    shot = await Shot.of(page)
    xmin, xmax, ymin, ymax = PIXEL_BOX
    across = edges(shot.line(y=top + 0.4 * high), left, left + wide, shot.scale)
    down = edges(shot.line(x=left + 0.45 * wide), top, top + high, shot.scale)
    assert_close(across, [left + xmin * wide, left + xmax * wide])
    assert_close(down, [top + ymin * high, top + ymax * high])


@pytest.mark.parametrize("number", MASK_SIZES)
async def test_a_mask_is_drawn_on_its_pixels(windows: Windows, pixels: Served, number: int) -> None:
    """In a picture of the window the coloured part of an image is where the mask's PNG, of any size, is white."""
    page = await looked_at(windows, pixels, f"image=train/{image_id(number)}", width=1280, height=800)
    await opened(page)
    left, top, wide, high = await place(part(page, "picture"))
    size = MASK_SIZES[number]
    start_x, start_y, end_x, end_y = white_part(size)
    across = (left + start_x / size[0] * wide, left + end_x / size[0] * wide)
    down = (top + start_y / size[1] * high, top + end_y / size[1] * high)
    shot = await Shot.of(page)
    x, y = sum(across) / 2, sum(down) / 2
    colour = shot.line(y=y)[round(x * shot.scale)]
    assert max(abs(one - other) for one, other in zip(colour, GREY, strict=True)) > 20
    for line, meant in ((shot.line(y=y + 0.05 * high), across), (shot.line(x=x), down)):
        longest = max(runs(line, colour, 3), key=lambda run: run[1] - run[0])
        # A line along the mask's outline may be drawn in full colour.
        assert [edge / shot.scale for edge in longest] == pytest.approx(list(meant), abs=2)


async def test_failures_say_why(windows: Windows, demo: Served, demo_folder: Path) -> None:
    """An image that failed has its reason in the grid, and large its reason with the detail of failures.csv."""
    failures = pl.read_csv(demo_folder / "failures.csv", infer_schema=False)
    page = await looked_at(windows, demo, "status=failed")
    assert await total(page) == len(failures)
    tiles = part(page, "tile")
    texts = " ".join(await tiles.all_inner_texts())
    assert [reason for reason in failures["Reason"] if reason not in texts] == []
    await tiles.first.get_by_role("link").click()
    await expect(part(page, "failure")).to_be_visible()
    shown = await part(page, "failure").inner_text()
    assert failures["Reason"][0] in shown
    assert failures["Detail"][0] in await part(page, "viewer").inner_text()


async def test_the_keyboard_alone_is_enough(windows: Windows, demo: Served) -> None:
    """From a fresh page the keys lead to an image, to the next one, and back to its tile; ? lists them."""
    page = await looked_at(windows, demo)
    # The first Tab of a page leads to the link that skips the bar.
    for key in ("Tab", "Enter", "Tab"):
        await page.keyboard.press(key)
    focus = "document.activeElement.closest('[data-testid=tile]')?.dataset.index"
    assert await page.evaluate(focus) == "0"
    for key in ("ArrowRight", "ArrowRight"):
        await page.keyboard.press(key)
    assert await page.evaluate(focus) == "2"
    await page.keyboard.press("Enter")
    await opened(page)
    before = await part(page, "viewer").get_attribute("data-image")
    await page.keyboard.press("ArrowRight")
    await expect(part(page, "viewer")).not_to_have_attribute("data-image", before or "")
    await page.keyboard.press("Escape")
    await expect(part(page, "viewer")).to_be_hidden()
    assert await page.evaluate(focus) == "3"
    await page.keyboard.press("?")
    await expect(part(page, "help")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(part(page, "help")).to_be_hidden()


async def test_a_shared_address_shows_the_same(windows: Windows, demo: Served, demo_folder: Path) -> None:
    """A second browser that has the cookie sees filters and image of the address; one without is told what to open."""
    image, boxes = image_of_most_boxes(demo_folder)
    split = image.partition("/")[0]
    first = await looked_at(windows, demo, f"split={split}&sort=boxes&order=desc")
    assert (await shown_images(first))[0] == image
    await part(first, "tile").first.get_by_role("link").click()
    await opened(first)
    address = first.url
    assert demo.token not in address
    second = await windows.blank()
    await second.goto(demo.entry)
    await second.goto(address)
    await opened(second)
    assert await part(second, "viewer").get_attribute("data-image") == image
    assert await total(second) == await total(first)
    assert len(await drawn_rows(second, "bbox")) == len(boxes)
    stranger = await windows.blank()
    answer = await stranger.goto(address)
    assert answer is not None
    assert answer.status == 403
    assert "oid-async view" in await stranger.inner_text("body")
    # A browser's own line about the status.
    windows.expected.append("status of 403")


async def no_markup_of_files(page: Page) -> None:
    """Nothing in the document came from markup: no handler, no foreign element, no link but to the web or to itself."""
    wrong = await page.evaluate(
        """() => [...document.querySelectorAll('*')].filter(element =>
            [...element.attributes].some(attribute => attribute.name.startsWith('on'))
            || ['IFRAME', 'OBJECT', 'EMBED', 'BASE', 'B'].includes(element.tagName)
            || (element.tagName === 'SCRIPT' && element.getAttribute('src') !== 'static/app.js')
            || (element.tagName === 'IMG' && element.src && new URL(element.src).origin !== location.origin)
            || (element.href && element.tagName === 'A' && !/^https?:$/.test(new URL(element.href).protocol))
        ).map(element => element.outerHTML.slice(0, 200))"""
    )
    assert wrong == []


async def nothing_unseen(page: Page) -> None:
    """No text of the page, nor what a screen reader says of it, holds what a terminal would not be shown either."""
    texts = await page.evaluate(
        """() => [document.title, document.body.textContent,
            ...[...document.querySelectorAll('[aria-label], [alt], [title]')].flatMap(
                each => ['aria-label', 'alt', 'title'].map(name => each.getAttribute(name) ?? ''))]"""
    )
    for text in texts:
        line = re.sub(r"[\t\n\r]", " ", text)
        assert printable(line) == line


async def test_hostile_texts_stay_text(windows: Windows, hostile: Served) -> None:
    """Markup, scripts, controls and 10,000 characters in every column are shown as text; nothing of them runs."""
    page = await looked_at(windows, hostile, f"image=train/{image_id(1)}")
    for number, text in enumerate(HOSTILE_TEXTS, 1):
        await go(page, f"image=train/{image_id(number)}")
        await opened(page)
        await no_markup_of_files(page)
        shown = await part(page, "viewer").evaluate("viewer => viewer.textContent")
        # What cannot be seen, or turns the direction of writing, has a mark in its place.
        visible = re.sub(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200f\u061c\u2028-\u202e\u2066-\u2069]", "\ufffd", text[:40])
        await nothing_unseen(page)
        assert " ".join(visible.split())[:20] in " ".join(shown.split())
    assert windows.dialogs == []
    await go(page, "")
    assert await total(page) > len(HOSTILE_TEXTS)
    await no_markup_of_files(page)
    await nothing_unseen(page)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # A mask of a hostile path is not there, which a browser's console says by itself.
    windows.expected.append("Failed to load resource")


async def links_out(page: Page) -> list[tuple[str, str]]:
    """Return target and `rel` of every link of the large view that leads out of the gallery."""
    links = (
        await part(page, "viewer").locator("a[href]").evaluate_all("links => links.map(link => [link.href, link.rel])")
    )
    return [(target, rel) for target, rel in links if urlsplit(target).netloc != urlsplit(page.url).netloc]


async def test_only_addresses_of_the_web_are_links(windows: Windows, hostile: Served) -> None:
    """Scripts, files and addresses without a scheme are no links, wherever a table has them."""
    page = await looked_at(windows, hostile)
    for number in range(len(HOSTILE_TEXTS) + 1, len(HOSTILE_TEXTS) + len(HOSTILE_LINKS) + 1):
        await go(page, f"image=train/{image_id(number)}")
        await opened(page)
        assert await links_out(page) == []


async def test_an_image_has_its_attribution(windows: Windows, demo: Served, demo_folder: Path) -> None:
    """Large, an image shows author, licence and title, and leads to its pages, which learn nothing of the gallery."""
    has_all = pl.all_horizontal(pl.col("Author", "Title", "License", "OriginalLandingURL").is_not_null())
    row = pl.read_parquet(demo_folder / "manifest.parquet").filter(has_all, Status="ok").row(0, named=True)
    page = await looked_at(windows, demo, f"image={row['Subset']}/{row['ImageID']}")
    await opened(page)
    shown = await part(page, "viewer").inner_text()
    assert [row[name] for name in ("Author", "Title", "License") if row[name] not in shown] == []
    links = await links_out(page)
    assert {row["OriginalLandingURL"], row["OriginalURL"]} <= {target for target, _ in links}
    assert {rel for _, rel in links} == {"noopener noreferrer"}


async def test_classes_and_kinds_are_hidden_and_shown(windows: Windows, demo: Served, demo_folder: Path) -> None:
    """A click in the legend takes a class off the pictures, a key takes all boxes off; the address remembers both."""
    image, boxes = image_of_most_boxes(demo_folder)
    label, name = boxes.select("LabelName", "Category").row(0)
    page = await looked_at(windows, demo, f"image={image}")
    await opened(page)
    assert len(await drawn_rows(page, "bbox")) == len(boxes)
    await go(page, f"image={image}&hide={quote(name)}")
    await opened(page)
    left = {row["label"] for row in await drawn_rows(page, "bbox")}
    assert left == set(boxes["LabelName"]) - {label}
    await go(page, f"image={image}")
    await page.keyboard.press("b")
    await page.wait_for_url("**hide=bbox**")
    assert await drawn_rows(page, "bbox") == []


async def test_images_are_sorted(windows: Windows, demo: Served, demo_folder: Path) -> None:
    """Chosen on the page, the order of bytes and of file names is that of the manifest."""
    manifest = pl.read_parquet(demo_folder / "manifest.parquet").filter(Status="ok")
    page = await looked_at(windows, demo, "status=ok")
    for column, value in (("Bytes", "bytes"), ("FileName", "file_name")):
        await part(page, "sort").select_option(value)
        await page.wait_for_url(f"**sort={value}**")
        expected = manifest.sort(column, maintain_order=True)["ImageID"].to_list()
        found = [image.partition("/")[2] for image in await shown_images(page)]
        assert found == expected[: len(found)]


async def test_hostile_names_can_be_filtered_by(windows: Windows, hostile: Served) -> None:
    """A class of any name is found by it, and by the address that the page makes of it."""
    page = await looked_at(windows, hostile)
    for text in (text for text in HOSTILE_TEXTS if len(text) < 100):
        await go(page, f"class={quote(text.strip(), safe='')}")
        assert await total(page) > 0, text
        await no_markup_of_files(page)


HOSTILE_ADDRESSES = (
    "class=<img src=x onerror=alert(1)>",
    "min_area=</script><script>alert(1)</script>",
    "image=../../../etc/passwd",
    "image=train/%00",
    "sort=__proto__&theme=<b>&hide=constructor",
    "flag=%ff%fe&split=%E2%80%AE",
)


async def test_a_hostile_address_is_shown_as_text(windows: Windows, demo: Served) -> None:
    """An address that cannot be read gives a line that says so, and nothing in it becomes markup."""
    page = await looked_at(windows, demo)
    for state in HOSTILE_ADDRESSES:
        await page.goto(f"{demo.origin}/?{quote(state, safe='=&/%')}")
        await expect(
            page.locator("[data-testid=note][data-note=error], [data-testid=viewer][open]").first
        ).to_be_visible()
        await no_markup_of_files(page)
    windows.expected.append("Failed to load resource")


async def test_dark_and_light(windows: Windows, demo: Served) -> None:
    """The page follows the system's theme, and its own button, which the address remembers."""
    page = await looked_at(windows, demo, color_scheme="dark")

    async def lightness() -> int:
        colour = await page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")
        return int(sum(colour[:3]) / 3)

    assert await lightness() < 80
    await part(page, "theme").click()
    assert await lightness() > 180
    assert "theme=light" in page.url
    await page.reload()
    assert await lightness() > 180


async def test_a_telephone_can_be_used(windows: Windows, hostile: Served) -> None:
    """At 390 pixels nothing is wider than the window: the grid, the filters, the large view, the list of keys."""
    page = await looked_at(windows, hostile, width=390, height=844, has_touch=True, is_mobile=True)
    fits = "document.documentElement.scrollWidth <= 390"
    assert await page.evaluate(fits)
    await part(page, "filters-toggle").tap()
    await expect(part(page, "filters")).to_be_visible()
    assert await page.evaluate(fits)
    await page.goto(hostile.at(f"image=train/{image_id(14)}"))
    await opened(page)
    assert await page.evaluate(fits)
    assert await part(page, "viewer").evaluate("viewer => viewer.scrollWidth <= 390")
    await part(page, "viewer-close").tap()
    await expect(part(page, "viewer")).to_be_hidden()
    windows.expected.append("Failed to load resource")


STRANGER = """<!doctype html><title>stranger</title><p>stranger</p><script>
const gallery = new URLSearchParams(location.search).get("gallery");
const came = (name, promise) => promise.then(() => name, () => null);
const loads = (tag, name, path) => new Promise((yes, no) => {
    const made = document.createElement(tag);
    made.onload = yes;
    made.onerror = no;
    made[name] = gallery + path;
    document.head.append(made);
});
const text = (mode) => fetch(gallery + "/api/folder", {mode, credentials: "include"})
    .then((answer) => answer.text()).then((body) => body || Promise.reject());
const framed = async () => {
    await new Promise((yes) => {
        const frame = document.createElement("iframe");
        frame.onload = yes;
        frame.src = gallery;
        document.documentElement.append(frame);
    });
    return frames[0].document.body.textContent || Promise.reject();
};
window.tried = Promise.all([
    came("cors", text("cors")), came("no-cors", text("no-cors")), came("frame", framed()),
    came("image", loads("img", "src", "/thumbnail/" + new URLSearchParams(location.search).get("image"))),
    came("script", loads("script", "src", "/static/app.js")),
]);
</script>"""


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("localhost", marks=pytest.mark.slow)])
async def test_a_page_of_someone_else_sees_nothing(
    windows: Windows, demo: Served, demo_folder: Path, host: str
) -> None:
    """In a browser that has the cookie, a page on another port of this machine reads, shows and frames nothing."""
    image, _ = image_of_most_boxes(demo_folder)

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=STRANGER, content_type="text/html")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0)
        await site.start()
        port = runner.addresses[0][1]
        windows.allowed |= {demo.origin, f"http://{host}:{port}"}
        windows.expected += [
            "Failed to load resource",
            "CORS policy",
            "frame-ancestors",
            "NotSameOrigin",
            "Blocked",
            "SyntaxError",
            "Unexpected token",
        ]
        page = await windows.open(demo.entry)
        await settled(page)
        assert await page.evaluate(f"fetch('thumbnail/{image}').then(answer => answer.status)") == 200
        await page.goto(f"http://{host}:{port}/?gallery={demo.origin}&image={image}")
        assert await page.evaluate("window.tried") == [None] * 5
        # What it tries does work, on its own server.
        await page.goto(f"http://{host}:{port}/?gallery=http://{host}:{port}")
        assert await page.evaluate("window.tried") == ["cors", "no-cors", "frame", None, "script"]
    finally:
        await runner.cleanup()
