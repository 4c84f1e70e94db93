"""Texts of like length together: nothing lost, nothing twice, no batch too large, no cut that would cost less."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.batching import by_length

SOME = [int(n) for n in np.random.default_rng(0).integers(1, 40, 9)]
LENGTHS = st.lists(st.integers(0, 50), max_size=40)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 120))
def test_every_text_is_in_one_batch(lengths: list[int], batch_size: int, tokens: int) -> None:
    assert sorted(i for batch in by_length(lengths, batch_size, tokens) for i in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 9), st.integers(1, 120))
def test_no_batch_exceeds_its_bounds_but_a_text_alone(lengths: list[int], batch_size: int, tokens: int) -> None:
    for batch in by_length(lengths, batch_size, tokens):
        assert len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens


@given(LENGTHS, st.integers(1, 9), st.integers(1, 120))
def test_no_text_is_longer_than_one_of_an_earlier_batch(lengths: list[int], batch_size: int, tokens: int) -> None:
    flat = [lengths[i] for batch in by_length(lengths, batch_size, tokens) for i in batch]
    assert flat == sorted(flat, reverse=True)


@pytest.mark.parametrize(("batch_size", "tokens"), [(0, 8), (8, 0)])
def test_a_batch_that_holds_nothing_is_refused(batch_size: int, tokens: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size={batch_size} and tokens={tokens}"):
        by_length([1], batch_size, tokens)


def cost(parts: list[list[int]], overhead: int) -> int:
    return sum(len(part) * max(SOME[i] for i in part) + overhead for part in parts)


def cuts(limit: int) -> Any:
    """Every way to cut the sorted texts into passes of at most so many rows."""
    order = sorted(range(len(SOME)), key=SOME.__getitem__)
    for n in range(len(order)):
        for ends in itertools.combinations(range(1, len(order)), n):
            parts = [order[a:b] for a, b in itertools.pairwise([0, *ends, len(order)])]
            if max(map(len, parts)) <= limit:
                yield parts


@pytest.mark.parametrize("overhead", [0, 10, 100])
@pytest.mark.parametrize("rows", [3, 9])
def test_no_cut_costs_less(rows: int, overhead: int) -> None:
    found = by_length(SOME, rows, overhead=overhead)
    assert cost(found, overhead) == min(cost(parts, overhead) for parts in cuts(rows))


def test_texts_of_one_length_stay_together() -> None:
    assert by_length([7] * 5, 8) == [[0, 1, 2, 3, 4]]
