"""SALMON's bonus for length and its price for texts that do not stop (related F2, F8)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.worlds import constant_scorer, credited, ids, make, walk


def env_of(reward: Any, **options: Any) -> Any:
    return make(reward=reward, scorer=constant_scorer(0.5), max_new_tokens=10, **options)


@pytest.mark.parametrize(("length", "paid"), [(1, 0.5), (5, 2.5), (8, 4.0), (9, 4.0), (10, 4.0)])
def test_the_bonus_grows_with_the_length_up_to_its_cap(length: int, paid: float) -> None:
    tokens = ids("x" * (length - 1), end=True)
    assert credited(env_of("length_bonus"), tokens).rewards.tolist() == pytest.approx([0.0] * (length - 1) + [0.5 + paid])


def test_its_weight_multiplier_cap_and_length_are_arguments() -> None:
    options = {"weight": -2.0, "multiplier": 3.0, "cap": 0.9, "max_tokens": 12}
    assert credited(env_of(("length_bonus", options)), ids("xx", end=True)).rewards[-1] == pytest.approx(0.5 - 2.0 * 0.75)
    assert credited(env_of(("length_bonus", options)), ids("xxxx", end=True)).rewards[-1] == pytest.approx(0.5 - 2.0 * 0.9)


def test_a_text_that_its_budget_cut_off_pays_and_one_that_stops_there_does_not() -> None:
    env = env_of("no_stop_penalty")
    assert credited(env, ids("x" * 10)).rewards.tolist() == [0.0] * 9 + [0.5 - 6.0]
    assert credited(env, ids("x" * 9, end=True)).rewards.tolist() == [0.0] * 9 + [0.5]


def test_together_they_are_the_formula_beside_the_principles() -> None:
    def model(episodes: Any, principles: Any) -> list[float]:
        return [7.0 for _ in episodes]

    for tokens in (ids("x" * 4, end=True), ids("x" * 10)):
        env = env_of([("principles", {"model": model, "principles": {"bees": "b"}}), "length_bonus", "no_stop_penalty"])
        no_stop, length = len(tokens) == 10, len(tokens)
        expected = 7.0 - 6.0 * no_stop + 5.0 * min(length / 10, 0.8)
        assert credited(env, tokens).rewards.sum() == pytest.approx(expected)


@pytest.mark.parametrize("reward", ["length_bonus", "no_stop_penalty"])
def test_an_unfinished_text_is_paid_nothing_so_both_are_causal(reward: str) -> None:
    env, tokens = env_of(reward), ids("x" * 10)
    whole = credited(env, tokens).rewards
    for t in range(10):
        assert credited(env, tokens[:t]).rewards.tolist() == whole[:t].tolist() == [0.0] * t
    for _ in range(2):  # a second text is paid like the first
        for payment in ("end", "online"):
            paid, _ = walk(env_of(reward, payment=payment), tokens)
            assert paid == whole.tolist()
        assert walk(env, tokens)[0] == whole.tolist()


def test_what_they_paid_is_logged() -> None:
    env = env_of(["length_bonus", "no_stop_penalty"])
    for tokens in (ids("xxxx", end=True), ids("x" * 10), ids("x")):
        credited(env, tokens)
    metrics = env.get_wrapper_attr("credit_metrics")()
    assert (metrics["credit/length_bonus"], metrics["credit/no_stop_penalty"]) == (np.mean([2.5, 4.0]), -3.0)
    assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}


def test_where_no_text_can_stop_before_its_budget_the_user_is_told() -> None:
    with pytest.warns(UserWarning, match="do not sample EOS before 28 tokens here .* nearly every text pays 6"):
        gym.make("textenv/Detox-v0", reward="no_stop_penalty")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (("length_bonus", {"weight": float("nan")}), "weight must be finite, got nan"),
        (("no_stop_penalty", {"weight": float("inf")}), "weight must be finite, got inf"),
        (("length_bonus", {"cap": 0.0}), r"multiplier, cap and max_tokens must be positive, got 1\.0, 0\.0, 10"),
        (("length_bonus", {"max_tokens": 0}), "must be positive"),
        (("no_stop_penalty", {"price": 1.0}), r"the reward no_stop_penalty takes no argument \['price'\]; its own are weight"),
    ],
)
def test_a_bad_argument_is_named(reward: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        env_of(reward)
