"""How well credit finds true spans, against values worked out by hand and by brute force."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from tests import worlds
from textenv import Episode, Prompt, RewardWrapper, Span
from textenv.metrics.credit import (
    Raised,
    ScoreLeft,
    credit_quality,
    deletion_effects,
    score_left,
    truth_mask,
    without_score,
)

SCORE = 0.75


def arrays(*rows: Sequence[float]) -> list[Any]:
    return [np.array(row, np.float64) for row in rows]


def masks(*rows: str) -> list[Any]:
    """"..x." is four tokens, the third on a true span."""
    return [np.array([character == "x" for character in row]) for row in rows]


def episode(text: str, **arguments: Any) -> Episode:
    """A finished text of byte tokens, judged: SCORE on its last token."""
    env = worlds.make(max_new_tokens=len(text.encode()), scorer=worlds.constant_scorer(SCORE), **arguments)
    return worlds.credited(env, worlds.ids(text))


# --- Against hand values -------------------------------------------------------------------------------------------------


def test_credit_on_the_truth_is_perfect_and_its_opposite_is_the_worst() -> None:
    truth = masks("..xx.", "x....")
    perfect = [-1.0 * mask for mask in truth]
    good, bad = credit_quality(perfect, truth), credit_quality([-credit for credit in perfect], truth)
    assert [good[name].value for name in ("auc", "auc_pooled", "average_precision", "share")] == [1.0] * 4
    assert bad["auc"].value == bad["auc_pooled"].value == 0.0
    assert bad["average_precision"].value == pytest.approx(3 / 10), "the truth comes last: precision is its share"


def test_the_sign_turns_good_spans_into_the_same_question() -> None:
    truth, credit = masks("..xx.", "x...."), arrays([0.1, 0.3, 0.2, 0.9, 0.0], [0.4, 0.5, 0.0, 0.1, 0.1])
    bad = credit_quality([-values for values in credit], truth, sign=-1)
    good = credit_quality(credit, truth, sign=1)
    assert str(bad) == str(good), "nan != nan, so the numbers are compared as they are printed"


def test_credit_that_is_the_same_for_all_tokens_of_a_text_is_at_chance_within_texts() -> None:
    truth = masks("..xx.", "x....", "..........")
    uniform = [np.full(len(mask), value) for mask, value in zip(truth, (0.1, -0.3, 0.7), strict=True)]
    found = credit_quality(uniform, truth)
    assert found["auc"] == (0.5, 0.5, 0.5)
    assert found["auc_pooled"].value > 0.5, "the text without a bad span has the highest credit: that is told apart, pooled"
    assert math.isnan(found["spearman"].value)


def test_values_worked_out_by_hand() -> None:
    # Ranked by -credit: 3 (true), 2 (no), 1 and 1 (one true), 0 (no).
    found = credit_quality(arrays([-3.0, -2.0, -1.0, -1.0, 0.0]), masks("x.x.."))
    assert found["auc"].value == pytest.approx((3 + 1.5) / 6), "3 misses below the first; 1 below and 1 beside the second"
    assert found["auc_pooled"].value == pytest.approx(found["auc"].value)
    assert found["average_precision"].value == pytest.approx(1 / 2 * 1 + 1 / 2 * (2 / 4)), "ties are one step"
    assert found["share"].value == pytest.approx(4 / 7)


def test_a_text_without_truth_counts_pooled_but_not_within() -> None:
    credit, truth = arrays([-1.0, 0.0], [-2.0, 0.0]), masks("x.", "..")
    found = credit_quality(credit, truth)
    assert found["auc"].value == 1.0
    assert found["auc_pooled"].value == pytest.approx(2 / 3)
    assert found["share"].value == pytest.approx(1 / 3)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=8), min_size=1, max_size=4
    ).filter(lambda texts: len({flag for text in texts for _, flag in text}) == 2)
)
def test_the_pooled_measures_equal_brute_force(texts: list[list[tuple[int, bool]]]) -> None:
    credit = arrays(*([float(value) for value, _ in text] for text in texts))
    truth = [np.array([flag for _, flag in text]) for text in texts]
    found = credit_quality(credit, truth, bootstrap=5)
    pairs = [(-value, flag) for text in texts for value, flag in text]
    positives, negatives = ([value for value, flag in pairs if flag is kind] for kind in (True, False))
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found["auc_pooled"].value == pytest.approx(wins / (len(positives) * len(negatives)))
    precision = recall = 0.0
    for threshold in sorted({value for value, _ in pairs}, reverse=True):
        hits = sum(value >= threshold for value in positives)
        precision += (hits / len(positives) - recall) * hits / sum(value >= threshold for value, _ in pairs)
        recall = hits / len(positives)
    assert found["average_precision"].value == pytest.approx(precision)


# --- Intervals -------------------------------------------------------------------------------------------------------------


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Credit is noise of the same distribution on and off the truth: the area under the curve is .5."""
    rng = np.random.default_rng(0)
    covered = {"auc": 0, "auc_pooled": 0}
    for repeat in range(100):
        truth = [rng.random(12) < 0.3 for _ in range(40)]
        shift = rng.normal(size=40)  # texts differ: the tokens of one are no independent witnesses
        credit = [rng.normal(size=12) + shift[i] for i in range(40)]
        found = credit_quality(credit, truth, bootstrap=200, seed=repeat)
        for name in covered:
            covered[name] += found[name].low <= 0.5 <= found[name].high
    assert all(88 <= count <= 100 for count in covered.values()), covered


