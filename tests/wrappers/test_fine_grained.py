"""Fine-Grained RLHF's rewards at segment ends (the identities of finegrained A7, by number)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.worlds import EOS, constant_scorer, credited, ids, make, walk
from textenv.aspects import Aspect
from textenv.episode import Episode, Span
from textenv.judges.generic_aspects import SegmentScores
from textenv.segments import sentences, sub_sentences

TEXT = ids("a b c d e, f g h i j. k.", end=True)  # sub-sentences end at tokens 9, 20, 23; sentences at 20, 23


def judged(segmenter: Any, value: float) -> Any:
    def judge(episodes: Sequence[Episode]) -> list[list[Span]]:
        return [[Span(*at, value) for at in segmenter(e.text)] for e in episodes]

    return judge


FACTS = Aspect("facts", judged(sentences, 0.5), "sentence")
RELEVANCE = Aspect("relevance", judged(sub_sentences, -0.3), "sub_sentence")


def fine(aspects: Any, **options: Any) -> Any:
    scorer = options.pop("scorer", constant_scorer(1.0))
    reward = ("fine_grained", {"aspects": aspects, **options})
    return make(reward=reward, scorer=scorer, payment="end", max_new_tokens=32)


def test_a7_3_one_aspect_of_the_whole_text_is_the_sparse_reward() -> None:
    plain = make(payment="end", max_new_tokens=32)
    env = fine(Aspect("score", SegmentScores(plain.get_wrapper_attr("task").scorer, "whole")), scorer=None)
    for tokens in (TEXT, ids("aab", end=True), ids("a" * 32)):
        assert credited(env, tokens).rewards.tolist() == credited(plain, tokens).rewards.tolist()


def test_a7_4_two_aspects_add_each_at_its_own_ends_in_any_order() -> None:
    both, turned = credited(fine([FACTS, RELEVANCE]), TEXT), credited(fine([RELEVANCE, FACTS]), TEXT)
    assert both.rewards.tobytes() == turned.rewards.tobytes()
    alone = [credited(fine(aspect), TEXT).rewards for aspect in (FACTS, RELEVANCE)]
    assert np.flatnonzero(alone[0]).tolist() == [20, 23]
    assert np.flatnonzero(alone[1]).tolist() == [9, 20, 23]
    assert both.rewards == pytest.approx(alone[0] + alone[1])


def test_a7_5_an_empty_text_has_no_segment_and_no_credit() -> None:
    assert credited(fine([FACTS, RELEVANCE]), [EOS]).rewards.tolist() == [0.0]


def test_the_score_is_replaced_or_kept() -> None:
    assert credited(fine(FACTS), TEXT).rewards[-1] == 0.0
    assert credited(fine(FACTS, keep_score=True), TEXT).rewards[-1] == 1.0
    assert credited(fine(FACTS), TEXT).score == 1.0


def test_weights_scale_and_a_lower_is_better_aspect_is_turned_around() -> None:
    errors = Aspect("errors", judged(sentences, 1.0), "sentence", lower_is_better=True)
    found = credited(fine([FACTS, errors], weights={"facts": 2.0, "errors": 0.25}), TEXT).rewards
    assert found[[20, 23]].tolist() == [0.75, 0.75]


def test_a_sentence_is_paid_when_it_has_ended_while_the_text_goes_on() -> None:
    env = make(reward=("fine_grained", {"aspects": FACTS}), scorer=constant_scorer(0.0), max_new_tokens=16)
    rewards, episode = walk(env, ids("ab. cd", end=True))
    assert rewards == [0, 0, 0.5, 0, 0, 0, 0.5]
    assert episode is not None
    assert episode.rewards.tolist() == [0, 0, 0.5, 0, 0, 0.5, 0]


def test_what_each_aspect_paid_is_logged() -> None:
    env = fine([FACTS, RELEVANCE])
    credited(env, TEXT)
    credited(env, [EOS])
    assert env.get_wrapper_attr("credit_metrics")() == pytest.approx({"credit/aspect/facts": 0.5, "credit/aspect/relevance": -0.45})


def test_without_aspects_of_its_own_a_task_is_judged_sentence_by_sentence() -> None:
    env = make(reward="fine_grained", payment="end")
    assert credited(env, ids("aa. b a.", end=True)).rewards.tolist() == [0, 0, 2 / 16, 0, 0, 0, 0, 1 / 16, 0]


def test_an_unknown_aspect_is_refused() -> None:
    with pytest.raises(ValueError, match="no aspect 'wit'; the task's are sentence_score"):
        fine("wit")
