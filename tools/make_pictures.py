"""Make docs/pictures/ from the look-alike of Open Images: a terminal, the gallery, the pages of `stats` and `--report`.

    pip install -e ".[test]" && python tools/make_pictures.py

The commands run as they are shown, each in a terminal (a pty), against the embedded origin on loopback. Rich draws what
they wrote; the Chromium of this machine photographs the pages. Times and speeds are those of the making; all else is
the same every time. Look at each picture before you commit it.
"""

import asyncio
import codecs
import fcntl
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable
from pathlib import Path

import polars as pl
from PIL import Image
from playwright.async_api import Page, async_playwright
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from oid_async.origin.lookalike import Lookalike
from oid_async.origin.server import Origin

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
# A cap, as the look-alike would be there before its bar can be seen.
DOWNLOAD = "oid-async download --category Person --kind bbox --kind segmentation --rate 30 --savepath people"
COUNTED = "oid-async stats demo_data --quiet --html stats.html"
REPORTED = "oid-async download --quiet --split all --rate 30 --report run.html --savepath all"
COLUMNS, ROWS = 104, 50
WIDTH, HEIGHT, SCALE = 1280, 800, 1.25

# What rich writes to draw lines anew: to the start of a line, clear it, one line up, cursor off and on.
CONTROL = re.compile(r"(\r\n|\r|\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh])")
# Rich's own frame asks another origin for a font.
SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Terminal:
    """A terminal in which commands run, one after the other. `lines` are what it shows, colours as escapes."""

    def __init__(self, folder: Path) -> None:
        self.lines = [""]
        self._row = 0
        self._folder = folder

    def run(self, command: str, is_enough: Callable[[], bool] = lambda: False, *, ends_with: int = 0) -> None:
        """Run a command of the program in the folder, up to its end, or to a Ctrl-C once it is enough.

        Raises RuntimeError for another exit code than it is to end with.
        """
        self._write(f"\x1b[1m$ {command}\x1b[0m\r\n")
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        with subprocess.Popen(argv(command), cwd=self._folder, stdin=its, stdout=its, stderr=its) as process:
            os.close(its)
            decoder, is_stopped = codecs.getincrementaldecoder("utf-8")(), False
            while written := _read(ours):
                self._write(decoder.decode(written))
                if not is_stopped and is_enough():
                    process.send_signal(signal.SIGINT)
                    is_stopped = True
        os.close(ours)
        check_end(command, process.returncode, ends_with)

    def _write(self, text: str) -> None:
        for part in CONTROL.split(text):
            match part:
                case "\r\n":
                    self._row += 1
                    self.lines += [""] * (self._row + 1 - len(self.lines))
                case "\x1b[1A":
                    self._row -= 1
                case "\x1b[2K":
                    self.lines[self._row] = ""
                case _ if not CONTROL.fullmatch(part):
                    self.lines[self._row] += part

    def images(self) -> float:
        """Return which share of the images the bar shows."""
        shown = (re.match(r"images .* (\d+)/(\d+)", Text.from_ansi(line).plain) for line in self.lines)
        return max((int(bar[1]) / int(bar[2]) for bar in shown if bar), default=0.0)


def argv(command: str) -> list[str]:
    """Return a command of the program as arguments, with the path of the one that belongs to this Python."""
    program, *arguments = shlex.split(command)
    return [str(Path(sys.executable).with_name(program)), *arguments]


def check_end(command: str, code: int | None, wanted: int) -> None:
    """Raise RuntimeError for a command that has not ended as it is to: no picture is made of that."""
    if code != wanted:
        raise RuntimeError(f"{command}: exit code {code}, not {wanted}")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: nobody has it open any more
        return b""


