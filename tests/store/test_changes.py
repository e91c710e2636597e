"""What ATTRIBUTION.csv says of changes to an image."""

import polars as pl
import pytest

from oid_async.store.changes import made_changes


@pytest.mark.parametrize(
    ("source", "url", "size", "side", "said"),
    [
        ("cvdf", "https://h/open-images-dataset/train/1.jpg", (1024, 768), None, "copy of at most 1024 px"),
        ("original", "https://h/1_o.jpg", (4000, 3000), None, None),
        ("thumbnail", "https://h/1_z.jpg", (640, 480), None, "copy of at most 640 px"),
        ("thumbnail", "https://h/1_z.jpg?zz=1", (640, 480), None, "copy of at most 640 px"),
        ("thumbnail", "https://h/1_m.jpg", (240, 180), None, "a smaller copy"),
        (None, None, (1024, 768), None, "not known"),
        ("cvdf", "u", (1024, 768), 512, "copy of at most 1024 px; resized to at most 512 px"),
        ("cvdf", "u", (768, 513), 512, "copy of at most 1024 px; resized to at most 512 px"),
        ("cvdf", "u", (512, 300), 512, "copy of at most 1024 px"),
        ("original", "u", (300, 900), 512, "resized to at most 512 px"),
        ("original", "u", (300, 200), 512, None),
        ("original", "u", (None, None), 512, None),
    ],
)
def test_changes_name_what_is_known_to_have_been_done(
    source: str | None, url: str | None, size: tuple[int | None, int | None], side: int | None, said: str | None
) -> None:
    """A copy is called one, what was made smaller is said to be so, an original says nothing."""
    row = {"Source": source, "URL": url, "Width": size[0], "Height": size[1]}
    types = {"Source": pl.String, "URL": pl.String, "Width": pl.Int32, "Height": pl.Int32}
    frame = pl.DataFrame([row], schema=types)
    assert frame.select(made_changes(side)).item() == said
