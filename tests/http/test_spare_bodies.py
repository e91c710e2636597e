"""Memory that is used again: of the right size, by one body at a time, and not without bounds."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from oid_async.http.spare_bodies import SpareBodies


@given(st.lists(st.one_of(st.integers(1, 3_000_000), st.none()), max_size=60))
def test_a_body_has_its_size_and_its_memory_for_itself(sizes: list[int | None]) -> None:
    """Whatever is taken and given back: sizes are exact, no two bodies share memory, and some MB are spare at most."""
    spare = SpareBodies()
    taken: list[bytearray] = []
    for number, size in enumerate(sizes):
        if size is None:
            if taken:
                spare.give(taken.pop(0))
            continue
        body = spare.take(size)
        assert len(body) == size
        assert all(body is not other for other in taken)
        body[0] = body[-1] = number % 256
        taken.append(body)
    assert sum(body.__sizeof__() for body in spare._spare) <= 16 * (1 << 20) * 1.2


def test_memory_is_used_again_by_bodies_of_about_the_size() -> None:
    """Bodies of 270 to 330 KB need the memory of one, and those that are no bytearray are let go."""
    spare = SpareBodies()
    first = spare.take(300_000)
    spare.give(b"of another kind")
    spare.give(first)
    for size in (270_000, 325_000, 300_001, 200_000):
        body = spare.take(size)
        assert body is first
        assert len(body) == size
        spare.give(body)
    assert spare.take(90_000) is not first
    assert spare.take(900_000) is not first


def test_a_thread_that_gives_a_body_back_does_not_change_which_one_is_taken() -> None:
    """While one is chosen another thread gives more back than are kept: the chosen one is taken all the same."""
    spare = SpareBodies()
    began = threading.Event()

    def give() -> None:
        began.set()
        spare.give(bytearray(100))

    giving = threading.Thread(target=give)

    class Chosen(bytearray):
        def __sizeof__(self) -> int:
            giving.start()
            began.wait()
            giving.join(0.01)
            return super().__sizeof__()

    chosen = Chosen(300_000)
    spare.give(bytearray(100))
    spare.give(chosen)
    for _ in range(14):
        spare.give(bytearray(100))
    assert spare.take(299_999) is chosen
    giving.join()
