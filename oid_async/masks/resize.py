"""Masks as pictures: resized to their image's size."""

import io

from oid_async.masks.members import MemberError


def resized(png: bytes, width: int, height: int) -> bytes:
    """Return a mask of this size in pixels, nearest neighbour: no grey between 0 and 255 appears.

    The published masks have up to 1600 pixels a side, the bucket's images 1024. Raises MemberError if it is no PNG.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size == (width, height):
                return png
            fresh = io.BytesIO()
            image.resize((width, height), Image.Resampling.NEAREST).save(fresh, "PNG")
            return fresh.getvalue()
    except (OSError, ValueError, SyntaxError) as error:
        raise MemberError("not_image", f"no PNG: {error}") from error
