"""Check that a mask can be one before it is saved or decoded: a PNG within bounds. Pure.

A PNG begins with its signature and the chunk IHDR, which states its size (https://www.w3.org/TR/png-3/#11IHDR).
"""

import struct

# Published masks have a few kilobytes and at most 1600 pixels a side.
MOST_BYTES = 64 << 20
MOST_PIXELS = 100_000_000
# So many bytes of a PNG are enough for `refuse_mask`.
HEAD_BYTES = 33
_IHDR = struct.Struct(">8sL4s2L2B")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# One byte a pixel in memory; Pillow gives all others four.
_GREY, _PALETTE = 0, 3


def refuse_mask(start: bytes | bytearray, size_bytes: int) -> tuple[str, str] | None:
    """Return why a file that begins so is no mask to keep: failure kind and text; None if it may be one.

    >>> refuse_mask(b"<html>", 6), refuse_mask(b"", MOST_BYTES + 1)
    (('not_image', 'no PNG'), ('too_large', 'more than 64 MiB'))
    """
    if size_bytes > MOST_BYTES:
        return "too_large", f"more than {MOST_BYTES >> 20} MiB"
    if len(start) < _IHDR.size:
        return "not_image", "no PNG"
    signature, length, name, width, height, depth, colours = _IHDR.unpack_from(start)
    if (signature, length, name) != (SIGNATURE, 13, b"IHDR") or not width * height:
        return "not_image", "no PNG"
    if has_too_many_pixels(width, height):
        return "too_large", f"{width} x {height} pixels, more than {MOST_PIXELS // 1_000_000} megapixels"
    if (colours not in (_GREY, _PALETTE) or depth > 8) and 4 * width * height > MOST_PIXELS:
        return "too_large", f"{width} x {height} pixels of {depth} bits a colour, which no mask needs"
    return None


def has_too_many_pixels(width: int, height: int) -> bool:
    """Return whether a mask of this size is not held in memory.

    >>> has_too_many_pixels(10_000, 10_000), has_too_many_pixels(65_000, 65_000)
    (False, True)
    """
    return width * height > MOST_PIXELS
