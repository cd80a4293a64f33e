"""A computed shuffle is a shuffle: every row once a pass, no two passes or seeds alike."""

from __future__ import annotations

import time

import numpy as np
import pytest

from deepgen.data.order import index_at, permute, random_bits, stream_key


@pytest.mark.parametrize("size", [*range(1, 40), 100, 255, 256, 257, 1000, 4999])
def test_a_pass_holds_every_row_once(size: int) -> None:
    for epoch in (0, 1, 7):
        rows = [index_at(epoch * size + place, size, seed=3) for place in range(size)]
        assert sorted(rows) == list(range(size))


def test_passes_run_into_each_other_without_drop_or_repeat() -> None:
    stream = [index_at(position, 7, seed=0) for position in range(35)]
    assert all(sorted(stream[start : start + 7]) == list(range(7)) for start in range(0, 35, 7))


def test_passes_seeds_and_streams_are_shuffled_differently() -> None:
    def one_pass(seed: int = 0, epoch: int = 0, stream: str = "") -> tuple[int, ...]:
        return tuple(permute(place, 50, stream_key(seed, epoch, stream)) for place in range(50))

    orders = {one_pass(seed, epoch, stream) for seed in range(4) for epoch in range(4) for stream in "ab"}
    assert len(orders) == 32


def test_every_row_is_as_likely_at_every_place() -> None:
    counts = np.zeros((6, 6))
    for epoch in range(3000):
        for place in range(6):
            counts[place, index_at(epoch * 6 + place, 6, seed=1)] += 1
    # 500 expected each; a standard deviation is 20
    assert np.abs(counts - 500).max() < 100


def test_neighbours_in_the_file_are_not_neighbours_in_the_stream() -> None:
    rows = np.array([index_at(position, 10_000, seed=0) for position in range(10_000)])
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(rows, np.arange(10_000))[0, 1]) < 0.05


def test_any_place_of_a_huge_stream_is_found_at_once() -> None:
    started = time.perf_counter()
    rows = {index_at(10**15 + place, 10**9 + 7, seed=0) for place in range(100)}
    assert len(rows) == 100
    assert time.perf_counter() - started < 0.5


def test_random_bits_are_spread_evenly() -> None:
    values = np.array([random_bits(5, counter) / 2**64 for counter in range(4000)])
    assert abs(values.mean() - 0.5) < 0.02
    assert abs(values.std() - 12**-0.5) < 0.02


@pytest.mark.parametrize(("position", "size"), [(0, 0), (-1, 5)])
def test_an_empty_stream_or_a_place_before_its_begin_is_refused(position: int, size: int) -> None:
    with pytest.raises(ValueError, match="expected size >= 1"):
        index_at(position, size, seed=0)


def test_a_place_outside_the_permutation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        permute(5, 5, key=0)