def save_terminal(lines: list[str], name: str) -> None:
    """Draw the lines of a terminal, long ones broken where a terminal breaks them."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    while not lines[-1]:
        lines.pop()
    for line in lines:
        text = Text.from_ansi(line)
        for piece in text.divide(range(COLUMNS, len(text), COLUMNS)):
            console.print(piece, soft_wrap=True, highlight=False)
    drawn = console.export_svg(title="oid-async", code_format=SVG, theme=SVG_EXPORT_THEME, unique_id="terminal")
    (PICTURES / name).write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n", encoding="utf-8")


def photograph_terminal(folder: Path) -> None:
    """A download at half of its images; its interrupt, then the same command again, then `verify`."""
    terminal, running = Terminal(folder), list[str]()

    def is_enough() -> bool:
        if terminal.images() < 0.5:
            return False
        running.extend(terminal.lines)
        return True

    terminal.run(DOWNLOAD, is_enough, ends_with=130)
    save_terminal(running, "terminal-running.svg")
    before = next(number for number, line in enumerate(terminal.lines) if " images selected: " in line)
    # Some images of the look-alike are broken on purpose.
    terminal.run(DOWNLOAD, ends_with=1)
    terminal.run("oid-async verify people")
    save_terminal([terminal.lines[0], "…", *terminal.lines[before:]], "terminal-again.svg")


def related_image(savepath: Path) -> str:
    """Return split/ImageID of an image whose made-up relationships could be true, too."""
    rows = pl.read_csv(savepath / "relationship" / "relationship.csv", infer_schema=False)
    triples = pl.concat_str("Category1", "RelationshipLabel", "Category2", separator=" ")
    is_wanted = triples.is_in(["Boat is (made of)Wood", "Umbrella at Person", "Boat at Umbrella"])
    image_id = rows.filter(is_wanted).group_by("ImageID").len().sort("len", "ImageID")["ImageID"][-1]
    found = pl.read_parquet(savepath / "manifest.parquet").filter(ImageID=image_id)
    return f"{found['Subset'][0]}/{image_id}"


async def photograph_gallery(page: Page, folder: Path) -> None:
    """The grid, and one image with its masks, its relationships and its caption."""
    view = await asyncio.create_subprocess_exec(
        *argv("oid-async view demo_data --no-open --quiet --json"), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    assert view.stdout is not None
    entry = json.loads(await view.stdout.readline())["url"]
    await page.goto(entry)
    await save_page(page, "gallery.png")
    await page.goto(f"{entry.partition('?')[0]}?image={related_image(folder / 'demo_data')}")
    await save_page(page, "image.png")
    view.send_signal(signal.SIGINT)
    await view.wait()


async def photograph_page(page: Page, path: Path, first: str, last: str, name: str) -> None:
    """A part of a saved page, from one element to another; its title names a folder of the making."""
    await page.set_viewport_size({"width": 1000, "height": HEIGHT})
    await page.goto(path.as_uri())
    await page.wait_for_selector("svg")
    boxes = [await page.locator(each).first.bounding_box() for each in (first, last)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    top, bottom = boxes[0]["y"] - 10, boxes[1]["y"] + boxes[1]["height"] + 10
    await save_page(page, name, {"x": 0, "y": top, "width": 1000, "height": bottom - top})


async def save_page(page: Page, name: str, clip: dict[str, float] | None = None) -> None:
    """Save a photograph of a page, once all of its pictures are there, as PNG of 256 colours."""
    await page.wait_for_load_state("networkidle")
    await page.wait_for_function("() => [...document.images].every(image => !image.src || image.complete)")
    await page.wait_for_timeout(500)  # what has come is drawn in one of the next frames
    taken = Image.open(io.BytesIO(await page.screenshot(clip=clip, full_page=clip is not None)))  # type: ignore[arg-type]
    flat = taken.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    flat.save(PICTURES / name, optimize=True)


async def photograph_pages(folder: Path) -> None:
    async with async_playwright() as playwright:
        flags = ["--disable-gpu", "--force-color-profile=srgb", "--disable-background-networking"]
        # Chromium's sandbox refuses to run as root.
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = await browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme="light"
        )
        await photograph_gallery(page, folder)
        plot = "section.card:has(h2:text-is('{}'))".format
        await photograph_page(
            page, folder / "stats.html", plot("Boxes an image"), plot("Aspect of boxes"), "statistics.png"
        )
        await photograph_page(page, folder / "run.html", "p.finding", plot("Throughput"), "report.png")
        await browser.close()


async def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with Origin(Lookalike().serve) as origin:
            os.environ |= {"OID_ASYNC_MIRROR": origin.url, "OID_ASYNC_CACHE": f"{name}/cache"}
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            await asyncio.to_thread(photograph_terminal, folder)
            for command, code in ((REPORTED, 1), ("oid-async demo --quiet", 0), (COUNTED, 0)):
                made = await asyncio.create_subprocess_exec(
                    *argv(command), cwd=folder, stdout=asyncio.subprocess.DEVNULL
                )
                check_end(command, await made.wait(), code)
        await photograph_pages(folder)
    for picture in sorted(PICTURES.iterdir()):
        print(f"{picture.stat().st_size / 1e3:6.0f} kB  {picture.name}")


if __name__ == "__main__":
    asyncio.run(main())
