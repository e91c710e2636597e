"""What a file is that is no table: said in words, so that its owner knows what to do with it."""

# The first bytes of files that people give in place of a CSV file.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip or Excel file; save the sheet as CSV, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an Excel file; save the sheet as CSV"),
    (b"PAR1", "a Parquet file; let its name end in .parquet"),
    (b"\x1f\x8b", "a gzipped file; let its name end in .csv.gz"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"\xfd7zXZ", "an xz file; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it first"),
    (b"\xff\xfe", "text in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16; save it as UTF-8"),
    (b"SQLite format 3", "an SQLite database; export the table as CSV"),
    (b"ARROW1", "an Arrow file; save it as Parquet or CSV"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"version https://git-lfs", "the pointer of Git LFS to a file; fetch the file itself: git lfs pull"),
)
_SEPARATORS = (("\t", "tabs"), (";", "semicolons"), ("|", "bars"))


def other_type(start: bytes) -> str | None:
    """Return what a file is by its first bytes, and what to do with it; None if it may be a CSV file.

    >>> other_type(b"<!DOCTYPE html><html>"), other_type(b'{"a": 1}'), other_type(b"ImageID,LabelName")
    ('an HTML page, maybe that of an error or a login; fetch the table itself', 'JSON, not CSV', None)
    """
    for magic, what in _STARTS:
        if start.startswith(magic):
            return what
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg", b"<body")):
        return "an HTML page, maybe that of an error or a login; fetch the table itself"
    if text.startswith((b"{", b"[")):
        return "JSON, not CSV"
    if len(start) > 3 and not start[1] | start[3] and start[0] and start[2]:
        return "text in UTF-16; save it as UTF-8"
    return None


def other_separator(line: str) -> str | None:
    """Return what separates the columns of a line that has no second one by commas; None for nothing known.

    >>> other_separator("ImageID;LabelName"), other_separator("a b")
    ('semicolons', None)
    """
    return next((words for separator, words in _SEPARATORS if separator in line), None)
