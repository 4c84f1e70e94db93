"""GAE against its closed forms and against a loop, over texts of unequal length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textenv.agents.ppo.advantages import gae, scaled, whiten
from textenv.agents.ppo.kl import KLCoefficient

NUMBER = st.floats(-10, 10)


@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), gamma=st.floats(0, 1), lam=st.floats(0, 1), data=st.data())
def test_the_vectorised_sum_equals_the_loop(lengths: list[int], gamma: float, lam: float, data: Any) -> None:
    n = sum(lengths)
    rewards, values = (torch.tensor(data.draw(st.lists(NUMBER, min_size=n, max_size=n)), dtype=torch.float64) for _ in range(2))
    advantages, returns = gae(rewards, values, lengths, gamma=gamma, gae_lambda=lam)
    expected, at = [], 0
    for length in lengths:
        text: list[float] = []
        following = next_value = 0.0
        for t in reversed(range(at, at + length)):
            delta = float(rewards[t]) + gamma * next_value - float(values[t])
            following = delta + gamma * lam * following
            next_value = float(values[t])
            text.insert(0, following)
        expected += text
        at += length
    assert torch.allclose(advantages, torch.tensor(expected, dtype=torch.float64))
    assert torch.allclose(returns, advantages + values)


def test_lambda_one_gives_discounted_returns_less_the_value() -> None:
    rewards, values = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.25, 1.0])
    advantages, returns = gae(rewards, values, [3], gamma=0.5, gae_lambda=1.0)
    assert returns.tolist() == [3.0, 4.0, 4.0]
    assert advantages.tolist() == [2.5, 3.75, 3.0]


def test_lambda_zero_gives_one_step_errors() -> None:
    rewards, values = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.25, 1.0])
    assert gae(rewards, values, [2, 1], gamma=0.5, gae_lambda=0.0)[0].tolist() == [0.625, 1.75, 3.0]


def test_nothing_flows_from_one_text_into_another() -> None:
    rewards = torch.tensor([0.0, 0.0, 5.0])
    assert gae(rewards, torch.zeros(3), [2, 1], gae_lambda=1.0)[0].tolist() == [0.0, 0.0, 5.0]


def test_a_constant_reward_with_a_perfect_value_has_no_advantage() -> None:
    n = 6
    values = torch.arange(n, 0, -1).float()
    assert gae(torch.ones(n), values, [n])[0].tolist() == [0.0] * n


@given(values=st.lists(NUMBER, min_size=2, max_size=20).filter(lambda x: max(x) - min(x) > 1e-3))
def test_whitened_advantages_have_mean_zero_and_deviation_one(values: list[float]) -> None:
    out = whiten(torch.tensor(values, dtype=torch.float64))
    assert out.mean().item() == pytest.approx(0, abs=1e-6)
    assert out.std().item() == pytest.approx(1, abs=1e-3)


def test_equal_advantages_become_zero_and_a_single_one_stays() -> None:
    assert whiten(torch.full((3,), 2.0)).tolist() == [0.0] * 3
    assert whiten(torch.tensor([2.0])).tolist() == [2.0]


# --- The coefficient of the KL penalty ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "deviation"), [("std", 1.0), ("sqrt_std", 3.0)])
def test_scaled_rewards_of_deviation_nine_have_one_and_three_as_released(by: Any, deviation: float) -> None:
    rewards = torch.randn(200, generator=torch.Generator().manual_seed(0))
    rewards = 9.0 * (rewards - rewards.mean()) / rewards.std() + 5.0
    found = scaled(rewards, by)
    assert found.std().item() == pytest.approx(deviation, abs=1e-4)
    assert (found.mean() / found.std()).item() == pytest.approx(5 / 9, abs=1e-4), "the mean is scaled, and not taken out"


def test_a_reward_at_the_padded_end_counts_as_one_at_the_last_token_where_nothing_is_discounted() -> None:
    rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.3, -0.2, 0.5])
    padded = gae(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]), torch.tensor([0.3, -0.2, 0.5, 0.0, 0.0]), [5], gae_lambda=1.0)[0]
    torch.testing.assert_close(gae(rewards, values, [3], gae_lambda=1.0)[0], padded[:3])


def test_a_fixed_coefficient_stays() -> None:
    beta = KLCoefficient(0.1)
    beta.update(100.0, 1000)
    assert beta.value == 0.1


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (6.6, 1.001), (60.0, 1.002), (0.0, 0.998)])
def test_an_adaptive_coefficient_follows_the_clipped_error(kl: float, factor: float) -> None:
    beta = KLCoefficient(0.5, target=6.0, horizon=1000)
    beta.update(kl, 10)
    assert beta.value == pytest.approx(0.5 * factor)


@pytest.mark.parametrize(
    ("arguments", "message"), [((-0.1, None), "kl_coef must be at least 0"), ((0.1, 0.0), "kl_target must be above 0")]
)
def test_an_impossible_coefficient_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KLCoefficient(arguments[0], target=arguments[1])


def test_the_rounding_of_recorded_numbers_is_not_blown_up_to_an_advantage() -> None:
    assert whiten(torch.tensor([1e-7, -1e-7, 0.0])).abs().max() < 0.02
