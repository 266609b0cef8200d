"""Kept answers take no more memory than allowed, and none is ever another's."""

import gc
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.cache import ResponseCache
from causeway.contract import Array


def predictions(value: float, n: int = 1) -> Array:
    return np.full((n, 1), value, dtype=np.float32)


def kept(cache: ResponseCache, *keys: bytes) -> list[bool]:
    return [cache.get(key) is not None for key in keys]


def test_what_was_put_is_got_and_nothing_else() -> None:
    cache = ResponseCache(10_000)
    cache.put(b"a", predictions(0.5))
    np.testing.assert_array_equal(cache.get(b"a"), predictions(0.5))
    assert kept(cache, b"b", b"", b"a ", b"A", b"a\0") == [False] * 5


def test_rows_that_are_equal_only_as_numbers_are_different_keys() -> None:
    cache = ResponseCache(10_000)
    cache.put(np.array([[0.0]], np.float32).tobytes(), predictions(0.5))
    assert not any(kept(cache, np.array([[-0.0]], np.float32).tobytes()))


def test_the_same_rows_put_again_replace_what_was_kept_and_take_no_more() -> None:
    cache = ResponseCache(10_000)
    cache.put(b"a", predictions(0.5))
    before = cache.n_bytes
    cache.put(b"a", predictions(0.25))
    np.testing.assert_array_equal(cache.get(b"a"), predictions(0.25))
    assert (cache.n_bytes, len(cache)) == (before, 1)


def test_what_was_not_asked_for_longest_goes_first() -> None:
    probe = ResponseCache(10_000)
    probe.put(b"a", predictions(0))
    cache = ResponseCache(3 * probe.n_bytes)
    for key in (b"a", b"b", b"c"):
        cache.put(key, predictions(0))
    cache.get(b"a")
    cache.put(b"b", predictions(1))
    cache.put(b"d", predictions(0))
    assert kept(cache, b"a", b"b", b"c", b"d") == [True, True, False, True]


def test_what_alone_takes_too_much_is_not_kept_and_pushes_nothing_out() -> None:
    cache = ResponseCache(5_000)
    cache.put(b"a", predictions(0))
    cache.put(b"b", predictions(0, 2_000))
    cache.put(b"c" * 6_000, predictions(0))
    assert kept(cache, b"a", b"b", b"c" * 6_000) == [True, False, False]


def test_a_copy_is_kept_and_not_a_view_of_a_whole_batch() -> None:
    cache = ResponseCache(10_000)
    batch = predictions(0.5, 1000)
    cache.put(b"a", batch[3:4])
    batch[:] = 0
    got = cache.get(b"a")
    assert got is not None
    assert got.base is None or got.base.nbytes == got.nbytes
    np.testing.assert_array_equal(got, predictions(0.5))


def test_nobody_can_change_what_is_kept() -> None:
    cache = ResponseCache(10_000)
    cache.put(b"a", predictions(0.5))
    got = cache.get(b"a")
    assert got is not None
    with pytest.raises(ValueError, match="read-only"):
        got[:] = 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=80), st.integers(0, 8000))
def test_it_never_takes_more_than_allowed_and_answers_with_the_last_put(
    steps: list[tuple[int, bool]], limit: int
) -> None:
    cache, put = ResponseCache(limit), {}
    for number, (key, is_put) in enumerate(steps):
        name = bytes([key]) * (1 + key * 7)
        if is_put:
            cache.put(name, predictions(number, len(name)))
            put[name] = (number, len(name))
        got = cache.get(name)
        if got is not None:
            np.testing.assert_array_equal(got, predictions(*put[name]))
        assert 0 <= cache.n_bytes <= limit
        assert (cache.n_bytes == 0) == (len(cache) == 0)


@pytest.mark.parametrize("n_rows", [1, 100])
def test_the_memory_that_it_really_takes_is_within_the_limit(n_rows: int) -> None:
    limit = 2**21
    gc.collect()
    tracemalloc.start()
    cache = ResponseCache(limit)
    for i in range(5_000):
        cache.put(np.full((n_rows, 15), i, np.float32).tobytes(), predictions(i, n_rows))
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cache) > 100
    assert limit / 2 < taken <= limit
