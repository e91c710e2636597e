"""Decoding a picture to see whether it can be: what `verify --deep` does beyond sizes and hashes."""

from pathlib import Path


def undecodable(path: Path) -> str | None:
    """Return why Pillow cannot decode a picture, None if it can. A broken file is told from a broken decoder by it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["JPEG", "PNG"]) as image:
            image.load()
    except UnidentifiedImageError:
        return "cannot be decoded: neither a JPEG nor a PNG"
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        return f"cannot be decoded: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return None
