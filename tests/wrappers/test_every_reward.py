"""The contract, over every reward by name in every environment, and over every composition of two."""

from __future__ import annotations

import itertools
import warnings
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.worlds import walk
from textenv import ENVIRONMENTS, REWARDS
from textenv.episode import Prompt
from textenv.import_strings import load_object
from textenv.reward import NotApplicable, RewardWrapper
from textenv.wrappers import UniformReward

# A tiny critic does not always keep to the form, least of all about noise; that is counted, and here not the point.
pytestmark = pytest.mark.filterwarnings("ignore:critic .* could not be parsed:RuntimeWarning")

DENSE = [name for name in REWARDS if name != "sparse"]
TAKERS = [name for name in DENSE if load_object(str(REWARDS[name])).takes_score]
INAPPLICABLE = {  # environment → rewards that say so; every other pair must work
    "textenv/CountLetter-v0": {"self_critique", "contrastive", "implicit", "attention"},
}


@cache
def made(environment: str, reward: Any, **options: Any) -> Any:
    """An environment, kept: its models load once."""
    rewards = list(reward) if isinstance(reward, tuple) else reward
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return gym.make(environment, reward=rewards, **options)


@cache
def texts(environment: str) -> list[tuple[Prompt, list[int]]]:
    """Prompts and ids: a sentence of the task's own, its beginning, noise, and nothing but EOS."""
    env = made(environment, "sparse")
    rule, tokenizer = env.get_wrapper_attr("action_rule"), env.get_wrapper_attr("tokenizer")
    prompts = list(env.get_wrapper_attr("task").prompts) * 3
    own = (prompts[0].references or (" You are a weasel. The plot was not very good, but the cast was great.",))[0]
    ids = tokenizer(own, add_special_tokens=False)["input_ids"][: rule.max_new_tokens - 1]
    noise = np.random.default_rng(0).integers(0, rule.vocabulary, rule.max_new_tokens)
    noise[noise == rule.eos_token_id] = ids[0]
    end = [rule.eos_token_id]
    cut = ids[: len(ids) // 2]
    return [(prompts[0], [*ids, *end]), (prompts[1], [*cut, *end]), (prompts[2], noise.tolist()), (prompts[0], end)]


def env_of(environment: str, reward: Any, **options: Any) -> Any:
    names = reward if isinstance(reward, tuple) else (reward,)
    if set(names) & INAPPLICABLE.get(environment, set()):
        with pytest.raises(NotApplicable, match=r"\w"):
            made(environment, reward, **options)
        return None
    return made(environment, reward, **options)


def credited(env: Any, prompt: Prompt, ids: list[int]) -> Any:
    return env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(prompt, ids)])[0]


def wrapper(env: Any) -> RewardWrapper:
    while not isinstance(env, RewardWrapper) or type(env).__name__ == "OnlineReward":
        env = env.env
    return env


every = pytest.mark.parametrize(("environment", "reward"), list(itertools.product(ENVIRONMENTS, DENSE)))


@pytest.mark.slow
@every
def test_stepping_delivers_the_credit_of_the_batch_and_pays_it(environment: str, reward: str) -> None:
    for payment in ("end", "online"):
        env = env_of(environment, reward, payment=payment)
        if env is None:
            return
        for prompt, ids in texts(environment):
            paid, stepped = walk(env, ids, options={"prompt": prompt})
            assert stepped is not None
            assert stepped.rewards.tobytes() == credited(env, prompt, ids).rewards.tobytes()
            assert sum(paid) == pytest.approx(stepped.rewards.sum(), abs=1e-6)


@pytest.mark.slow
@every
def test_info_stays_empty_until_the_credited_episode_on_the_last_step(environment: str, reward: str) -> None:
    for payment in ("end", "online"):
        env = env_of(environment, reward, payment=payment)
        if env is None:
            return
        prompt, ids = texts(environment)[1]
        env.reset(options={"prompt": prompt})
        steps = [env.step(token) for token in ids]
        assert [info for *_, info in steps[:-1]] == [{}] * (len(ids) - 1)
        assert list(steps[-1][4]) == ["text_episode"]
        assert steps[-1][4]["text_episode"].rewards.tobytes() == credited(env, prompt, ids).rewards.tobytes()


