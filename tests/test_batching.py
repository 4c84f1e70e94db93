"""Texts of like length together: nothing lost, nothing twice, no batch too large."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.batching import by_length

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
