"""Draw the twenty small pictures of the offline demo, with a box for every object in them.

Run it from a checkout, with Pillow installed::

    python tools/draw_scenes.py

It rewrites ``oid_async/origin/scenes``: ``01_<slug>.jpg`` to ``20_<slug>.jpg`` and ``scenes.json``. Nothing
is left to chance (the seed is the number), so a second run with the same Pillow writes the same bytes. Every object is
drawn on a layer of its own, four times too large; its box is the extent of the pixels that later layers leave
visible, "truncated" means that something was drawn beyond the edge, "occluded" that a later layer hides a part.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageColor, ImageDraw

OUT = Path(__file__).resolve().parent.parent / "oid_async" / "origin" / "scenes"
SCALE = 4  # drawn this many times too large, then reduced: that gives the smooth edges
QUALITY = 84
MAX_TOTAL = 240_000
HIDDEN = 0.04  # the hidden share of an object from which it counts as occluded
INK = "#2b2b33"
Point = tuple[float, float]


def curve(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> list[Point]:
    """Points along an ellipse, from one angle to another (degrees, clockwise from the right)."""
    angles = [math.radians(start + (end - start) * i / 36) for i in range(37)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def around(x: float, y: float, radius: float, degrees: float) -> Point:
    return x + radius * math.cos(math.radians(degrees)), y + radius * math.sin(math.radians(degrees))


class Pen:
    """Draws one object on its own layer, in units of the object's size around its own origin (y points down)."""

    def __init__(self, canvas: tuple[int, int], x: float, y: float, size: float, flip: bool) -> None:
        self.image = Image.new("RGBA", canvas)
        self.draw = ImageDraw.Draw(self.image)
        self.x, self.y, self.size, self.flip = x, y, size, flip
        self.outside = False

    def at(self, points: Iterable[Point], slack: float = 0) -> list[Point]:
        side = -self.size if self.flip else self.size
        found = [((self.x + x * side) * SCALE, (self.y + y * self.size) * SCALE) for x, y in points]
        (w, h), m = self.image.size, slack - SCALE
        self.outside |= any(px < m or py < m or px > w - m or py > h - m for px, py in found)
        return found

    def poly(self, fill: str, *points: Point) -> None:
        self.draw.polygon(self.at(points), fill)

    def line(self, fill: str, width: float, *points: Point) -> None:
        thick = width * self.size * SCALE
        found = self.at(points, thick / 2)
        self.draw.line(found, fill, round(thick), "curve")
        for x, y in found:
            self.draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill)

    def oval(self, fill: str, x: float, y: float, rx: float, ry: float | None = None) -> None:
        self.poly(fill, *curve(x, y, rx, rx if ry is None else ry))

    def box(self, fill: str, x0: float, y0: float, x1: float, y1: float, r: float = 0) -> None:
        (ax, ay), (bx, by) = self.at([(x0, y0), (x1, y1)])
        self.draw.rounded_rectangle((min(ax, bx), ay, max(ax, bx), by), r * self.size * SCALE, fill)

    def fade(self, top: str, bottom: str, y0: float, y1: float) -> None:
        """Fill the picture's whole width with a gradient (backdrops only)."""
        a, b = ImageColor.getrgb(top), ImageColor.getrgb(bottom)
        for row in range(round(y0 * SCALE), round(y1 * SCALE) + 1):
            t = (row / SCALE - y0) / (y1 - y0)
            colour = tuple(round(p + (q - p) * t) for p, q in zip(a[:3], b[:3], strict=True))
            self.draw.line((0, row, self.image.width, row), (colour[0], colour[1], colour[2]))


