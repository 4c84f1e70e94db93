"""ALaRM's inconsistency of an aspect with the score (the identities of alarm §7, by number)."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.worlds import ids, make
from textenv.aspects import Aspect
from textenv.episode import Episode, Prompt, Span
from textenv.judges.selection import compare_aspects, consistency

FEW = st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=20).filter(lambda rows: any(r[2] != r[3] for r in rows))


def columns(rows: list[Any]) -> list[Any]:
    return [np.array(column, float) for column in zip(*rows, strict=True)]


@given(rows=FEW)
def test_10_the_score_never_contradicts_itself_its_negation_always_and_a_constant_never(rows: Any) -> None:
    _, _, g, q = columns(rows)
    assert consistency("same", g, q, g, q).inconsistency == 0
    assert consistency("negated", -g, -q, g, q).inconsistency == pytest.approx(100)
    constant = consistency("constant", g * 0, q * 0, g, q)
    assert (constant.inconsistency, constant.ties) == (0, 100)
    assert math.isnan(constant.win_rate)


@given(rows=FEW)
def test_11_only_the_order_matters_and_the_sets_may_change_places(rows: Any) -> None:
    a, b, g, q = columns(rows)
    found, stretched = consistency("a", a, b, g, q), consistency("a", np.exp(a), np.exp(b), 3 * g - 1, 3 * q - 1)
    swapped = consistency("a", b, a, q, g)
    assert found.inconsistency == stretched.inconsistency == swapped.inconsistency
    assert found.win_rate == pytest.approx(100 - swapped.win_rate, nan_ok=True)


@given(rows=FEW)
def test_12_turning_an_aspect_around_maps_c_to_100_minus_c_minus_the_ties(rows: Any) -> None:
    a, b, g, q = columns(rows)
    plain, flipped = (consistency("a", a, b, g, q, lower_is_better=lower) for lower in (False, True))
    assert flipped.inconsistency == pytest.approx(100 - plain.inconsistency - plain.ties)
    assert flipped.ties == plain.ties
    assert flipped.win_rate == pytest.approx(100 - plain.win_rate, nan_ok=True)


@given(rows=FEW, draw=st.data())
def test_pairs_grouped_by_prompt_have_the_same_means(rows: Any, draw: Any) -> None:
    prompts = draw.draw(st.lists(st.sampled_from("abc"), min_size=len(rows), max_size=len(rows)))
    plain, grouped = (consistency("a", *columns(rows), prompts=given) for given in (None, prompts))
    for name in ("inconsistency", "win_rate", "ties"):
        assert getattr(grouped, name) == pytest.approx(getattr(plain, name), nan_ok=True)


def test_the_same_pairs_over_again_narrow_no_interval() -> None:
    once = [np.array(column, float) for column in ([1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0], [1] * 6, [0] * 6)]
    often = [np.tile(column, 50) for column in once]
    plain = consistency("a", *once).inconsistency
    assert consistency("a", *often, prompts=list(range(6)) * 50).inconsistency.interval() == plain.interval()
    low, high = consistency("a", *often).inconsistency.interval()
    assert high - low < (plain.interval()[1] - plain.interval()[0]) / 3
    with pytest.raises(ValueError, match="2 prompts of 6 pairs"):
        consistency("a", *once, prompts=["a", "b"])


def test_by_hand_with_ties_of_both() -> None:
    # agree, disagree, aspect ties, score ties, nothing judged
    found = consistency("a", [2, 0, 1, 5, math.nan], [1, 1, 1, 0, 0], [2, 2, 2, 1, 1], [1, 1, 1, 1, 0])
    assert found.inconsistency == pytest.approx(25)
    assert found.ties == pytest.approx(50)
    assert found.win_rate == pytest.approx(200 / 3)


def test_a_score_that_decides_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="the score decides none of 2 pairs"):
        consistency("a", [1, 2], [2, 1], [1, 1], [1, 1])
    with pytest.raises(ValueError, match=r"\(2,\) values of the aspect, but \(1,\) scores"):
        consistency("a", [1, 2], [2, 1], [1], [0])


# --- Texts -------------------------------------------------------------------------------------------------------------


def texts(*scored: tuple[str, float]) -> list[Episode]:
    env = make().unwrapped
    return [replace(env.episode(Prompt("p"), ids(text, end=True)), score=score) for text, score in scored]


def count(letter: str, name: str | None = None, **options: Any) -> Aspect:
    """How often a letter occurs."""
    def judge(episodes: Any) -> Any:
        return [[Span(0, len(e.text), float(e.text.count(letter)))] if e.text else [] for e in episodes]

    return Aspect(name or letter, judge, **options)


GREEDY = texts(*[("aab", 1.0)] * 40, *[("b", 0.5)] * 20)
SAMPLED = texts(*[("ab", 0.0)] * 40, *[("bb", 0.6)] * 20)


def test_the_aspect_that_contradicts_the_score_least_is_picked() -> None:
    found = compare_aspects(GREEDY, SAMPLED, [count("b"), count("a"), count("b", "few b", lower_is_better=True)])
    assert [row.name for row in found.rows] == ["a", "b", "few b"]
    assert found.rows[-1].inconsistency == pytest.approx(100 / 3)
    assert found.rows[0].inconsistency == 0
    assert found.score_win_rate == pytest.approx(200 / 3)
    assert found.n == 60


def test_an_aspect_that_never_decides_is_never_picked() -> None:
    found = compare_aspects(GREEDY, SAMPLED, [count("z"), count("b", lower_is_better=True)])
    assert found.rows[0].name == "z"
    assert found.picked == "b"
    with pytest.raises(ValueError, match=r"none of the aspects \['z'\] tells any two texts apart"):
        _ = compare_aspects(GREEDY, SAMPLED, [count("z")]).picked


def test_what_is_not_told_apart_is_warned_of() -> None:
    close = compare_aspects(GREEDY, SAMPLED, [count("a"), count("b")])
    with pytest.warns(UserWarning, match="are not told apart by 60 pairs; take more, or choose by hand"):
        close.warn()
    clear = compare_aspects(GREEDY, SAMPLED, [count("a"), count("b", lower_is_better=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clear.warn()


def test_the_table_shows_every_number_with_its_interval() -> None:
    console = Console(width=140, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(compare_aspects(GREEDY, SAMPLED, [count("a"), count("b", lower_is_better=True)]).table())
    shown = capture.get()
    for part in ("inconsistency %", "greedy wins %", "ties %", "picked: a", "60 pairs", "33.3 (", "…"):
        assert part in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GREEDY[:1], SAMPLED[:2], [count("a")]), "1 and 2 texts do not pair up"),
        ((GREEDY[:1], [replace(SAMPLED[0], prompt=Prompt("q"))], [count("a")]), "do not pair up: each two continue one prompt"),
        ((GREEDY, SAMPLED, []), "no aspects to choose from"),
        (([replace(GREEDY[0], score=math.nan)], SAMPLED[:1], [count("a")]), "a text has no score"),
    ],
)
def test_texts_that_cannot_be_compared_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_aspects(*arguments)
