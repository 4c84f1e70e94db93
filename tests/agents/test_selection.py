"""Aspects are chosen by what the policy writes, greedy against sampled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest

from tests import worlds
from tests.worlds import make
from textenv.agents import LMPolicy, select_aspects
from textenv.aspects import Aspect
from textenv.episode import Episode, Span


def low_bytes(episodes: Sequence[Episode]) -> list[list[Span]]:
    """The share of letters of the first half of the alphabet of bytes."""
    return [[Span(0, len(e.text), sum(ord(c) < 64 for c in e.text) / len(e.text))] if e.text else [] for e in episodes]


ASPECTS = [Aspect("even", lambda es: [[Span(0, len(e.text), worlds.even_share([e])[0])] if e.text else [] for e in es]),
           Aspect("low", low_bytes)]  # fmt: skip


@pytest.fixture
def policy() -> LMPolicy:
    return LMPolicy(worlds.llama(), worlds.BYTES, device="cpu")


def chosen(policy: Any, **options: Any) -> Any:
    env = make(scorer=worlds.even_share, prompts=["a: ", "b: ", "c: "], split="all", max_new_tokens=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return select_aspects(env, policy, ASPECTS, n=20, show=False, **options)


def test_the_aspect_that_is_the_score_is_picked(policy: LMPolicy) -> None:
    found = chosen(policy)
    assert found.picked == "even"
    assert found.rows[0].inconsistency == 0
    assert found.n == 20


def test_the_seed_decides_the_samples_and_their_chunks_do_not(policy: LMPolicy) -> None:
    first, again, other, chunked = chosen(policy), chosen(policy), chosen(policy, seed=1), chosen(policy, chunk=7)
    assert first.rows == again.rows == chunked.rows
    assert [row.inconsistency.values.tolist() for row in first.rows] == [row.inconsistency.values.tolist() for row in chunked.rows]
    assert [row.win_rate.values.tolist() for row in first.rows] != [row.win_rate.values.tolist() for row in other.rows]


def test_the_critic_of_the_environment_is_not_asked(policy: LMPolicy) -> None:
    critic = worlds.CountedCritic(lambda episodes: [[] for _ in episodes])
    env = make(scorer=worlds.even_share, reward="critic_span", critic=critic, max_new_tokens=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        select_aspects(env, policy, ASPECTS, n=4, show=False)
    assert critic.calls == 0


def test_pairs_of_one_prompt_are_drawn_together_so_that_repeating_prompts_narrows_no_interval(policy: LMPolicy) -> None:
    env = make(scorer=worlds.even_share, prompts=["a: ", "b: ", "c: "], split="all", max_new_tokens=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = select_aspects(env, policy, ASPECTS, n=20, show=False)
    for row in found.rows:
        assert len(row.inconsistency.values) == len(row.ties.values) == 3, "a value a prompt"
    assert found.score_win_rate.weights.sum() <= 20
    assert len(found.score_win_rate.values) == 3


def test_the_table_is_printed_and_a_close_choice_warned_of(policy: LMPolicy, capsys: pytest.CaptureFixture[str]) -> None:
    env = make(scorer=worlds.even_share, max_new_tokens=8)
    twin = Aspect("twin", ASPECTS[0].judge)
    with pytest.warns(UserWarning, match="are not told apart by 6 pairs"):
        select_aspects(env, policy, [ASPECTS[0], twin], n=6)
    assert "picked: even" in capsys.readouterr().out.replace("\n", " ")


def test_bad_arguments_are_refused(policy: LMPolicy) -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        select_aspects(make(), policy, ASPECTS, n=0)
    with pytest.raises(ValueError, match="no aspect 'wit'; the task's are sentence_score, fluency, length"):
        select_aspects(make(), policy, ["wit"])
