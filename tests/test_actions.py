"""The k likeliest tokens of a reference as actions, and the masks that MaskablePPO asks for."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from tests import worlds
from tests.worlds import EOS, VOCABULARY, make
from textenv.actions import TopKActions
from textenv.agents.sb3.vocabulary import VecTopKActions
from textenv.states import read_states

PROMPTS = ["p", "a longer one", "mid "]


def ranked(model: Any, observation: Any, width: int) -> list[int]:
    """All ids of a state, the likeliest first."""
    row = observation[:width][observation[:width] >= 0]
    with torch.no_grad():
        order: list[int] = read_states(model, [row]).logits[0].argsort(descending=True).tolist()
    return order


def offer(k: int = 5, model: Any = None, *, observe: bool = True, **options: Any) -> Any:
    model = worlds.llama() if model is None else model
    return TopKActions(make(**{"prompts": PROMPTS, "max_new_tokens": 6, **options}), k, model, observe=observe)


def test_an_action_is_the_rank_of_a_token_under_the_reference() -> None:
    model, random = worlds.llama(), np.random.default_rng(0)
    env = offer(model=model)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            order = ranked(model, observation, 22)
            expected = order[:5] if EOS in order[:5] else [*order[:4], EOS]
            assert env.candidates.tolist() == expected
            action = int(random.integers(5))
            observation, _, ended, _, info = env.step(action)
            assert info.get("text_episode", None) is None or info["text_episode"].tokens[-1] == expected[action]


def test_a_text_can_always_end() -> None:
    env = offer(2)
    for seed in range(5):
        env.reset(seed=seed)
        assert EOS in env.candidates
        *_, ended, _, info = env.step(int(np.flatnonzero(env.candidates == EOS)[0]))
        assert (ended, info["text_episode"].finish_reason) == (True, "stop")


def test_before_the_least_length_the_end_is_not_offered() -> None:
    env = offer(5, min_new_tokens=2)
    env.reset(seed=0)
    seen = [EOS in env.candidates]
    for _ in range(2):
        env.step(0)
        seen.append(EOS in env.candidates)
    assert seen == [False, False, True]


def test_with_all_tokens_offered_the_end_is_masked_until_the_least_length() -> None:
    env = offer(VOCABULARY, min_new_tokens=1)
    env.reset(seed=0)
    assert env.action_masks().tolist() == [token != EOS for token in env.candidates.tolist()]
    env.step(0)
    assert env.action_masks().all()


def test_the_observation_names_the_tokens_behind_the_text() -> None:
    env = offer()
    observation, _ = env.reset(seed=0)
    assert observation[-5:].tolist() == env.candidates.tolist()
    assert observation in env.observation_space
    plain = offer(observe=False)
    without, _ = plain.reset(seed=0)
    assert without.tolist() == observation[:-5].tolist()
    assert plain.observation_space.shape == (22,)


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_it_is_a_gymnasium_environment() -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(offer(), skip_render_check=True)


def test_its_specification_makes_it_again_and_copies_no_model() -> None:
    model = worlds.llama()
    env = offer(model=model)
    again = gym.make(env.spec)
    assert again.get_wrapper_attr("_top").cache.model is model
    assert again.reset(seed=0)[0].tolist() == env.reset(seed=0)[0].tolist()


def test_rewards_and_credit_are_those_of_the_ids() -> None:
    env = offer(reward="critic_span", payment="online", pay_every="token")
    env.reset(seed=1)
    paid, ended = 0.0, False
    while not ended:
        _, reward, ended, _, info = env.step(0)
        paid += float(reward)
    assert paid == pytest.approx(info["text_episode"].rewards.sum())


def test_a_rank_beyond_k_is_refused() -> None:
    env = offer()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 5 is out of range: it is a rank in 0\.\.4"):
        env.step(5)


@pytest.mark.parametrize("k", [1, VOCABULARY + 1])
def test_a_bad_k_is_named(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k must lie in 2\.\.{VOCABULARY} .*, got {k}"):
        offer(k)


def test_a_reference_with_other_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="pass reference= a model that shares the policy's tokenizer"):
        TopKActions(make(), 4, "textenv/tiny")


def test_an_encoder_decoder_is_no_reference() -> None:
    with pytest.raises(ValueError, match="is an encoder–decoder; the likeliest tokens need a causal model"):
        offer(model=worlds.t5())


def test_environments_side_by_side_offer_what_each_offers_alone() -> None:
    model, random = worlds.llama(), np.random.default_rng(0)
    arguments: dict[str, Any] = {"prompts": PROMPTS, "max_new_tokens": 4}
    together = VecTopKActions(make_vec_env(lambda: make(**arguments), 3, seed=5), 6, model)
    apart = make_vec_env(lambda: TopKActions(make(**arguments), 6, model), 3, seed=5)
    assert together.action_space == apart.action_space
    assert together.observation_space == apart.observation_space
    one, other = together.reset(), apart.reset()
    for _ in range(15):
        assert np.array_equal(one, other)
        actions = random.integers(6, size=3)
        one, *first = together.step(actions)
        other, *second = apart.step(actions)
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])
        for a, b in zip(first[2], second[2], strict=True):
            assert np.array_equal(a.get("terminal_observation", 0), b.get("terminal_observation", 0))


def test_side_by_side_a_rank_beyond_k_is_refused() -> None:
    envs = VecTopKActions(make_vec_env(make, 2, seed=0), 3, worlds.llama())
    envs.reset()
    with pytest.raises(ValueError, match=r"actions \[0, 3\] are out of range: they are ranks in 0\.\.2"):
        envs.step(np.array([0, 3]))


# --- Masks -------------------------------------------------------------------------------------------------------------


def test_masks_forbid_the_end_before_the_least_length_and_nothing_else() -> None:
    env = make(min_new_tokens=2, max_new_tokens=4)
    env.reset(seed=0)
    masks: Any = env.get_wrapper_attr("action_masks")
    assert masks().dtype == np.bool_
    assert np.flatnonzero(~masks()).tolist() == [EOS]
    env.step(np.int64(97))
    assert np.flatnonzero(~masks()).tolist() == [EOS]
    env.step(np.int64(97))
    assert masks().all()
    assert masks().shape == (VOCABULARY,)


def through_wrappers() -> gym.Env[Any, Any]:
    return make(reward="critic_span", min_new_tokens=1)


@pytest.mark.slow
def test_masks_come_from_other_processes_too() -> None:
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

    envs = make_vec_env(through_wrappers, 2, seed=0, vec_env_cls=SubprocVecEnv)
    try:
        assert is_masking_supported(envs)
        envs.reset()
        assert get_action_masks(envs).sum(1).tolist() == [VOCABULARY - 1] * 2
        offered = VecTopKActions(envs, 4, worlds.llama())
        offered.reset()
        assert get_action_masks(offered).shape == (2, 4)
        envs.step(np.array([97, 97]))
        assert get_action_masks(envs).all()
    finally:
        envs.close()
