"""Pictures of the gallery for people to look at: three widths, both themes. They are kept where $OID_ASYNC_SCREENSHOTS
says, else in a folder of pytest's (--basetemp)."""

import os
from pathlib import Path

import polars as pl
import pytest
from playwright.async_api import Page, expect
from support.browser import Windows
from support.gallery_folders import image_id, real_folder
from support.gallery_page import opened, part, settled
from support.gallery_server import Served, served

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
WIDTHS = {1440: 900, 820: 1180, 390: 844}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which pictures are kept."""
    given = os.environ.get("OID_ASYNC_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def image_with_all_kinds(folder: Path) -> str:
    """Return split/ImageID of an image that has boxes, masks, relationships and labels, as many as possible."""
    masks = pl.read_csv(folder / "segmentation" / "segmentation.csv", infer_schema=False)
    pairs = pl.read_csv(folder / "relationship" / "relationship.csv", infer_schema=False)
    both = masks.filter(pl.col("ImageID").is_in(pairs["ImageID"].unique().to_list()))
    found = both.group_by("ImageID").len().sort("len", "ImageID").row(-1)[0]
    split = pl.read_parquet(folder / "manifest.parquet").filter(pl.col("ImageID") == found)["Subset"][0]
    return f"{split}/{found}"


async def still(page: Page) -> None:
    """Wait until every picture in sight has come."""
    await settled(page)
    await page.wait_for_load_state("networkidle")
    await page.wait_for_function("() => [...document.images].every(image => !image.src || image.complete)")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
async def test_pictures_of_the_gallery(
    windows: Windows, demo: Served, demo_folder: Path, hostile: Served, pictures: Path, width: int, theme: str
) -> None:
    """The grid, the filters, an image with all kinds, a failure, the keys and hostile names fit their windows."""
    windows.allowed |= {demo.origin, hostile.origin}
    look = {"width": width, "height": WIDTHS[width], "color_scheme": theme, "has_touch": width < 800}
    page = await windows.open(demo.enter(), **look)  # type: ignore[arg-type]

    async def keep(name: str) -> None:
        await page.screenshot(path=pictures / f"{name}_{width}_{theme}.png")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name

    await still(page)
    await keep("grid")
    if not await part(page, "filters").is_visible():
        await part(page, "filters-toggle").click()
    await keep("filters")
    await page.goto(demo.at("class=Person&class=Tree&match=all&flag=IsOccluded:no&min_area=2"))
    await still(page)
    await keep("filtered")
    await page.goto(demo.at(f"image={image_with_all_kinds(demo_folder)}"))
    await opened(page)
    await still(page)
    await keep("image")
    await page.goto(demo.at("status=failed"))
    await still(page)
    await keep("failures")
    await part(page, "tile").first.get_by_role("link").click()
    await expect(part(page, "failure")).to_be_visible()
    await keep("failure")
    await page.keyboard.press("Escape")
    await page.keyboard.press("?")
    await expect(part(page, "help")).to_be_visible()
    await keep("keys")
    await page.goto(demo.at("class=NoSuchClass"))
    await page.wait_for_load_state("networkidle")
    await keep("unknown_class")
    await page.goto(demo.at("caption=no+caption+has+this"))
    await still(page)
    await keep("nothing_found")
    await page.goto(hostile.entry)
    await still(page)
    await keep("hostile_grid")
    for number in (1, 14):
        await page.goto(hostile.at(f"image=train/{image_id(number)}"))
        await opened(page)
        await keep(f"hostile_image_{number}")
    # What is not there a browser says by itself: masks of hostile paths, a class that is unknown.
    windows.expected.append("Failed to load resource")


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not there: no real pictures to look at")
async def test_pictures_of_real_images(windows: Windows, tmp_path: Path, pictures: Path) -> None:
    """Real JPEGs with many real boxes are shown in the grid and large."""
    async with served(real_folder(tmp_path / "real", REAL)) as gallery:
        windows.allowed.add(gallery.origin)
        page = await windows.open(gallery.entry, width=1440, height=900)
        await still(page)
        await page.screenshot(path=pictures / "real_grid_1440_light.png")
        for number in (0, 4):
            await part(page, "tile").nth(number).get_by_role("link").click()
            await opened(page)
            await still(page)
            await page.screenshot(path=pictures / f"real_image_{number}_1440_light.png")
            await page.keyboard.press("Escape")
