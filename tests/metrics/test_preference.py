"""Win rates and agreement, against what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textenv.metrics.preference import cohen_kappa, length_controlled_win_rate, raw_agreement, win_rate

NAN = float("nan")


def verdicts(n: int, theta: float, phi: float, mean_difference: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Points drawn from P(A wins) = σ(θ + φ tanh(Δ / sd Δ)), and the differences of length."""
    rng = np.random.default_rng(0)
    differences = rng.normal(mean_difference, 100.0, n)
    p = 1 / (1 + np.exp(-(theta + phi * np.tanh(differences / differences.std()))))
    return (rng.random(n) < p).astype(float), differences


# --- Win rate ----------------------------------------------------------------------------------------------------------


def test_a_tie_is_half_a_win_and_no_verdict_is_nothing() -> None:
    assert float(win_rate([1, 0.5, 0, NAN])) == 0.5
    assert float(win_rate([1, NAN, NAN])) == 1.0


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(1), 0
    for _ in range(200):
        low, high = win_rate((rng.random(80) < 0.6).astype(float)).interval(n=300)
        inside += low <= 0.6 <= high
    assert 0.9 <= inside / 200 <= 0.99


def test_other_points_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 \(a win\), 0.5 \(a tie\), 0 \(a loss\) or NaN \(no verdict\), got \[0.25\]"):
        win_rate([1, 0.25])


# --- Length control ----------------------------------------------------------------------------------------------------


def test_a_judge_that_likes_length_alone_finds_the_sides_equal_at_equal_length() -> None:
    points, differences = verdicts(2000, theta=0.0, phi=3.0, mean_difference=80.0)
    rate, (low, high) = length_controlled_win_rate(points, differences, n=200)
    assert float(win_rate(points)) > 0.7
    assert rate == pytest.approx(0.5, abs=0.05)
    assert low < 0.5 < high


def test_what_is_better_at_equal_length_is_found_though_it_is_shorter() -> None:
    points, differences = verdicts(4000, theta=1.0, phi=3.0, mean_difference=-120.0)
    rate, (low, high) = length_controlled_win_rate(points, differences, n=200)
    assert float(win_rate(points)) < 0.5
    assert rate == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.05)
    assert low < rate < high


def test_without_differences_of_length_it_is_the_win_rate() -> None:
    points = [1, 1, 0, 0.5, 1, 0, 1, 1]
    rate, (low, high) = length_controlled_win_rate(points, np.zeros(8))
    assert rate == pytest.approx(float(win_rate(points)), abs=1e-9)
    assert low < rate < high


def test_the_sides_exchanged_make_one() -> None:
    points, differences = verdicts(100, theta=0.7, phi=1.0, mean_difference=30.0)
    rate, (low, high) = length_controlled_win_rate(points, differences, n=50)
    back, (back_low, back_high) = length_controlled_win_rate(1 - points, -differences, n=50)
    assert (rate + back, low + back_high, high + back_low) == pytest.approx((1.0, 1.0, 1.0), abs=1e-8)


def test_the_fit_is_the_maximum_of_the_penalised_likelihood() -> None:
    points, differences = verdicts(60, theta=0.4, phi=1.5)
    rate, _ = length_controlled_win_rate(points, differences, n=2)
    x = np.tanh(differences / differences.std())

    def loss(theta: np.ndarray, phi: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-(theta[..., None] + phi[..., None] * x)))
        return -(points * np.log(p) + (1 - points) * np.log(1 - p)).sum(-1) + 0.5 * phi**2

    theta, phi = np.meshgrid(np.linspace(-2, 3, 501), np.linspace(-1, 4, 501), indexing="ij")
    best = np.unravel_index(loss(theta, phi).argmin(), theta.shape)
    assert rate == pytest.approx(1 / (1 + math.exp(-theta[best])), abs=0.01)


def test_verdicts_that_follow_length_without_exception_have_a_finite_answer() -> None:
    differences = np.array([5.0, 40, -3, -60, 20, -20])
    rate, (low, high) = length_controlled_win_rate((differences > 0).astype(float), differences)
    assert 0.3 < rate < 0.7
    assert 0 <= low <= rate <= high <= 1


def test_a_side_that_always_wins_wins() -> None:
    assert length_controlled_win_rate([1, 1, 1], [5, -5, 1]) == (1.0, (1.0, 1.0))


@pytest.mark.parametrize(("points", "differences"), [([1, 0], [7, 7]), ([NAN, NAN], [1, 2])])
def test_where_nothing_can_be_said_it_is_nan(points: list[float], differences: list[float]) -> None:
    rate, interval = length_controlled_win_rate(points, differences)
    assert np.isnan([rate, *interval]).all()


def test_pairs_without_a_verdict_do_not_count() -> None:
    with_holes = length_controlled_win_rate([1, NAN, 0, 1, 0.5], [3, 1000, -4, -2, 1], n=20)
    assert with_holes == length_controlled_win_rate([1, 0, 1, 0.5], [3, -4, -2, 1], n=20)


@pytest.mark.parametrize("differences", [[1.0], [1.0, NAN]])
def test_bad_differences_are_refused(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite difference of lengths a pair is wanted"):
        length_controlled_win_rate([1, 0], differences)


# --- Agreement ---------------------------------------------------------------------------------------------------------


def test_kappa_is_that_of_the_textbook() -> None:
    # 20 both yes, 5 yes/no, 10 no/yes, 15 both no: p_o = 0.7, p_e = 0.5
    one = ["y"] * 25 + ["n"] * 25
    other = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert raw_agreement(one, other) == pytest.approx(0.7)
    assert cohen_kappa(one, other) == pytest.approx(0.4)


def test_kappa_is_one_for_equal_judges_zero_for_chance_and_negative_below() -> None:
    assert cohen_kappa(["a", "b", "tie"], ["a", "b", "tie"]) == pytest.approx(1.0)
    assert cohen_kappa(["a", "a", "b", "b"], ["a", "b", "a", "b"]) == pytest.approx(0.0)
    assert cohen_kappa(["a", "b"], ["b", "a"]) == pytest.approx(-1.0)


def test_items_that_one_judge_left_out_do_not_count() -> None:
    assert cohen_kappa(["a", "b", None], ["a", "b", "a"]) == pytest.approx(1.0)
    assert math.isnan(raw_agreement([None], ["a"]))


def test_kappa_is_nan_where_both_say_one_thing_only() -> None:
    assert raw_agreement(["a", "a"], ["a", "a"]) == 1.0
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))


def test_judges_of_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="labelled 1 and 2 items"):
        cohen_kappa(["a"], ["a", "b"])