def test_the_seed_repeats_the_interval() -> None:
    rng = np.random.default_rng(0)
    truth = [rng.random(9) < 0.4 for _ in range(10)]
    credit = [rng.normal(size=9) for _ in range(10)]
    first, again, other = (credit_quality(credit, truth, bootstrap=50, seed=seed)["auc_pooled"] for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


# --- Bad input -----------------------------------------------------------------------------------------------------------


def test_nothing_to_tell_apart_is_an_error() -> None:
    for truth in (masks("..."), masks("xxx")):
        with pytest.raises(ValueError, match=r"tokens are on a bad span: there is nothing to tell apart"):
            credit_quality(arrays([0.0, 1.0, 2.0]), truth)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="sign is -1"):
        credit_quality(arrays([0.0]), masks("x"), sign=0)
    with pytest.raises(ValueError, match=r"text 0: credit of shape \(2,\) and truth of shape \(3,\)"):
        credit_quality(arrays([0.0, 1.0]), masks("x.."))


# --- Truth and deletions ------------------------------------------------------------------------------------------------


def test_a_token_is_on_a_span_if_it_shares_a_character_with_it() -> None:
    spans = [Span(2, 4, -1.0), Span(5, 6, 1.0)]
    assert truth_mask(episode("ab café"), spans).tolist() == [c == "x" for c in "..xx...."]
    assert truth_mask(episode("ab café"), spans, sign=1).tolist() == [c == "x" for c in ".....x.."]
    assert truth_mask(episode("caf\u00e9"), [Span(3, 4, -1.0)]).tolist() == [False, False, False, True, True]


def test_the_effect_of_deleting_a_token_is_its_weight_under_an_additive_score() -> None:
    weights = {"a": 0.25, "b": -1.0, "é": 2.0}

    def additive(episodes: Sequence[Episode]) -> list[float]:
        return [sum(weights.get(character, 0.0) for character in e.text) for e in episodes]

    texts = [episode("abcé"), episode("bb")]
    effects = deletion_effects(additive, texts)
    assert [each.tolist() for each in effects] == [[0.25, -1.0, 0.0, 2.0, 2.0], [-1.0, -1.0]]
    credit = arrays([0.25, -1.0, 0.0, 2.0, 2.0], [-1.0, 0.0])
    found = credit_quality(credit, masks(".x...", "xx"), effects)
    assert found["spearman"].value == pytest.approx(1.0)
    assert found["pearson"].value == pytest.approx(1.0), "the second text does not vary, and says nothing"


def test_the_shortened_text_is_an_episode_whose_tokens_stand_where_its_text_says() -> None:
    seen: list[Episode] = []

    def note(episodes: Sequence[Episode]) -> list[float]:
        seen.extend(episodes)
        return [0.0] * len(episodes)

    deletion_effects(note, [episode("xéy")])
    assert [e.text for e in seen] == ["xéy", "éy", "xy", "xy", "xé"]
    for shorter in (seen[1], seen[4]):
        assert "".join(shorter.text[begin:end] for begin, end in shorter.offsets.tolist()) == shorter.text.replace("é", "éé")


def test_progress_counts_the_texts_that_were_scored() -> None:
    counts: list[int] = []
    deletion_effects(worlds.constant_scorer(0.0), [episode("abc"), episode("de")], counts.append)
    assert counts == [5]


# --- What of the score is left on the last token ---------------------------------------------------------------------------


class Additive(RewardWrapper):
    """−1 on every "b", beside the score."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        return [e.rewards - (e.tokens == ord("b")) for e in episodes]


class Half(RewardWrapper):
    """Half of the score stays; the other half is paid for "a"s, whatever the score."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        return [e.rewards / 2 + (e.tokens == ord("a")) for e in episodes]


class Uniform(RewardWrapper):
    """The score in equal parts."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        return [np.full(len(e), e.rewards.sum() / len(e)) for e in episodes]


class Squared(RewardWrapper):
    """The score, squared, on the last token."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        return [e.rewards**2 for e in episodes]


