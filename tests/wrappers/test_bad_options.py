"""Every reward by name: an option that it does not have, or that cannot be meant, gets a message with the value and the way out."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.worlds import constant_scorer, make
from textenv.import_strings import load_object
from textenv.registration import REWARDS
from textenv.reward_arguments import check_arguments
from textenv.wrappers import CriticReward, SelfCritiqueReward

DENSE = {name: target for name, target in REWARDS.items() if target}


@pytest.mark.parametrize("name", DENSE)
def test_an_option_that_a_reward_does_not_have_is_refused_with_those_it_has(name: str) -> None:
    with pytest.raises(ValueError, match=r"(takes no argument|has no arguments) \['nonsense'\].* (own are|beside) \w"):
        make(reward=(name, {"nonsense": 1}), prompts=["p"])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (("critic_span", {"threshold": "high"}), r"the reward critic_span takes threshold=float \| None, got 'high'"),
        (("critic_span", {"seed": 1.5}), "takes seed=int, got 1.5"),
        (("critic_span", {"per_span_total": 1}), "takes per_span_total=bool, got 1"),
        (("self_critique", {"negative": "x"}), r"takes negative=float \| None, got 'x'"),
        (("self_critique", {"max_new_tokens": 0}), "max_new_tokens must be at least 1, got 0"),
        (("redistributed", {"mix": None}), "takes mix=float, got None"),
        (("uniform", {"mix": True}), "takes mix=float, got True"),
        (("hierarchical", {"gate": "x"}), r"takes gate=float \| None, got 'x'"),
        (("length_bonus", {"max_tokens": 2.5}), r"takes max_tokens=int \| None, got 2.5"),
    ],
)
def test_a_number_that_is_none_is_named(reward: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(reward=reward)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (("sparse", {"x": 1}), r"the reward sparse takes no argument \['x'\]; it is the score on the last token"),
        (("self_critique", {"threshold": float("nan"), "policy": "textenv/tiny"}), "threshold must be a score"),
        (("principles", {"seed": -1}), "seed must not be negative, got -1"),
        (("hierarchical", {"short_tokens": -1}), r"short_tokens must not be negative \(None: no text is too short\), got -1"),
        ({"critic_span": {}}, r"unknown reward {'critic_span': {}}; .*; with arguments, a pair of one of these and a dictionary"),
        ([["uniform", "delta"]], r"unknown reward \['uniform', 'delta'\]"),
        ([[["uniform"], {}]], r"unknown reward \['uniform'\]"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_way_out(reward: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make("textenv/Detox-v0", reward=reward)


@pytest.mark.parametrize("reward", [["uniform", {"mix": 0.5}], [["uniform", {"mix": 0.5}]], [["uniform", {"mix": 0.5}], "sparse"]])
def test_a_pair_may_be_a_list_as_json_has_them(reward: Any) -> None:
    assert make(reward=reward).get_wrapper_attr("mix") == 0.5


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (("redistributed", {"reward_model": 3}), "a scorer is a callable, a directory or a model name, got 3"),
        (("attention", {"reward_model": 3}), "a scorer is a callable, a directory or a model name, got 3"),
        (("attention", {"source": "generator", "generator": 3}), "policy must be a name, a directory, a transformers model"),
        (("contrastive", {"model": 3}), "model= must be a name, a directory or a transformers model, got 3"),
        (("implicit", {"model": 3}), "model= must be a name, a directory or a transformers model, got 3"),
    ],
)
def test_a_model_that_is_none_is_named(reward: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        gym.make("textenv/Detox-v0", reward=reward)


def test_numbers_of_numpy_and_none_where_it_is_allowed_are_numbers() -> None:
    check_arguments(CriticReward, {"positive": np.float32(0.5), "negative": np.int64(-1), "threshold": None}, "critic_span")
    check_arguments(SelfCritiqueReward, {"per_span_total": np.True_, "positive": 1}, "self_critique")
    check_arguments(lambda env, weight: env, {"weight": "heavy"}, "a function that tells no types")


def test_a_range_of_scores_may_be_a_list_as_json_has_them() -> None:
    critic = gym.make("textenv/Detox-v0", reward=("critic_span", {"show_score": [0, 1]})).get_wrapper_attr("critic")
    assert critic.form.score_range == (0, 1)


@pytest.mark.parametrize("name", [name for name in DENSE if name not in ("self_critique", "contrastive", "implicit", "attention")])
def test_without_options_every_name_that_applies_makes_its_wrapper(name: str) -> None:
    env: Any = make(
        reward=name, payment="end", scorer=constant_scorer(0.5) if name not in ("hierarchical", "weighted_sum") else None
    )
    assert isinstance(env, gym.Wrapper)
    stack = []
    while isinstance(env, gym.Wrapper):
        stack.append(type(env))
        env = env.env
    assert load_object(str(DENSE[name])) in stack
