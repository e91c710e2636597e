"""A mask's picture: looked at before it is saved, and brought to the size of its image."""

import io

from oid_async.dataset.decoding import TooLargeError, open_png
from oid_async.masks.zip_archive import MemberError
from oid_async.store.mask_check import HEAD_BYTES, has_too_many_pixels, refuse_mask


def refuse_picture(body: bytes | bytearray) -> None:
    """Raise MemberError if this is no PNG, or one that states more pixels than a mask may have."""
    if refused := refuse_mask(body[:HEAD_BYTES], len(body)):
        raise MemberError(*refused)


def resized(png: bytes | bytearray, width: int, height: int) -> bytes | bytearray:
    """Return a mask of this size in pixels, nearest neighbour: no grey between 0 and 255 appears.

    The published masks have up to 1600 pixels a side, the bucket's images 1024. Raises MemberError if it is no PNG, or
    would have too many pixels.
    """
    from PIL import Image

    if has_too_many_pixels(width, height):
        raise MemberError("too_large", f"its image has {width} x {height} pixels: too many for a mask of that size")
    try:
        with open_png(io.BytesIO(png)) as image:
            if image.size == (width, height):
                return png
            fresh = io.BytesIO()
            image.resize((width, height), Image.Resampling.NEAREST).save(fresh, "PNG")
            return fresh.getvalue()
    except TooLargeError as error:
        raise MemberError("too_large", str(error)) from error
    except Exception as error:  # damaged bytes raise any kind of exception in Pillow
        raise MemberError("not_image", f"no PNG: {error}") from error
