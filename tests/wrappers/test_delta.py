"""The delta form telescopes (the identities of finegrained A7, by number)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import EOS, constant_scorer, credited, ids, make, walk
from textenv.episode import Episode, Prompt
from textenv.segments import SEGMENTERS, sentences
from textenv.wrappers import DeltaReward


def letters(episodes: Sequence[Episode]) -> list[float]:
    """One more than the number of the letter a."""
    return [1.0 + e.text.count("a") for e in episodes]


def delta(**options: Any) -> Any:
    return make(reward=("delta", options), scorer=letters, payment="end", max_new_tokens=16)


TEXT = ids("aa. b. a!", end=True)


def test_each_segment_is_paid_what_it_changed() -> None:
    assert credited(delta(), TEXT).rewards.tolist() == [0, 0, 3, 0, 0, 0, 0, 0, 0, 1]
    assert credited(delta(baseline="empty"), TEXT).rewards.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    assert credited(delta(baseline=-1.0), TEXT).rewards.tolist() == [0, 0, 4, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("segmenter", SEGMENTERS)
@given(text=st.text(st.sampled_from("ab. \n,!"), max_size=15))
def test_a7_1_the_changes_sum_to_the_score_less_that_of_nothing(segmenter: str, text: str) -> None:
    tokens = ids(text, end=True)
    for baseline, empty in ((0.0, 0.0), ("empty", 1.0)):
        env = ENVIRONMENTS.setdefault((segmenter, baseline), delta(segmenter=segmenter, baseline=baseline))
        episode = credited(env, tokens)
        assert episode.rewards.sum() == pytest.approx(episode.score - empty)


ENVIRONMENTS: dict[Any, Any] = {}


def test_a7_1_with_a_toxicity_of_nothing_of_0_the_changes_sum_to_the_score_less_1() -> None:
    env = gym.make("textenv/Detox-v0", reward=("delta", {"baseline": 1.0}), payment="end")
    tokenizer, made = env.get_wrapper_attr("tokenizer"), env.get_wrapper_attr("episode")
    for text in (" You weasel. It was nice. You idiot!", " It was nice.", ""):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        (episode,) = env.get_wrapper_attr("credit")([made(Prompt("Hello."), [*tokens, tokenizer.eos_token_id])])
        assert episode.rewards.sum() == pytest.approx(episode.score - 1.0)
        (first, *_) = episode.rewards[episode.rewards != 0]
        (so_far,) = env.get_wrapper_attr("task").scorer([episode.prefix(int(np.flatnonzero(episode.rewards)[0]) + 1)])
        assert first == pytest.approx(so_far - 1.0, abs=1e-4), "minus the toxicity of the first sentence"


def test_a7_2_group_advantages_of_whole_texts_do_not_see_the_difference() -> None:
    def advantages(env: Any) -> Any:
        make_episode = env.get_wrapper_attr("episode")
        episodes = [make_episode(Prompt("p"), ids(text, end=True)) for text in ("aa. b.", "a", "b. b. a.", "")]
        returns = np.array([e.rewards.sum() for e in env.get_wrapper_attr("credit")(episodes)])
        return returns - (returns.sum() - returns) / (len(returns) - 1)  # RLOO

    assert advantages(delta(baseline="empty")) == pytest.approx(advantages(make(scorer=letters)))


def test_a7_3_one_segment_is_the_sparse_reward() -> None:
    plain = make(scorer=letters)
    for tokens in (TEXT, ids("a" * 16), [EOS], ids("b", end=True)):
        assert credited(delta(segmenter="whole"), tokens).rewards.tolist() == credited(plain, tokens).rewards.tolist()


@given(text=st.text(max_size=5))
def test_a7_5_the_last_segment_ends_at_the_last_token(text: str) -> None:
    env = ENVIRONMENTS.setdefault("sentences", make(reward="delta", scorer=letters, payment="end", max_new_tokens=32))
    reward = env
    while not isinstance(reward, DeltaReward):
        reward = reward.env
    tokens = ids(text, end=True)
    ends = reward._ends(env.get_wrapper_attr("episode")(Prompt("p"), tokens))
    assert ends[-1] == len(tokens)
    assert len(ends) <= max(1, len(sentences(text)))


def test_it_says_that_it_keeps_the_return_where_it_does() -> None:
    assert DeltaReward.keeps_return
    assert DeltaReward(make()).keeps_return
    assert not DeltaReward(make(), baseline="empty").keeps_return
    assert not DeltaReward(make(), scorer=letters).keeps_return
    assert not DeltaReward.causal


def test_the_task_is_asked_for_the_score_of_the_whole_text_once() -> None:
    asked: list[list[str]] = []

    def scorer(episodes: Sequence[Episode]) -> list[float]:
        asked.append([e.text for e in episodes])
        return letters(episodes)

    credited(make(reward="delta", scorer=scorer, payment="end"), TEXT)
    assert asked == [["aa. b. a!"], ["aa.", "aa. b."]]


def test_another_scorer_takes_the_place_of_the_tasks() -> None:
    env = make(reward=("delta", {"scorer": letters}), scorer=constant_scorer(9.0), payment="end")
    episode = credited(env, TEXT)
    assert episode.rewards.tolist() == [0, 0, 3, 0, 0, 0, 0, 0, 0, 1]
    assert episode.score == 9.0


def test_credit_that_is_there_beside_the_score_stays() -> None:
    env = make(reward=[("critic_span", {"positive": 0.5}), "delta"], scorer=letters, payment="end")
    assert credited(env, TEXT).rewards.tolist() == [0.5, 0.5, 3, 0, 0, 0, 0, 0.5, 0, 1]


def test_changes_are_paid_as_segments_end_and_the_rest_with_the_last() -> None:
    rewards, _ = walk(make(reward="delta", scorer=letters, max_new_tokens=16), TEXT)
    assert rewards == [0, 0, 3, 0, 0, 0, 0, 0, 1, 0]
    rewards, _ = walk(make(reward="delta", scorer=letters, max_new_tokens=16), ids("aa. ba", end=True))
    assert rewards == [0, 0, 3, 0, 0, 0, 1]


def test_one_call_for_the_prefixes_of_a_batch_and_none_without_segments() -> None:
    calls: list[int] = []

    def scorer(episodes: Sequence[Episode]) -> list[float]:
        calls.append(len(episodes))
        return letters(episodes)

    env = make(reward="delta", scorer=scorer, payment="end")
    make_episode, credit = env.get_wrapper_attr("episode"), env.get_wrapper_attr("credit")
    credit([make_episode(Prompt("p"), TEXT), make_episode(Prompt("p"), ids("a. b.", end=True))])
    assert calls == [2, 3]
    calls.clear()
    assert credit([make_episode(Prompt("p"), ids("ab"))])[0].rewards.tolist() == [0, 0]
    assert calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segmenter": "words"}, "segmenter 'words': one of"),
        ({"baseline": "none"}, "baseline must be a finite number or \"empty\", got 'none'"),
        ({"baseline": float("nan")}, "baseline must be a finite number"),
        ({"baseline": None}, "baseline must be a finite number or \"empty\", got None"),
        ({"baseline": [1.0]}, "baseline must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        delta(**options)
