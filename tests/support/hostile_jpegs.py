"""JPEGs that are no pictures, or more than a memory holds: some bytes each, made by hand."""

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker: int, payload: bytes = b"") -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2) + payload


def frame(width: int, height: int, *, marker: int = 0xC0, bits: int = 8, components: int = 1) -> bytes:
    """Return the segment that states the size; all components have all pixels."""
    layers = b"".join(bytes((number, 0x11, 0)) for number in range(1, components + 1))
    return segment(marker, bytes((bits,)) + height.to_bytes(2) + width.to_bytes(2) + bytes((components,)) + layers)


def scan(components: int = 1, *, progressive: bool = False) -> bytes:
    """Return the header of a scan; of a progressive picture the first one, of DC alone."""
    layers = b"".join(bytes((number, 0)) for number in range(1, components + 1))
    return segment(0xDA, bytes((components,)) + layers + (b"\0\0\0" if progressive else b"\0\x3f\0"))


# One code of one bit in each Huffman table: a block of no difference and no other coefficient is two bits.
_TABLES = segment(0xDB, b"\0" + b"\1" * 64) + b"".join(
    segment(0xC4, bytes((table,)) + b"\1" + bytes(15) + b"\0") for table in (0x00, 0x10)
)


def grey_jpeg(width: int, height: int, *, progressive: bool = False, components: int = 1) -> bytes:
    """Return a sound JPEG of one colour, four thousandths of a byte a pixel."""
    blocks = (width + 7) // 8 * ((height + 7) // 8) * components
    bits = blocks if progressive else 2 * blocks
    start = SOI + _TABLES + frame(width, height, marker=0xC2 if progressive else 0xC0, components=components)
    return start + scan(components, progressive=progressive) + bytes((bits + 7) // 8) + EOI


def many_scans(width: int, height: int, count: int) -> bytes:
    """Return a progressive JPEG whose first scan comes again and again."""
    body = grey_jpeg(width, height, progressive=True)[: -len(EOI)]
    return body + body[body.index(b"\xff\xda") :] * (count - 1) + EOI


def scan_by_scan(width: int, height: int) -> bytes:
    """Return a baseline JPEG of three colours, each in a scan of its own."""
    start = SOI + _TABLES + frame(width, height, components=3)
    data = bytes((2 * ((width + 7) // 8) * ((height + 7) // 8) + 7) // 8)
    return start + b"".join(segment(0xDA, bytes((1, number, 0, 0, 0x3F, 0))) + data for number in (1, 2, 3)) + EOI


# No picture by its header: neither a size nor a scan.
HEADLESS: dict[str, bytes] = {
    "start and end": SOI + EOI,
    "no frame": SOI + _TABLES + scan() + bytes(9) + EOI,
    "0 x 0": SOI + _TABLES + frame(0, 0) + scan() + bytes(9) + EOI,
    "no scan": SOI + _TABLES + frame(64, 48) + EOI,
    "65,535 pixels wide": SOI + _TABLES + frame(65_535, 1) + scan() + bytes(9) + EOI,
    "no data": SOI + _TABLES + frame(64, 48) + scan() + EOI,
    "a page": b"<html>" + bytes(99),
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(99),
}
# With size and scan, coded in a way that no usual decoder knows.
UNKNOWN_CODING: dict[str, bytes] = {
    "12 bits": SOI + _TABLES + frame(64, 48, bits=12) + scan() + bytes(99) + EOI,
    "lossless": SOI + _TABLES + frame(64, 48, marker=0xC3) + scan() + bytes(99) + EOI,
    "hierarchical": SOI + _TABLES + frame(64, 48, marker=0xC5) + scan() + bytes(99) + EOI,
}
# Sound by their header, and refused by Pillow.
REFUSED: dict[str, bytes] = {
    "two colours": SOI + _TABLES + frame(64, 48, components=2) + scan(2) + bytes(99) + EOI,
    "no tables": SOI + frame(64, 48) + scan() + bytes(99) + EOI,
    "two frames": SOI + _TABLES + frame(64, 48) * 2 + scan() + bytes(99) + EOI,
    "an impossible table": SOI + segment(0xC4, b"\0" + b"\xff" * 16) + frame(64, 48) + scan() + bytes(99) + EOI,
}
# More memory than a picture may take, where it is decoded.
TOO_LARGE: dict[str, bytes] = {
    "all that a JPEG can be": SOI + _TABLES + frame(65_500, 65_500) + scan() + bytes(99) + EOI,
    "progressive": grey_jpeg(20_000, 20_000, progressive=True),
    "scan by scan": scan_by_scan(9_000, 9_000),
    "a hundred scans": many_scans(5_000, 5_000, 100),
}
