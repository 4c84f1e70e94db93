"""What a token weighs, by each aggregation."""

from __future__ import annotations

import pytest
import torch

from textenv.agents.ppo.aggregation import AGGREGATIONS, Aggregation


def total(mode: str, terms: list[list[float]], budget: int = 8) -> float:
    lengths = [len(text) for text in terms]
    flat = torch.tensor([x for text in terms for x in text], dtype=torch.float64)
    return Aggregation(mode, sum(lengths), len(lengths), budget)(flat, lengths).item()


def test_each_is_its_formula() -> None:
    terms = [[1.0, 2.0, 3.0], [5.0]]
    assert total("token", terms) == pytest.approx(11 / 4)
    assert total("sequence", terms) == pytest.approx((2.0 + 5.0) / 2)
    assert total("constant", terms) == pytest.approx(11 / 8 / 2)


def test_with_equal_lengths_they_differ_by_a_constant_alone() -> None:
    a, b = [[1.0, -2.0], [3.0, 0.5]], [[0.0, 7.0], [-1.0, 1.0]]
    ratios = [total(mode, a) / total(mode, b) for mode in AGGREGATIONS]
    assert ratios == pytest.approx([ratios[0]] * 3)
    assert total("token", a) == total("sequence", a)


def test_every_token_twice_changes_all_but_the_mean_of_a_text() -> None:
    once, twice = [[1.0, 2.0], [4.0]], [[1.0, 1.0, 2.0, 2.0], [4.0]]
    assert total("sequence", twice) == pytest.approx(total("sequence", once))
    for mode in ("token", "constant"):
        assert total(mode, twice) != pytest.approx(total(mode, once))


@pytest.mark.parametrize("mode", AGGREGATIONS)
def test_parts_of_a_minibatch_add_up_to_the_whole(mode: str) -> None:
    terms, lengths = torch.arange(10.0), [3, 1, 4, 2]
    whole = Aggregation(mode, 10, 4, 5)
    parts = whole(terms[:4], lengths[:2]) + whole(terms[4:], lengths[2:])
    assert parts.item() == pytest.approx(whole(terms, lengths).item())


def test_another_mode_is_named() -> None:
    with pytest.raises(ValueError, match="loss_aggregation must be one of token, sequence, constant, got 'mean'"):
        Aggregation("mean", 1, 1, 1)
