"""DAPO's soft length penalty (finegrained D7.7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.worlds import constant_scorer, credited, ids, make, walk
from textenv.wrappers import LengthPenalty
from textenv.wrappers.length import soft_overlong_penalty


def test_d7_7_zero_up_to_the_buffer_minus_one_at_the_limit_and_beyond_linear_and_continuous_between() -> None:
    limit, buffer = 20480, 4096
    assert soft_overlong_penalty(limit - buffer, limit, buffer) == 0
    assert soft_overlong_penalty(1, limit, buffer) == 0
    assert soft_overlong_penalty(limit, limit, buffer) == -1
    assert soft_overlong_penalty(limit + 5000, limit, buffer) == -1
    between = [soft_overlong_penalty(n, limit, buffer) for n in range(limit - buffer, limit + 1)]
    assert np.diff(between) == pytest.approx(-1 / buffer)


def penalty(**options: Any) -> Any:
    return make(reward=("length_penalty", options), scorer=constant_scorer(0.5), max_new_tokens=10)


@pytest.mark.parametrize(("length", "reward"), [(2, 0.5), (8, 0.5), (9, 0.0), (10, -0.5)])
def test_by_default_the_last_fifth_of_the_budget_costs(length: int, reward: float) -> None:
    tokens = ids("x" * (length - 1), end=True)
    assert credited(penalty(), tokens).rewards.tolist() == [0.0] * (length - 1) + [reward]


def test_limit_buffer_and_weight_are_arguments() -> None:
    assert credited(penalty(max_tokens=4, buffer=4, weight=2.0), ids("xx", end=True)).rewards[-1] == 0.5 - 1.5
    assert credited(penalty(max_tokens=4), ids("xxxx", end=True)).rewards[-1] == -0.5


def test_it_composes_with_another_reward_and_an_unfinished_text_costs_nothing() -> None:
    env = make(reward=[("critic_span", {"positive": 0.25}), "length_penalty"], scorer=constant_scorer(0.0), max_new_tokens=4)
    assert credited(env, ids("aaxx")).rewards.tolist() == [0.25, 0.25, 0, -1]
    assert credited(env, ids("aax")).rewards.tolist() == [0.25, 0.25, 0]


def test_a_token_that_does_not_end_the_text_is_paid_nothing_so_the_penalty_is_causal() -> None:
    rewards, _ = walk(penalty(), ids("x" * 10))
    assert rewards == [0.0] * 9 + [-0.5]
    env, tokens = penalty(), ids("x" * 9, end=True)
    whole = credited(env, tokens).rewards
    for t in range(1, 10):
        assert credited(env, tokens[:t]).rewards.tolist() == whole[:t].tolist()


def test_where_every_text_has_its_full_length_the_user_is_told() -> None:
    with pytest.warns(UserWarning, match="every text has 8 tokens here .* so the length penalty is -1 for all"):
        make(reward="length_penalty", max_new_tokens=8, min_new_tokens=8)


@pytest.mark.parametrize("options", [{"buffer": 0}, {"buffer": 11}, {"max_tokens": 5, "buffer": 6}, {"max_tokens": 0}])
def test_a_buffer_that_does_not_fit_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"the buffer must lie in 1\.\.max_tokens="):
        penalty(**options)
    with pytest.raises(ValueError, match="weight must be finite"):
        LengthPenalty(make(), weight=float("inf"))