@pytest.mark.slow
@every
def test_a_second_text_is_paid_like_the_first_and_an_abandoned_one_leaves_no_debt(environment: str, reward: str) -> None:
    for payment in ("end", "online"):
        env = env_of(environment, reward, payment=payment)
        if env is None:
            return
        (other, begun), (prompt, ids) = texts(environment)[:2]
        first, _ = walk(env, ids, options={"prompt": prompt})
        assert walk(env, ids, options={"prompt": prompt})[0] == first
        walk(env, begun[: len(begun) // 2], options={"prompt": other})  # ... and no further
        assert walk(env, ids, options={"prompt": prompt})[0] == first


@pytest.mark.slow
@every
def test_the_score_stays_the_tasks_own(environment: str, reward: str) -> None:
    env = env_of(environment, reward, payment="end")
    if env is not None:
        for prompt, ids in texts(environment):
            assert credited(env, prompt, ids).score == credited(made(environment, "sparse"), prompt, ids).score


@pytest.mark.slow
@every
def test_a_reward_that_says_it_keeps_the_return_does(environment: str, reward: str) -> None:
    env = env_of(environment, reward, payment="end")
    if env is not None and wrapper(env).keeps_return:
        for prompt, ids in texts(environment):
            plain = credited(made(environment, "sparse"), prompt, ids)
            assert credited(env, prompt, ids).rewards.sum() == pytest.approx(plain.rewards.sum(), abs=1e-4)


@pytest.mark.slow
@every
def test_a_reward_that_says_it_is_causal_does_not_look_ahead(environment: str, reward: str) -> None:
    env = env_of(environment, reward, payment="end")
    if env is not None and wrapper(env).causal:
        for prompt, ids in texts(environment):
            whole = credited(env, prompt, ids).rewards
            for t in {1, len(ids) // 2} - {len(ids), 0}:
                so_far = credited(env, prompt, ids[:t]).rewards
                np.testing.assert_allclose(so_far, whole[:t], atol=1e-5)


@pytest.mark.slow
@every
def test_a_batch_is_credited_as_its_episodes_one_by_one(environment: str, reward: str) -> None:
    env = env_of(environment, reward, payment="end")
    if env is not None:
        make = env.get_wrapper_attr("episode")
        prompt, ids = texts(environment)[0]
        episodes = [*(make(prompt, ids) for prompt, ids in texts(environment)), make(prompt, ids[:3])]
        credit = env.get_wrapper_attr("credit")
        for together, episode in zip(credit(episodes), episodes, strict=True):
            np.testing.assert_allclose(together.rewards, credit([episode])[0].rewards, atol=1e-4)  # padding rounds


@pytest.mark.slow
@pytest.mark.parametrize("payment", ["end", "online"])
@pytest.mark.parametrize("first", DENSE)
@pytest.mark.parametrize("environment", ["textenv/Detox-v0", "textenv/LongFormQA-v0"])
def test_any_two_rewards_compose_of_which_one_at_most_takes_the_score(environment: str, first: str, payment: str) -> None:
    for second in DENSE:
        if {first, second} <= set(TAKERS):
            continue
        env = env_of(environment, (first, second), payment=payment)
        if env is None:
            continue
        prompt, ids = texts(environment)[payment == "online"]  # the shorter one where it is read again and again
        paid, stepped = walk(env, ids, options={"prompt": prompt})
        assert stepped is not None
        assert stepped.rewards.tobytes() == credited(env, prompt, ids).rewards.tobytes()
        assert sum(paid) == pytest.approx(stepped.rewards.sum(), abs=1e-6)
        assert np.isfinite(credited(env, prompt, ids[:3]).rewards).all()


@pytest.mark.parametrize("first", sorted(set(TAKERS) - INAPPLICABLE["textenv/CountLetter-v0"]))
def test_a_second_reward_that_takes_the_score_is_refused(first: str) -> None:
    for second in set(TAKERS) - INAPPLICABLE["textenv/CountLetter-v0"]:
        with pytest.raises(ValueError, match=r"\w+Reward around \w+Reward: each moves or replaces the score on the last token"):
            gym.make("textenv/CountLetter-v0", reward=[first, "length_penalty", second])


def test_those_that_take_the_score_are_these() -> None:
    assert set(TAKERS) == {
        "redistributed", "attention", "uniform", "noise", "hierarchical", "weighted_sum", "scalarized", "fine_grained", "delta",
        "principles",
    }  # fmt: skip


@pytest.mark.parametrize(
    "beside",
    [
        ("uniform", {"mix": 0.0}), ("noise", {"kind": "zero_sum"}), ("redistributed", {"mix": 0.0}),
        ("redistributed", {"reward_model": lambda episodes: [0.5] * len(episodes)}), ("scalarized", {"keep_score": True}),
        ("fine_grained", {"keep_score": True}), ("principles", {"mix": 0.0}),
    ],
    ids=lambda pair: f"{pair[0]} {next(iter(pair[1]))}",
)  # fmt: skip
def test_one_that_by_its_arguments_leaves_the_score_alone_may_stand_beside_another(beside: Any) -> None:
    returns = []
    for rewards in ([beside], [beside, "uniform"], ["delta", beside]):
        env = gym.make("textenv/CountLetter-v0", reward=rewards, max_new_tokens=6, payment="end")
        returns.append(credited(env, Prompt("p"), list(b"aabaa.")).rewards.sum())
    assert returns[1:] == pytest.approx(returns[:1] * 2)


def test_two_that_are_wrapped_by_hand_are_refused_when_they_credit() -> None:
    env = UniformReward(gym.make("textenv/CountLetter-v0", reward="delta", payment="end"))
    with pytest.raises(ValueError, match="UniformReward around DeltaReward"):
        credited(env, Prompt("p"), list(b"aa"))


def test_a_step_reward_that_leaves_no_score_takes_it() -> None:
    with pytest.raises(ValueError, match="UniformReward around ProcessReward"):
        gym.make("textenv/CountLetter-v0", reward=[("process", {"keep_score": False}), "uniform"])