class Scene:
    """One picture: layers from back to front."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.layers: list[tuple[Pen, str, bool, dict[str, int]]] = []

    def put(
        self, name: str, x: float, y: float, size: float, flip: bool = False, part: bool = False, **flags: int
    ) -> Pen:
        """A new layer in front of all others; a part (a window of a house) does not hide what it is on."""
        pen = Pen((self.width * SCALE, self.height * SCALE), x, y, size, flip)
        self.layers.append((pen, name, part, flags))
        return pen

    def back(self) -> Pen:
        """A new layer that gets no box, in picture pixels."""
        return self.put("", 0, 0, 1)

    def render(self) -> Image.Image:
        picture = Image.new("RGBA", (self.width * SCALE, self.height * SCALE), "white")
        for pen, *_ in self.layers:
            picture.alpha_composite(pen.image)
        return picture.convert("RGB").resize((self.width, self.height), Image.Resampling.BOX)

    def objects(self) -> list[dict[str, Any]]:
        found = []
        for i, (pen, name, _, flags) in enumerate(self.layers):
            if not name:
                continue
            seen = pen.image.getchannel("A")
            whole, hidden = seen.histogram()[255], 0
            for later, _, part, _ in self.layers[i + 1 :]:
                before = seen.histogram()[255]
                seen = ImageChops.subtract(seen, later.image.getchannel("A"))
                hidden += 0 if part else before - seen.histogram()[255]
            left, top, right, bottom = seen.getbbox() or (0, 0, 0, 0)
            w, h = seen.size
            box = [round(v, 6) for v in (left / w, right / w, top / h, bottom / h)]
            shown = {"occluded": int(hidden > HIDDEN * whole), "truncated": int(pen.outside)}
            extra = {key: flags.get(key, 0) for key in ("group_of", "depiction", "inside")}
            found.append({"class_name": name, "box": box, **shown, **extra})
        return found


# ---- things, each in units of its own size; the origin is on the ground, in the middle, unless said otherwise

Limbs = tuple[tuple[Point, ...], ...]
ARMS: Limbs = ((-0.1, -0.7), (-0.17, -0.56), (-0.16, -0.42)), ((0.1, -0.7), (0.17, -0.56), (0.16, -0.42))
LEGS: Limbs = ((-0.055, -0.42), (-0.06, -0.22), (-0.07, -0.04)), ((0.055, -0.42), (0.06, -0.22), (0.07, -0.04))
SWING: Limbs = ((-0.1, -0.7), (-0.22, -0.6), (-0.16, -0.47)), ((0.1, -0.7), (0.22, -0.62), (0.3, -0.74))
STRIDE: Limbs = ((-0.05, -0.42), (-0.12, -0.24), (-0.29, -0.17)), ((0.05, -0.42), (0.15, -0.28), (0.15, -0.04))
REACH: Limbs = ((-0.08, -0.7), (0.1, -0.57), (0.3, -0.52)), ((0.08, -0.7), (0.2, -0.6), (0.33, -0.53))
POSES: dict[str, Limbs] = {  # two arms, then two legs
    "stand": (*ARMS, *LEGS),
    "hold": (ARMS[0], ((0.1, -0.7), (0.19, -0.58), (0.27, -0.69)), *LEGS),
    "cheer": (((-0.1, -0.7), (-0.22, -0.78), (-0.27, -0.95)), ((0.1, -0.7), (0.22, -0.78), (0.27, -0.95)), *LEGS),
    "run": (*SWING, *STRIDE),
    "kick": (*SWING, ((-0.05, -0.42), (-0.09, -0.22), (-0.12, -0.04)), ((0.05, -0.42), (0.2, -0.31), (0.34, -0.16))),
    "dive": (((-0.08, -0.72), (-0.1, -0.9), (-0.05, -1.08)), ((0.1, -0.7), (0.18, -0.88), (0.13, -1.08)), *STRIDE),
    "ride": (*REACH, ((0.0, -0.42), (0.1, -0.24), (0.02, -0.12)), ((0.0, -0.42), (0.2, -0.34), (0.16, -0.1))),
    "astride": (*REACH, ((0.0, -0.4), (0.02, -0.4)), ((0.0, -0.42), (0.14, -0.3), (0.08, -0.1))),
    "sit": (
        ARMS[0],
        REACH[1],
        ((-0.05, -0.42), (0.18, -0.52), (0.34, -0.41)),
        ((0.05, -0.42), (0.25, -0.46), (0.4, -0.4)),
    ),
}


def person(
    p: Pen, pose: str, top: str, legs: str = "#35477d", hair: str = "#5b3a1e", skin: str = "#f1c27d",
    wear: str = "trousers", face: bool = True, long_hair: bool = False,
) -> None:  # fmt: skip
    *arms, left, right = POSES[pose]
    for leg in (left, right):
        p.line(skin if wear != "trousers" else legs, 0.085, *leg)
        p.oval(INK, leg[-1][0] + 0.025, leg[-1][1] + 0.008, 0.06, 0.034)
        if wear == "shorts":
            p.line(legs, 0.105, *leg[:2])
    if long_hair:
        p.box(hair, -0.125, -0.95, 0.125, -0.66, 0.06)
    for arm in arms:
        p.line(skin, 0.06, *arm)
        p.line(top, 0.075, *arm[:2])
    p.box(skin, -0.035, -0.82, 0.035, -0.73)
    p.box(top, -0.125, -0.76, 0.125, -0.42, 0.06)
    p.box(legs, -0.115, -0.47, 0.115, -0.38, 0.03)
    if wear == "skirt":
        p.poly(legs, (-0.11, -0.48), (0.11, -0.48), (0.19, -0.2), (-0.19, -0.2))
    p.oval(skin if face else hair, 0, -0.88, 0.105, 0.115)
    p.poly(hair, *curve(0, -0.89, 0.115, 0.11, 180, 360))
    if face:
        p.oval(INK, -0.04, -0.865, 0.014, 0.017)
        p.oval(INK, 0.04, -0.865, 0.014, 0.017)
        p.line("#a5473a", 0.013, *curve(0, -0.84, 0.042, 0.034, 25, 155))


def football(p: Pen) -> None:  # size: diameter; origin: its middle
    p.oval("#3a3a42", 0, 0, 0.5)
    p.oval("#fbfbfb", 0, 0, 0.455)
    p.poly(INK, *(around(0, 0, 0.19, a) for a in range(-90, 270, 72)))
    for a in range(-90, 270, 72):
        p.line(INK, 0.04, around(0, 0, 0.17, a), around(0, 0, 0.36, a))
        p.poly(INK, *curve(0, 0, 0.47, 0.47, a - 19, a + 19), around(0, 0, 0.33, a))


def dog(p: Pen, coat: str = "#c98a4b", dark: str = "#7a4a24") -> None:  # size: length
    p.line(coat, 0.06, (-0.34, -0.45), (-0.43, -0.54), (-0.45, -0.67))
    for x, colour in ((-0.24, dark), (0.16, dark), (-0.33, coat), (0.24, coat)):
        p.box(colour, x - 0.045, -0.34, x + 0.045, 0, 0.04)
    p.box(coat, -0.39, -0.53, 0.31, -0.24, 0.13)
    p.poly(coat, (0.08, -0.5), (0.3, -0.34), (0.42, -0.6), (0.24, -0.68))
    p.oval(coat, 0.32, -0.64, 0.14, 0.13)
    p.box(coat, 0.34, -0.66, 0.53, -0.53, 0.05)
    p.oval(INK, 0.52, -0.63, 0.032, 0.028)
    p.oval(dark, 0.24, -0.6, 0.055, 0.13)
    p.oval(INK, 0.37, -0.69, 0.022)
    p.line("#d7263d", 0.045, (0.17, -0.47), (0.34, -0.42))


def cat(p: Pen, coat: str = "#e0913a", dark: str = "#b96a1f") -> None:  # sits and looks out; size: height
    p.line(coat, 0.08, (0.14, -0.05), (0.33, -0.07), (0.4, -0.2), (0.36, -0.36))
    p.oval(coat, 0, -0.27, 0.22, 0.27)
    for side in (-1, 1):
        p.poly(coat, (side * 0.2, -0.72), (side * 0.17, -0.99), (side * 0.03, -0.84))
        p.poly("#f4b8a8", (side * 0.16, -0.78), (side * 0.15, -0.92), (side * 0.07, -0.84))
    p.oval(coat, 0, -0.68, 0.215, 0.18)
    p.oval("#fbe3c4", 0, -0.26, 0.11, 0.17)
    for side in (-1, 1):
        p.oval(coat, side * 0.09, -0.04, 0.08, 0.042)
        p.oval("#f7f4c0", side * 0.085, -0.71, 0.045, 0.045)
        p.oval(INK, side * 0.085, -0.71, 0.02, 0.04)
        p.line(INK, 0.01, (side * 0.07, -0.61), (side * 0.23, -0.63))
        p.line(INK, 0.01, (side * 0.07, -0.6), (side * 0.22, -0.58))
        p.line(dark, 0.025, (side * 0.03, -0.84), (side * 0.03, -0.79))
    p.poly("#d0605e", (-0.03, -0.65), (0.03, -0.65), (0, -0.615))


def horse(p: Pen, coat: str = "#9a5b34", dark: str = "#4a2b19") -> None:  # size: length
    p.line(dark, 0.05, (-0.35, -0.64), (-0.43, -0.52), (-0.43, -0.3))
    for x, bend, colour in ((-0.22, -0.03, dark), (0.12, 0.03, dark), (-0.31, -0.03, coat), (0.2, 0.03, coat)):
        p.line(colour, 0.075, (x, -0.5), (x + bend, -0.26), (x, -0.06))
        p.box(INK, x - 0.045, -0.06, x + 0.055, 0, 0.015)
    p.oval(coat, -0.06, -0.58, 0.32, 0.155)
    p.poly(coat, (0.06, -0.66), (0.24, -0.5), (0.42, -0.84), (0.3, -0.96))
    p.poly(dark, (0.02, -0.7), (0.1, -0.68), (0.33, -0.96), (0.27, -1.0))
    p.poly(coat, (0.28, -0.98), (0.4, -0.97), (0.56, -0.78), (0.5, -0.7), (0.34, -0.82))
    p.poly(coat, (0.3, -0.95), (0.32, -1.06), (0.38, -0.95))
    p.oval(INK, 0.4, -0.89, 0.016)


def car(p: Pen, paint: str) -> None:  # from the side; size: length
    p.poly(paint, (-0.36, -0.26), (-0.24, -0.46), (0.12, -0.46), (0.29, -0.26))
    p.box(paint, -0.5, -0.3, 0.5, -0.09, 0.07)
    p.poly("#cfe8f5", (-0.29, -0.28), (-0.21, -0.42), (-0.07, -0.42), (-0.07, -0.28))
    p.poly("#cfe8f5", (-0.03, -0.28), (-0.03, -0.42), (0.1, -0.42), (0.22, -0.28))
    p.box("#ffe27a", 0.43, -0.25, 0.5, -0.19, 0.02)
    p.box("#b3202c", -0.5, -0.25, -0.46, -0.18, 0.02)
    for x in (-0.29, 0.29):
        p.oval(INK, x, -0.1, 0.1)
        p.oval("#c9ccd3", x, -0.1, 0.05)


def bicycle(p: Pen, paint: str = "#d7263d") -> None:  # size: length
    for x in (-0.28, 0.28):
        p.line(INK, 0.035, *curve(x, -0.22, 0.2, 0.2))
        for a in range(0, 180, 45):
            p.line("#8a8d96", 0.008, around(x, -0.22, 0.19, a), around(x, -0.22, 0.19, a + 180))
    p.line(paint, 0.032, (-0.28, -0.22), (-0.1, -0.48), (0.2, -0.5), (-0.02, -0.22), (-0.28, -0.22))
    p.line(paint, 0.032, (-0.02, -0.22), (-0.12, -0.54))
    p.line(paint, 0.032, (0.28, -0.22), (0.17, -0.6))
    p.line(INK, 0.035, (0.17, -0.6), (0.26, -0.62))
    p.line(INK, 0.05, (-0.18, -0.55), (-0.07, -0.55))


def tree(p: Pen, leaf: str = "#3f8f4a", light: str = "#57ab5c") -> None:  # size: height
    p.poly("#7a5230", (-0.06, 0), (-0.035, -0.5), (0.035, -0.5), (0.06, 0))
    for x, y, r in ((-0.17, -0.5, 0.17), (0.17, -0.5, 0.17), (-0.12, -0.7, 0.18), (0.13, -0.7, 0.18), (0, -0.82, 0.18)):
        p.oval(leaf, x, y, r)
    for x, y, r in ((-0.1, -0.72, 0.1), (0.06, -0.84, 0.09), (0.16, -0.55, 0.08)):
        p.oval(light, x, y, r)


def window(p: Pen, frame: str = "#fffaf0", glass: str = "#a9d6ee", rows: int = 1, columns: int = 1) -> None:
    """Windows, each one unit wide and 1.2 high and half a unit apart; the origin is the top left corner."""
    for x, y in ((1.5 * c, 1.8 * r) for c in range(columns) for r in range(rows)):
        p.box(frame, x, y, x + 1, y + 1.2)
        for dx, dy in ((0.1, 0.1), (0.54, 0.1), (0.1, 0.64), (0.54, 0.64)):
            p.box(glass, x + dx, y + dy, x + dx + 0.36, y + dy + 0.46)


def house(s: Scene, x: float, y: float, size: float, wall: str = "#f4e3c1", roof: str = "#b5473a") -> None:
    p = s.put("House", x, y, size)
    p.box("#8d5a45", 0.2, -0.95, 0.3, -0.6)
    p.box(wall, -0.42, -0.56, 0.42, 0)
    p.poly(roof, (-0.5, -0.52), (0, -0.97), (0.5, -0.52))
    p.box("#6b4a35", -0.09, -0.34, 0.09, 0, 0.02)
    p.oval("#f2c14e", 0.055, -0.17, 0.017)
    for dx in (-0.34, 0.17):
        window(s.put("Window", x + dx * size, y - 0.4 * size, size * 0.17, part=True))


def building(
    s: Scene, x: float, y: float, size: float, height: float, wall: str, grid: tuple[int, int], glass: str = "#a9d6ee"
) -> None:
    p = s.put("Building", x, y, size)
    p.box(wall, -0.5, -height, 0.5, 0)
    p.box(INK, -0.53, -height - 0.06, 0.53, -height)
    p.box("#5d4a3f", -0.09, -0.27, 0.09, 0)
    rows, columns = grid
    unit = size / (1.5 * columns + 0.5)
    many = int(rows * columns > 5)
    panes = s.put("Window", x - size / 2 + unit / 2, y - (height - 0.1) * size, unit, part=True, group_of=many)
    window(panes, "#f3efe6", glass, rows, columns)


def boat(p: Pen, hull: str = "#b5473a", sail: str = "#fdfaf0") -> None:  # size: height; origin: on the water
    p.line("#6b4a35", 0.025, (0, -0.12), (0, -0.98))
    p.poly(sail, (0.04, -0.95), (0.04, -0.26), (0.4, -0.26))
    p.poly("#f2c14e", (-0.04, -0.88), (-0.04, -0.26), (-0.3, -0.26))
    p.poly(hull, (-0.42, -0.2), (0.46, -0.2), (0.32, 0), (-0.3, 0))
    p.line("#ffffff", 0.025, (-0.36, -0.14), (0.4, -0.14))


def bird(p: Pen, x: float = 0, y: float = 0, k: float = 1, body: str = "#4b5d78") -> None:  # size: wing span
    """A flying bird around (x, y), k units wide."""
    for side in (-1, 1):
        wing = ((0.0, -0.02), (0.22, -0.23), (0.47, -0.16), (0.2, -0.1), (0.0, 0.08))
        p.poly(body, *((x + side * dx * k, y + dy * k) for dx, dy in wing))
    p.oval(body, x, y + 0.02 * k, 0.15 * k, 0.07 * k)
    p.oval(body, x + 0.15 * k, y - 0.02 * k, 0.06 * k)
    p.poly("#f0a030", (x + 0.19 * k, y - 0.04 * k), (x + 0.27 * k, y - 0.01 * k), (x + 0.19 * k, y + 0.02 * k))


def pigeon(p: Pen, body: str = "#7d8aa5") -> None:  # stands; size: length
    for x in (-0.04, 0.06):
        p.line("#e07a5f", 0.035, (x, -0.2), (x, -0.02), (x + 0.06, -0.02))
    p.poly(body, (-0.2, -0.42), (-0.5, -0.3), (-0.46, -0.22), (-0.1, -0.24))
    p.oval(body, 0, -0.34, 0.26, 0.17)
    p.oval("#5f6d8a", -0.06, -0.34, 0.18, 0.1)
    p.oval(body, 0.24, -0.58, 0.12)
    p.poly(body, (0.08, -0.46), (0.24, -0.28), (0.34, -0.54), (0.16, -0.62))
    p.poly("#f0a030", (0.34, -0.61), (0.46, -0.56), (0.34, -0.53))
    p.oval(INK, 0.27, -0.6, 0.025)


def kite(p: Pen) -> None:  # size: height with its tail; origin: middle of the top half
    p.line("#7a5230", 0.014, (0, 0.3), (0.06, 0.42), (-0.02, 0.54), (0.05, 0.68))
    for y, x in ((0.42, 0.06), (0.54, -0.02), (0.67, 0.05)):
        p.poly("#2a9d8f", (x - 0.06, y - 0.035), (x + 0.06, y + 0.035), (x + 0.06, y - 0.035), (x - 0.06, y + 0.035))
    p.poly("#e4572e", (0, -0.3), (-0.24, -0.04), (0, 0.32))
    p.poly("#f2c14e", (0, -0.3), (0.24, -0.04), (0, 0.32))
    p.poly("#b93a1c", (-0.24, -0.04), (0, -0.04), (0, 0.32))
    p.poly("#d99f1f", (0.24, -0.04), (0, -0.04), (0, 0.32))


def balloon(p: Pen, colour: str) -> None:  # size: height; origin: its middle
    p.poly(colour, (0, 0.38), (-0.08, 0.5), (0.08, 0.5))
    p.oval(colour, 0, -0.04, 0.38, 0.46)
    p.line("#ffffff", 0.05, *curve(0, -0.06, 0.25, 0.32, 195, 240))


def flower(p: Pen, petal: str, x: float = 0, y: float = 0) -> None:  # size: height
    p.line("#3c8d40", 0.07, (x, y), (x + 0.02, y - 0.4), (x, y - 0.7))
    p.poly("#4fa653", (x, y - 0.15), (x + 0.24, y - 0.36), (x + 0.08, y - 0.38))
    p.poly("#4fa653", (x, y - 0.1), (x - 0.24, y - 0.28), (x - 0.08, y - 0.32))
    for a in range(-90, 270, 60):
        p.oval(petal, *around(x, y - 0.72, 0.17, a), 0.11)
    p.oval("#f8d448", x, y - 0.72, 0.11)


def apple(p: Pen, skin: str = "#d7263d") -> None:  # size: height
    p.oval(skin, -0.16, -0.4, 0.28, 0.38)
    p.oval(skin, 0.16, -0.4, 0.28, 0.38)
    p.line("#5b3a1e", 0.06, (0, -0.68), (0.04, -0.95))
    p.poly("#57ab5c", (0.04, -0.84), (0.2, -0.98), (0.34, -0.92), (0.2, -0.8))
    p.oval("#f2848f", -0.22, -0.54, 0.06, 0.1)


def orange(p: Pen) -> None:  # size: height
    p.oval("#f28c1c", 0, -0.5, 0.5)
    p.oval("#f8b35f", -0.18, -0.68, 0.12, 0.09)
    p.poly("#3f8f4a", (-0.02, -0.93), (0.16, -0.99), (0.26, -0.9), (0.1, -0.86))


def chair(p: Pen, wood: str = "#a8683a", seat: str = "#2a9d8f") -> None:  # size: height
    for x in (-0.2, 0.2):
        p.box(wood, x - 0.035, -1, x + 0.035, 0, 0.02)
    for y in (-0.94, -0.78, -0.63):
        p.box(wood, -0.2, y, 0.2, y + 0.08)
    p.box(seat, -0.27, -0.49, 0.27, -0.39, 0.04)
    p.box(wood, -0.2, -0.22, 0.2, -0.17)


def table(p: Pen, height: float = 0.5, wood: str = "#9c6b3f") -> None:  # size: width
    for x in (-0.42, 0.36):
        p.box("#7d5330", x, -height, x + 0.06, 0)
    p.box(wood, -0.5, -height, 0.5, -height + 0.08, 0.02)


def clock(p: Pen, rim: str = "#6b4a35") -> None:  # size: diameter; origin: its middle
    p.oval(rim, 0, 0, 0.5)
    p.oval("#fffdf4", 0, 0, 0.42)
    for a in range(0, 360, 30):
        p.line(INK, 0.035 if a % 90 else 0.06, around(0, 0, 0.35, a), around(0, 0, 0.38, a))
    p.line(INK, 0.06, (0, 0), (-0.17, -0.12))
    p.line(INK, 0.045, (0, 0), (0.13, -0.28))


def fish(p: Pen, scale: str, fin: str) -> None:  # size: length; origin: its middle
    p.poly(fin, (-0.24, 0), (-0.5, -0.22), (-0.42, 0), (-0.5, 0.22))
    p.poly(fin, (-0.14, -0.16), (-0.02, -0.34), (0.18, -0.16))
    p.oval(scale, 0.12, 0, 0.38, 0.24)
    for x in (-0.06, 0.1):
        p.line(fin, 0.05, *curve(x - 0.1, 0, 0.12, 0.19, -55, 55))
    p.oval("#ffffff", 0.33, -0.06, 0.065)
    p.oval(INK, 0.345, -0.06, 0.032)
    p.line(INK, 0.018, *curve(0.42, 0.04, 0.06, 0.05, 60, 150))


def umbrella(p: Pen, one: str, two: str, hook: bool = True) -> None:  # size: width; origin: the pole's lower end
    p.line("#6b4a35", 0.028, (0, 0), (0, -0.98))
    if hook:
        p.line("#6b4a35", 0.028, *curve(-0.05, 0, 0.05, 0.05, 0, 180))
    top = curve(0, -0.6, 0.5, 0.36, 180, 360)
    p.poly(one, *top)
    p.poly(two, *curve(0, -0.6, 0.3, 0.36, 180, 360))
    p.poly(one, *curve(0, -0.6, 0.1, 0.36, 180, 360))
    for x, colour in ((-0.4, one), (-0.2, two), (0, one), (0.2, two), (0.4, one)):
        p.oval(colour, x, -0.6, 0.1, 0.035)


# ---- backdrops


def meadow(s: Scene, horizon: float, sky: str = "#7cc4f0", low: str = "#e3f4fb", grass: str = "#79bd5a") -> Pen:
    p = s.back()
    p.fade(sky, low, 0, horizon)
    p.oval("#fff0a8", s.width * 0.84, s.height * 0.15, 25)
    p.oval("#ffd84d", s.width * 0.84, s.height * 0.15, 18)
    for x, y, k in ((0.2, 0.13, 1.0), (0.56, 0.08, 0.7)):
        for dx, dy, r in ((-16, 2, 9), (0, -2, 13), (16, 2, 10)):
            p.oval("#ffffff", s.width * x + dx * k, s.height * y + dy * k, r * k * 1.3, r * k * 0.75)
    p.oval("#a3d08a", s.width * 0.2, horizon + 24, s.width * 0.42, 50)
    p.oval("#93c67c", s.width * 0.8, horizon + 28, s.width * 0.48, 46)
    p.fade(grass, "#4f9a43", horizon, s.height)
    for _ in range(26):
        x, y = random.uniform(4, s.width - 4), random.uniform(horizon + 8, s.height - 4)
        p.line("#458a3c", 1.2, (x - 3, y - 5), (x, y), (x + 3, y - 5))
    return p


def room(s: Scene, floor: float, wall: str, boards: str) -> Pen:
    p = s.back()
    p.fade(wall, "#fbf3e4", 0, floor)
    p.box(boards, 0, floor, s.width, s.height)
    p.box("#fffaf0", 0, floor - 7, s.width, floor)
    for i in range(1, 4):
        p.line("#8a6a48", 1, (0, floor + i * i * 8), (s.width, floor + i * i * 8))
    return p


def goal(p: Pen, x0: float, y0: float, x1: float, y1: float) -> None:
    for i in range(1, 12):
        p.line("#e8f2ea", 0.7, (x0 + (x1 - x0) * i / 12, y0), (x0 + (x1 - x0) * i / 12, y1))
    for i in range(1, 6):
        p.line("#e8f2ea", 0.7, (x0, y0 + (y1 - y0) * i / 6), (x1, y0 + (y1 - y0) * i / 6))
    p.line("#ffffff", 4, (x0, y1), (x0, y0), (x1, y0), (x1, y1))


# ---- the scenes, in the order of their numbers; a function's name is its file's slug


def football_match(s: Scene) -> None:
    p = meadow(s, 96)
    p.line("#eaf5e6", 2, (0, 150), (360, 150))
    goal(p, 268, 72, 356, 142)
    tree(s.put("Tree", 34, 108, 74))
    tree(s.put("Tree", 98, 104, 58), "#35803f", "#4b9a52")
    person(s.put("Person", 312, 150, 76), "cheer", "#f2c14e", "#2b2b33", wear="shorts")
    person(s.put("Person", 132, 214, 118), "kick", "#d7263d", "#ffffff", wear="shorts")
    person(s.put("Person", 58, 200, 100), "run", "#2b6cb0", "#ffffff", "#22222a", "#a86b3c", "shorts")
    football(s.put("Football", 204, 192, 26))


def goalkeeper(s: Scene) -> None:
    goal(meadow(s, 150), 22, 40, 218, 250)
    person(s.put("Person", 106, 276, 170), "dive", "#8ac926", "#1d3557", "#22222a", "#8d5524", "shorts")
    football(s.put("Football", 138, 76, 42))


def park_bicycle(s: Scene) -> None:
    p = meadow(s, 104)
    p.box("#e6d3a8", 0, 196, 340, 226)
    tree(s.put("Tree", 62, 190, 160))
    tree(s.put("Tree", 296, 150, 96), "#35803f", "#4b9a52")
    bicycle(s.put("Bicycle", 176, 216, 132))
    person(s.put("Man", 162, 192, 122), "ride", "#2b6cb0", "#4a4e69")
    dog(s.put("Dog", 284, 224, 66))


def cat_on_the_sill(s: Scene) -> None:
    s.back().fade("#f3cfa9", "#f8e2c8", 0, 320)
    p = s.put("Window", 0, 0, 1)
    p.box("#fffaf0", 34, 24, 222, 254)
    p.box("#a9d6ee", 44, 34, 212, 244)
    p.oval("#ffe27a", 184, 66, 16)
    p.poly("#79bd5a", (44, 244), *curve(128, 244, 84, 62, 180, 360))
    p.box("#fffaf0", 124, 34, 132, 244)
    p.box("#fffaf0", 44, 112, 212, 120)
    s.back().box("#c58b57", 14, 252, 242, 272, 4)
    flower(s.put("Flower", 62, 226, 86), "#e85d8f")
    s.back().poly("#b5473a", (42, 222), (82, 222), (76, 254), (48, 254))
    cat(s.put("Cat", 150, 256, 142))


def busy_street(s: Scene) -> None:
    s.back().fade("#8fc9ee", "#f2f6f4", 0, 160)
    building(s, 62, 152, 104, 1.38, "#d98f6c", (3, 3))
    building(s, 180, 152, 118, 0.92, "#e9c46a", (2, 4))
    building(s, 300, 152, 106, 1.36, "#8fa9b8", (3, 3))
    p = s.back()
    p.box("#c9c5bd", 0, 150, 360, 174)
    p.box("#5a5d66", 0, 174, 360, 220)
    for x in range(10, 360, 60):
        p.box("#f4f1e6", x, 195, x + 30, 198)
    person(s.put("Person", 236, 171, 62), "stand", "#7b2cbf")
    person(s.put("Person", 270, 172, 64), "run", "#2a9d8f", "#3d405b", "#22222a", "#a86b3c")
    car(s.put("Car", 118, 208, 132), "#d7263d")
    car(s.put("Car", 322, 214, 132), "#2b6cb0")


def sailing(s: Scene) -> None:
    p = s.back()
    p.fade("#f7b267", "#fde8c4", 0, 170)
    p.oval("#fff3c9", 210, 150, 36)
    p.fade("#3f88a8", "#1f5673", 168, 300)
    for row in range(180, 296, 14):
        for column in range(row % 40 - 20, 300, 48):
            p.line("#7fb8cf", 1.5, *curve(column, row, 9, 4, 200, 340))
    boat(s.put("Boat", 236, 192, 72), "#35477d", "#ffffff")
    boat(s.put("Boat", 110, 248, 178))
    flock = s.put("Bird", 244, 56, 30, group_of=1)
    for x, y in ((0.0, 0.0), (-1.1, -0.5), (1.1, 0.4), (-0.3, 0.9), (0.6, -0.8), (-1.6, 0.5), (1.4, -0.5), (0.5, 1.4)):
        bird(flock, x, y, 0.8)


def kite_hill(s: Scene) -> None:
    p = meadow(s, 236)
    p.oval("#6cb356", 90, 350, 190, 120)
    p.line("#fffaf0", 1.2, (112, 208), (164, 110))
    tree(s.put("Tree", 214, 290, 92))
    person(s.put("Person", 86, 276, 98), "hold", "#e85d8f", "#4a4e69", "#d9a441")
    kite(s.put("Kite", 164, 84, 88))


def birthday(s: Scene) -> None:
    p = room(s, 196, "#bfe3df", "#c99a6b")
    places = ((186, 62), (216, 42), (246, 64), (276, 44), (296, 82))
    for x, y in places:
        p.line("#7d7d85", 0.8, (x, y + 24), (242, 150))
    for (x, y), colour in zip(places, ("#d7263d", "#2b6cb0", "#f2c14e", "#57ab5c", "#7b2cbf"), strict=True):
        balloon(s.put("Balloon", x, y, 54), colour)
    table(s.put("Table", 242, 226, 136))
    p = s.back()
    p.box("#f7d9e3", 212, 132, 272, 158, 5)
    p.box("#e85d8f", 212, 130, 272, 142, 5)
    for candle in (226, 242, 258):
        p.line("#fffaf0", 3, (candle, 118), (candle, 129))
        p.oval("#f28c1c", candle, 113, 2.4, 4)
    person(s.put("Woman", 86, 230, 166), "cheer", "#f28c1c", "#7b2cbf", "#3b2314", "#d9a066", "skirt", long_hair=True)


def fruit_table(s: Scene) -> None:
    p = s.back()
    p.fade("#9ccfc0", "#dff1e6", 0, 150)
    t = s.put("Table", 0, 0, 1)
    t.box("#b98350", -5, 138, 305, 230)
    for y in (160, 184, 208):
        t.line("#a06c3d", 1.2, (-5, y), (305, y))
    apple(s.put("Apple", 116, 116, 68))
    orange(s.put("Orange", 174, 116, 60))
    apple(s.put("Apple", 146, 122, 60), "#8ac926")
    s.back().poly("#35477d", *curve(146, 104, 84, 58, 0, 180))
    s.back().box("#35477d", 118, 156, 174, 170, 3)
    orange(s.put("Orange", 250, 194, 54))
    apple(s.put("Apple", 50, 198, 62))


def living_room(s: Scene) -> None:
    p = room(s, 176, "#e9cfa6", "#b98350")
    p.oval("#a63d40", 170, 218, 130, 24)
    p.box("#6b4a35", 40, 22, 150, 100)
    p.box("#cfe8f5", 47, 29, 143, 93)
    p.box("#3f88a8", 47, 74, 143, 93)
    boat(s.put("Boat", 96, 82, 48, part=True, depiction=1))
    clock(s.put("Clock", 222, 60, 54))
    chair(s.put("Chair", 74, 228, 116))
    table(s.put("Table", 220, 226, 132))
    flower(s.put("Flower", 222, 152, 46), "#e4572e")
    s.back().poly("#fffaf0", (213, 138), (231, 138), (228, 161), (216, 161))
    cat(s.put("Cat", 308, 236, 82), "#6c6f7b", "#44464f")


def aquarium(s: Scene) -> None:
    p = s.back()
    p.fade("#5fc3dc", "#12547a", 0, 230)
    p.oval("#e9d8a6", 160, 226, 230, 36)
    p.box("#1b2a41", 0, 210, 320, 230)
    for x, h in ((24, 80), (44, 58), (286, 92), (304, 60)):
        p.line("#2f8f5b", 6, (x, 208), (x + 5, 208 - h / 3), (x - 4, 208 - h / 1.5), (x + 3, 208 - h))
    for x, y, r in ((130, 40, 4), (138, 24, 3), (238, 60, 4), (246, 42, 3), (60, 96, 3)):
        p.oval("#bfe8f2", x, y, r)
    fish(s.put("Fish", 84, 62, 84), "#f28c1c", "#d9601a")
    fish(s.put("Fish", 238, 92, 96, flip=True), "#f8d448", "#4a6fb0")
    fish(s.put("Fish", 110, 136, 66), "#e85d8f", "#b83a6a")
    fish(s.put("Fish", 8, 166, 70), "#c3d350", "#6f9b2f")
    person(s.put("Person", 206, 284, 158), "hold", "#e76f51", "#264653", "#4a2f1d", face=False)


def horse_ride(s: Scene) -> None:
    p = meadow(s, 112)
    for y in (138, 152):
        p.line("#fffaf0", 3, (0, y), (340, y))
    for x in range(12, 340, 44):
        p.line("#fffaf0", 4, (x, 130), (x, 164))
    house(s, 64, 128, 96)
    horse(s.put("Horse", 190, 226, 170))
    person(s.put("Person", 172, 160, 118), "astride", "#d7263d", "#fffaf0", "#22222a")


def rainy_day(s: Scene) -> None:
    s.back().fade("#8f98a3", "#d5dae0", 0, 250)
    building(s, 56, 250, 100, 1.9, "#6f7680", (4, 3), "#f4efcf")
    building(s, 190, 250, 90, 1.5, "#a3a9b1", (3, 3), "#f4efcf")
    p = s.back()
    p.fade("#7d838b", "#565b63", 250, 320)
    for x, y in ((50, 290), (196, 276), (180, 306)):
        p.oval("#a9b1ba", x, y, 30, 5)
    for _ in range(70):
        left, top = random.uniform(0, 240), random.uniform(0, 310)
        p.line("#e6ebf0", 0.8, (left, top), (left - 3, top + 9))
    umbrella(s.put("Umbrella", 160, 206, 128), "#2b2b33", "#e8e8ec")
    person(s.put("Woman", 124, 306, 158), "hold", "#e8e8ec", "#3a3d46", "#1f1f25", "#d8c8b8", "skirt", long_hair=True)


def flower_bed(s: Scene) -> None:
    meadow(s, 110)
    house(s, 86, 150, 128, "#fff3d6", "#35477d")
    person(s.put("Person", 236, 176, 112), "stand", "#2a9d8f", "#6b4a35", "#c9c9cf")
    s.back().oval("#7a5230", 160, 216, 146, 26)
    bed = s.put("Flower", 0, 0, 48, group_of=1)
    colours = ("#e85d8f", "#f28c1c", "#d7263d", "#ffffff", "#9d4edd")
    for row, y in enumerate((206, 219, 232)):
        for i in range(8 - row % 2):
            flower(bed, colours[(i * 2 + row) % 5], (48 + 32 * i + 16 * (row % 2)) / 48, y / 48)


def from_the_car(s: Scene) -> None:
    p = meadow(s, 96)
    p.poly("#62656e", (158, 96), (178, 96), (330, 232), (10, 232))
    for y, h in ((104, 7), (118, 11), (138, 16)):
        p.poly("#f4f1e6", (167 - h / 9, y), (169 + h / 9, y), (169 + h / 6, y + h), (167 - h / 6, y + h))
    house(s, 76, 118, 72)
    tree(s.put("Tree", 272, 130, 84))
    ahead = s.put("Car", 190, 144, 48)
    ahead.poly("#2b6cb0", (-0.4, -0.42), (-0.3, -0.74), (0.3, -0.74), (0.4, -0.42))
    ahead.poly("#cfe8f5", (-0.32, -0.45), (-0.25, -0.68), (0.25, -0.68), (0.32, -0.45))
    for x in (-0.4, 0.22):
        ahead.box(INK, x, -0.2, x + 0.18, 0, 0.04)
    ahead.box("#2b6cb0", -0.5, -0.46, 0.5, -0.1, 0.09)
    ahead.box("#ff5a4f", -0.46, -0.38, -0.3, -0.28, 0.03)
    ahead.box("#ff5a4f", 0.3, -0.38, 0.46, -0.28, 0.03)
    ahead.box("#fffaf0", -0.14, -0.26, 0.14, -0.15, 0.02)
    p = s.put("Car", 0, 0, 1, inside=1)
    p.box("#33363f", -5, -5, 345, 16)
    p.poly("#33363f", (-5, -5), (36, -5), (12, 160), (-5, 160))
    p.poly("#33363f", (345, -5), (304, -5), (328, 160), (345, 160))
    p.poly("#3f434d", (-5, 235), (-5, 160), *curve(170, 168, 180, 22, 180, 360), (345, 160), (345, 235))
    p.box("#23252c", 140, 10, 206, 32, 7)
    p.box("#9fb8c6", 144, 14, 202, 28, 5)
    p.box("#23252c", 204, 180, 300, 216, 5)
    for x in (226, 252, 278):
        p.oval("#7fd1c0", x, 198, 8)
    p.line("#17181d", 10, *curve(96, 216, 60, 56))
    p.line("#17181d", 9, (40, 214), (152, 214))
    p.oval("#17181d", 96, 214, 19, 15)


def beach_game(s: Scene) -> None:
    p = s.back()
    p.fade("#6cc3f0", "#dff4fb", 0, 96)
    p.oval("#ffd84d", 54, 36, 18)
    p.fade("#2f93b8", "#79cfdc", 94, 140)
    p.fade("#f6e2ad", "#e6c47f", 138, 240)
    boat(s.put("Boat", 130, 116, 62), "#d7263d")
    umbrella(s.put("Umbrella", 298, 202, 112), "#e4572e", "#fffaf0", hook=False)
    person(s.put("Person", 84, 216, 112), "kick", "#f8d448", "#2b6cb0", "#22222a", "#8d5524", "shorts")
    person(s.put("Person", 228, 218, 108), "cheer", "#57ab5c", "#d7263d", "#c98a2b", wear="shorts")
    football(s.put("Football", 152, 166, 26))


def dog_and_ball(s: Scene) -> None:
    meadow(s, 130)
    tree(s.put("Tree", 52, 170, 130))
    football(s.put("Football", 204, 208, 60))
    dog(s.put("Dog", 112, 232, 170))


def backyard_kick(s: Scene) -> None:
    meadow(s, 172)
    house(s, 108, 210, 176, "#e7c9d6", "#6d597a")
    tree(s.put("Tree", 222, 222, 138))
    person(s.put("Person", 84, 318, 140), "kick", "#f28c1c", "#35477d", "#d9a441", wear="shorts")
    football(s.put("Football", 176, 302, 36))


def clock_tower(s: Scene) -> None:
    s.back().fade("#89b9e6", "#f6e9d8", 0, 272)
    p = s.put("Building", 0, 0, 1)
    p.box("#c9996b", 92, 66, 164, 276)
    p.poly("#6d597a", (84, 68), (128, 8), (172, 68))
    p.box("#b5845a", 86, 136, 170, 144)
    p.poly("#5d4a3f", (114, 276), *curve(128, 244, 14, 16, 180, 360), (142, 276))
    clock(s.put("Clock", 128, 102, 56, part=True))
    window(s.put("Window", 116, 168, 24, part=True))
    p = s.back()
    p.fade("#d8cdbd", "#b9ab98", 272, 340)
    bird(s.put("Bird", 212, 54, 48))
    person(s.put("Person", 52, 318, 104), "hold", "#2b6cb0", "#3d405b")
    balloon(s.put("Balloon", 82, 204, 40), "#d7263d")
    s.back().line("#5d5d65", 0.8, (82, 224), (80, 246))
    pigeon(s.put("Bird", 172, 322, 52))
    pigeon(s.put("Bird", 222, 304, 42, flip=True), "#e8e6e1")


def picnic(s: Scene) -> None:
    p = meadow(s, 112)
    tree(s.put("Tree", 60, 180, 164))
    umbrella(s.put("Umbrella", 206, 196, 150), "#2a9d8f", "#fffaf0", hook=False)
    s.back().poly("#d7263d", (70, 236), (112, 190), (288, 190), (318, 236))
    p = s.back()
    for y0, y1 in ((196, 201), (210, 216), (226, 232)):
        left, right = [(112 - (y - 190) * 0.91, y) for y in (y0, y1)], [(288 + (y - 190) * 0.65, y) for y in (y1, y0)]
        p.poly("#f6bcc0", *left, *right)
    person(s.put("Man", 122, 258, 128), "sit", "#f2c14e", "#35477d")
    person(s.put("Woman", 272, 258, 124, flip=True), "sit", "#9d4edd", "#4a4e69", "#3b2314", "#d9a066", long_hair=True)
    apple(s.put("Apple", 192, 226, 26), "#8ac926")
    orange(s.put("Orange", 218, 230, 24))
    football(s.put("Football", 28, 226, 34))


SCENES: list[tuple[Callable[[Scene], None], int, int]] = [
    (football_match, 360, 240), (goalkeeper, 240, 320), (park_bicycle, 340, 240), (cat_on_the_sill, 256, 320),
    (busy_street, 360, 220), (sailing, 300, 300), (kite_hill, 260, 340), (birthday, 320, 240),
    (fruit_table, 300, 220), (living_room, 340, 250), (aquarium, 320, 230), (horse_ride, 340, 240),
    (rainy_day, 240, 320), (flower_bed, 320, 244), (from_the_car, 340, 230), (beach_game, 360, 240),
    (dog_and_ball, 280, 256), (backyard_kick, 256, 340), (clock_tower, 256, 340), (picnic, 340, 256),
]  # fmt: skip
GREYSCALE = {rainy_day}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.jpg"):
        old.unlink()
    listing, total = [], 0
    for number, (draw, width, height) in enumerate(SCENES, 1):
        random.seed(number)
        scene = Scene(width, height)
        draw(scene)
        path = OUT / f"{number:02}_{draw.__name__}.jpg"
        picture = scene.render().convert("L") if draw in GREYSCALE else scene.render()
        picture.save(path, quality=QUALITY, optimize=True)
        total += path.stat().st_size
        entry = {"file": path.name, "width": width, "height": height, "objects": scene.objects()}
        listing.append(json.dumps(entry).replace("}, {", "},\n {").replace("[{", "[\n {", 1))
    (OUT / "scenes.json").write_text("[" + ",\n".join(listing) + "]\n", encoding="utf-8")
    print(f"{len(listing)} pictures, {total} bytes")
    if total > MAX_TOTAL:
        raise SystemExit(f"together they are over {MAX_TOTAL} bytes: lower QUALITY")


if __name__ == "__main__":
    main()
