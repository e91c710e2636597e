"""Look for a body that the image check takes for what it is not. By hand, not by pytest:

    pip install atheris
    PYTHONPATH=tests python tests/fuzz/fuzz_image_check.py [-max_total_time=600] [CORPUS_FOLDER]

It stops at the first input that breaks a promise and leaves it as crash-...; the same command with that
file as its argument repeats it. Arguments are those of libFuzzer.
"""

import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["oid_async.store.image_check", "oid_async.store.file_bytes"]):
    from oid_async.store.file_bytes import FileBytes
    from oid_async.store.image_check import Expected, has_size, is_complete, md5_base64, read_header, refuse

from support.fuzzing import fuzz
from support.hostile_jpegs import EOI, HEADLESS, REFUSED, SOI, TOO_LARGE, frame, scan, segment
from support.saved import picture

from oid_async.dataset.decoding import jpeg_problem, open_jpeg
from oid_async.report import FINAL_KINDS, PASSING_KINDS, kind_of

_PARTS = (SOI, EOI, b"\xff", b"\xff\xff", b"\xff\0", frame(64, 48), frame(0, 0), scan(), segment(0xE1, SOI + EOI))
# A check of some kilobytes takes microseconds; more than this is a loop that grows with the square of the body.
_MOST_S = 0.5
_MOST_DECODED = 100_000_000


def ruin(body: bytes, most: int, seed: int) -> bytes:
    """Mutate a JPEG: sometimes with what headers are made of, else as libFuzzer does."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        mutated: bytes = atheris.Mutate(body, most)
        return mutated
    at = chance.randint(0, len(body))
    return (body[:at] + chance.choice(_PARTS) * chance.choice((1, 1, 1, 50)) + body[at + chance.randrange(9) :])[:most]


def main() -> None:
    # libFuzzer ends the process without a word to Python: the folders stay.
    folder, seeds = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    path = folder / "body.jpg"
    for number, body in enumerate((picture(64, 48), picture(9, 8, 6), *HEADLESS.values(), *REFUSED.values())):
        (seeds / str(number)).write_bytes(body)
    (seeds / "large").write_bytes(TOO_LARGE["all that a JPEG can be"])

    def check(body: bytes) -> None:
        """Never an exception; the same verdict in memory and on disk; what passes has a size, a scan, its bounds."""
        path.write_bytes(body)
        began = time.monotonic()
        header = read_header(body)
        verdict = refuse(body, header, md5_base64(body), Expected())
        assert time.monotonic() - began < _MOST_S
        with FileBytes(path) as file:
            assert read_header(file) == header
            assert is_complete(file, header) == is_complete(body, header)
            assert refuse(file, header, md5_base64(file), Expected()) == verdict
        assert verdict is None or kind_of(verdict) in {**FINAL_KINDS, **PASSING_KINDS}
        if verdict is None:
            assert has_size(header.width, header.height)
            assert header.scan_at is not None
            assert header.frame_at is not None
            assert body[header.scan_at : header.scan_at + 2] == b"\xff\xda"
            assert jpeg_problem(str(path)) in (None, "coded in a way that Pillow does not read")
        else:
            assert body[:3] != b"\xff\xd8\xff" or verdict in ("not_image", "truncated")
        # Whatever Pillow raises, a picture that is opened stays within its bounds.
        size = (0, 0)
        with suppress(Exception), open_jpeg(path, (8, 8)) as image:
            size = image.size
        assert size[0] * size[1] <= _MOST_DECODED, size

    fuzz(check, seeds, "-max_len=8000", mutator=ruin)


if __name__ == "__main__":
    main()
