"""MORLAIF's seven scalarizations (the tests of related D7), and the reward made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import CountedCritic, constant_scorer, credited, ids, make
from textenv.aspects import Aspect
from textenv.episode import Prompt, Span
from textenv.wrappers.scalarized import SCALARIZERS, ScalarizedReward, scalarize

VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=6)
NAMES = st.sampled_from(sorted(SCALARIZERS))


@given(name=NAMES, values=VALUES, seed=st.integers(0, 99))
def test_the_order_of_objectives_does_not_matter(name: str, values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, order = rng.uniform(0.1, 2, len(values)), rng.permutation(len(values))
    first = scalarize(name, values, weights)
    assert scalarize(name, np.array(values)[order], weights[order]) == pytest.approx(first, abs=1e-9)


@given(name=NAMES, value=st.floats(-5, 5))
def test_one_objective_is_itself(name: str, value: float) -> None:
    expected = 1 / (1 + math.exp(-value)) if name == "bernoulli_nash" else value
    assert scalarize(name, [value]) == pytest.approx(expected)


@given(name=NAMES, value=st.floats(0.1, 5), k=st.integers(1, 6))
def test_equal_objectives_give_their_value_and_linear_k_times_it(name: str, value: float, k: int) -> None:
    options: dict[str, Any] = {"positive": None} if name == "bernoulli_nash" else {}
    assert scalarize(name, [value] * k, **options) == pytest.approx(k * value if name == "linear" else value)


@given(name=NAMES, rows=st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=5))
def test_a_batch_gives_what_its_rows_give_alone(name: str, rows: list[list[float]]) -> None:
    assert scalarize(name, rows).tolist() == pytest.approx([float(scalarize(name, row)) for row in rows])


@given(values=st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_the_soft_minimum_lies_between_the_minimum_and_the_mean(values: list[float]) -> None:
    assert scalarize("soft_max_min", values, temperature=1e-4) == pytest.approx(min(values), abs=1e-2)
    assert scalarize("soft_max_min", values, temperature=1e9) == pytest.approx(np.mean(values), abs=1e-6)
    assert min(values) - 1e-9 <= scalarize("soft_max_min", values) <= np.mean(values) + 1e-9


def test_the_soft_minimum_does_not_overflow() -> None:
    assert scalarize("soft_max_min", [-1e6, 1e6], temperature=1e-3) == -1e6


@given(values=st.lists(st.floats(0.01, 5), min_size=1, max_size=6))
def test_nash_is_the_geometric_mean(values: list[float]) -> None:
    assert scalarize("bernoulli_nash", values, positive=None) == pytest.approx(np.prod(values) ** (1 / len(values)))


def test_nash_needs_positive_numbers() -> None:
    with pytest.raises(ValueError, match=r"positive numbers, got -1\.0; pass positive=\"sigmoid\""):
        scalarize("bernoulli_nash", [1.0, -1.0], positive=None)
    assert 0 < scalarize("bernoulli_nash", [1.0, -1e4]) < 1e-9 or scalarize("bernoulli_nash", [1.0, -1e4]) == 0


def test_each_by_hand() -> None:
    u = [4.0, 1.0, 2.0, 9.0]
    expected = {"linear": 16.0, "worst_case": 1.0, "uncertainty_weighted": 4 - 0.5 * 9.5, "lower_quantile": 1.0, "max_median": 3.0}
    assert {name: float(scalarize(name, u)) for name in expected} == pytest.approx(expected)
    assert scalarize("lower_quantile", range(6)) == 0.5
    assert scalarize("lower_quantile", [3.0, 1.0]) == 1.0  # ⌊2/3⌋ is none; one is taken
    weights = np.exp(-(np.array(u) - 1))
    assert scalarize("soft_max_min", u) == pytest.approx((u * weights).sum() / weights.sum())


@given(name=NAMES, weight=st.floats(0.1, 3))
def test_weights_come_before_the_function(name: str, weight: float) -> None:
    assert scalarize(name, [1.0, 2.0], [weight, 1.0]) == pytest.approx(scalarize(name, [weight, 2.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best", [1.0]), "unknown scalarizer 'best': one of linear, worst_case, soft_max_min"),
        (("linear", np.zeros((2, 0))), "at least one objective"),
        ((lambda u: u, [[1.0, 2.0]]), r"made \(1, 2\) of \(1, 2\); it reduces the last axis"),
    ],
)
def test_what_makes_no_scalar_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scalarize(*arguments)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("soft_max_min", {"temperature": 0}, "temperature"), ("lower_quantile", {"quantile": 2}, "quantile"),
     ("bernoulli_nash", {"positive": "exp"}, "positive")],
)  # fmt: skip
def test_bad_options_are_refused_before_any_text(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(reward=("scalarized", {"scalarizer": name, **options}))


# --- The reward --------------------------------------------------------------------------------------------------------


def aspect(name: str, *values: float, **options: Any) -> Aspect:
    spans = [Span(i, i + 1, value) for i, value in enumerate(values)]
    return Aspect(name, lambda es: [spans[: len(e.text)] for e in es], "sentence", **options)


def scalarized(aspects: Any, **options: Any) -> Any:
    return make(reward=("scalarized", {"aspects": aspects, **options}), scorer=constant_scorer(0.3), payment="end")


def test_the_scalar_takes_the_place_of_the_score_or_stands_beside_it() -> None:
    pair = [aspect("a", 1.0, 2.0), aspect("b", 5.0)]
    assert credited(scalarized(pair), ids("xy", end=True)).rewards.tolist() == pytest.approx([0, 0, 1.5 + 5.0])
    assert credited(scalarized(pair, reduce="sum"), ids("xy", end=True)).rewards[-1] == pytest.approx(3.0 + 5.0)
    assert credited(scalarized(pair, keep_score=True), ids("xy", end=True)).rewards[-1] == pytest.approx(6.8)
    assert credited(scalarized(pair), ids("xy", end=True)).score == 0.3


def test_weights_and_direction_of_an_aspect() -> None:
    errors = aspect("errors", 4.0, lower_is_better=True)
    env = scalarized([aspect("a", 1.0), errors], weights={"a": 2.0}, scalarizer="worst_case")
    assert credited(env, ids("x", end=True)).rewards[-1] == pytest.approx(-4.0)


def test_a_function_of_ones_own() -> None:
    env = scalarized([aspect("a", 1.0), aspect("b", 7.0)], scalarizer=lambda u: u.max(-1))
    assert credited(env, ids("x", end=True)).rewards[-1] == pytest.approx(7.0)


def test_a_batch_of_texts_of_any_length_is_credited_as_one_by_one_with_one_call_an_aspect() -> None:
    critic = CountedCritic(lambda es: [[Span(0, 1, float(len(e.text)))] if e.text else [] for e in es])
    env = scalarized([Aspect("long", critic), aspect("b", 1.0)], scalarizer="soft_max_min")
    make_episode, credit = env.get_wrapper_attr("episode"), env.get_wrapper_attr("credit")
    episodes = [make_episode(Prompt("p"), ids(text, end=True)) for text in ("abc", "", "a b c d e")]
    together = credit(episodes)
    assert critic.calls == 1
    assert [e.rewards.tobytes() for e in together] == [credit([e])[0].rewards.tobytes() for e in episodes]


def test_an_unfinished_text_is_not_judged() -> None:
    critic = CountedCritic(lambda es: [[Span(0, 1, 1.0)] for _ in es])
    assert credited(scalarized(Aspect("a", critic)), ids("ab")).rewards.tolist() == [0, 0]
    assert critic.calls == 0


def test_the_verdict_of_each_aspect_is_logged_as_it_was() -> None:
    env = scalarized([aspect("a", 1.0), aspect("errors", 4.0, lower_is_better=True)])
    for text in ("x", ""):
        credited(env, ids(text, end=True))
    assert env.get_wrapper_attr("credit_metrics")() == {"credit/aspect/a": 0.5, "credit/aspect/errors": 2.0}
    assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}


def test_bad_reduce_is_refused() -> None:
    with pytest.raises(ValueError, match="reduce must be"):
        ScalarizedReward(make(), reduce="max")  # type: ignore[arg-type]