class Own(RewardWrapper):
    """Credit that does not look at the score."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        return [np.arange(len(e)) for e in episodes]


def share_of_a(episodes: Sequence[Episode]) -> list[float]:
    """A score that differs between texts and prefixes, the empty one too."""
    return [e.text.count("a") / max(len(e.text), 1) for e in episodes]


def found_left(wrapper: Any, scorer: Any = share_of_a, texts: Sequence[str] = ("abab", "bbbb", "aaab")) -> ScoreLeft:
    """What `score_left` says of a reward."""
    envs = [worlds.make(reward=wrapper, payment="end", max_new_tokens=4, scorer=each) for each in (scorer, Raised(scorer))]
    make = envs[0].get_wrapper_attr("episode")
    return score_left(*envs, [make(Prompt("p: "), worlds.ids(text)) for text in texts])


@pytest.mark.parametrize(
    ("wrapper", "share", "what", "credit"),
    [
        (Additive, 1.0, "taken out", [0.0, -1.0, 0.0, -1.0]),
        (Half, 0.5, "0.5 × taken out", [1.0, 0.0, 1.0, 0.0]),
        (Uniform, 0.0, "moved", [SCORE / 4] * 4),
        (Squared, 0.0, "transformed", [0.0, 0.0, 0.0, SCORE**2]),
        (Own, 0.0, "none left", [0.0, 1.0, 2.0, 3.0]),
        ("redistributed", 0.0, "none left", [0.0, 0.0, 0.0, 0.0]),
        (("redistributed", {"mix": 0.5}), 0.5, "0.5 × taken out", [0.0, 0.0, 0.0, 0.0]),
        (("delta", {"baseline": "empty"}), 0.0, "none left", [0.0, 0.0, 0.0, 0.0]),
        ("uniform", 0.0, "moved", [SCORE / 4] * 4),
    ],
)
def test_what_is_left_of_the_score_on_the_last_token_is_no_placement(
    wrapper: Any, share: float, what: str, credit: list[float]
) -> None:
    left = found_left(wrapper)
    assert (left.share, left.what) == (share, what)
    (measured,) = without_score([episode("abab", reward=wrapper, payment="end")], left)
    assert measured.tolist() == credit, "under a score that is the same for all texts"


def test_a_score_and_its_rounding_leave_nothing_behind() -> None:
    class Tenth(RewardWrapper):
        def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
            return [e.rewards * 0.1 + 0.2 - 0.2 for e in episodes]

    left = found_left(Tenth, worlds.constant_scorer(0.3), ["abca"])
    (measured,) = without_score([replace(episode("abc", reward=Tenth, payment="end"), score=SCORE)], left)
    assert len(set(measured.tolist())) == 1


def test_the_same_credit_for_every_token_beside_the_score_is_exactly_chance() -> None:
    class Constant(RewardWrapper):
        def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
            return [e.rewards + 0.01 for e in episodes]

    texts = ["abab", "aaab", "abba", "bbba", "ab"]
    env = worlds.make(reward=Constant, payment="end", max_new_tokens=4, scorer=share_of_a)
    make = env.get_wrapper_attr("episode")
    credited = env.get_wrapper_attr("credit")([make(Prompt("p"), worlds.ids(text, end=len(text) < 4)) for text in texts])
    assert any(e.rewards[-1] - e.score != 0.01 for e in credited), "rounding is at work here"
    measured = without_score(credited, found_left(Constant))
    truth = [np.arange(len(e)) == len(e) - 1 for e in credited]  # the last token, which held the score
    quality = credit_quality(measured, truth, bootstrap=10)
    assert (quality["auc"].value, quality["auc_pooled"].value) == (0.5, 0.5)


def test_a_share_that_is_no_round_number_leaves_nothing_behind_either() -> None:
    class Third(RewardWrapper):
        def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
            return [e.rewards / 3 + 0.25 for e in episodes]

    measured = without_score([replace(episode("abab", reward=Third, payment="end"), score=SCORE)], found_left(Third))
    assert measured[0].tolist() == [0.25] * 4


def test_a_rest_of_its_own_is_kept() -> None:
    (measured,) = without_score([replace(episode("ab"), rewards=np.array([0.5, 1.5 + 1e-3]), score=1.0)], ScoreLeft(1.0, ""))
    assert measured == pytest.approx([0.5, 0.501], abs=1e-8)


def test_a_raised_scorer_raises_prefixes_too_and_is_else_what_it_was() -> None:
    class Model:
        name = "judge"

        def __call__(self, episodes: Sequence[Episode]) -> list[float]:
            return [0.5] * len(episodes)

        def prefix_scores(self, episodes: Sequence[Episode], *, tokenizer: Any = None) -> list[Any]:
            return [np.linspace(0.0, 0.5, len(e) + 1) for e in episodes]

    raised = Raised(Model())
    one = episode("ab")
    assert raised([one]) == [0.625]
    assert raised.prefix_scores([one], tokenizer=None)[0].tolist() == [0.125, 0.375, 0.625]
    assert raised.name == "judge"
    assert copy.deepcopy(raised) is raised
    assert not hasattr(Raised(worlds.even_share), "prefix_scores")


def test_an_unfinished_text_has_no_score_to_look_for() -> None:
    env = worlds.make(max_new_tokens=4)
    unfinished = env.get_wrapper_attr("episode")(Prompt("p"), worlds.ids("ab"))
    with pytest.raises(ValueError, match="finished episodes"):
        score_left(env, env, [unfinished])
