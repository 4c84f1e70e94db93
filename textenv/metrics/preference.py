"""What pairwise verdicts amount to: win rate, win rate at equal length, agreement between judges.

The length-controlled win rate follows AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): a logistic regression of the verdict
on the difference of lengths, and its prediction where that difference is zero. Departures:

1. P(A wins) = σ(θ + φ tanh(Δ / sd Δ)), Δ in characters, without their term for the difficulty of a prompt: it is estimated from
   the verdicts on many other models, and here there are two sets of texts;
2. half a win for each side where the verdict is a tie;
3. a ridge ½ φ² (in units of the log-likelihood of one pair) instead of cross-validated regularisation, so that verdicts that
   follow length alone still have a finite φ; θ is free;
4. the interval comes from refitting on bootstrap resamples of the pairs.

Where one side is always longer by about the same, Δ = 0 lies outside of what was seen, and the number is an extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.metrics.core import Estimate

__all__ = ["cohen_kappa", "length_controlled_win_rate", "raw_agreement", "win_rate"]

_RIDGE = 1.0  # of φ
_STEPS = 60
_LONGEST_STEP = 2.0  # of a Newton step: where the data are separable, the full one overshoots


def win_rate(points: ArrayLike) -> Estimate:
    """The mean of points (1 a win, ½ a tie, 0 a loss; NaN no verdict, left out), with its bootstrap interval.

    >>> rate = win_rate([1.0, 0.5, 0.0, 1.0, float("nan")])
    >>> float(rate), len(rate.values)
    (0.625, 4)

    Raises:
        ValueError: other points.
    """
    return Estimate(_known(points)[0])


def length_controlled_win_rate(
    points: ArrayLike, differences: ArrayLike, *, level: float = 0.95, n: int = 1000, rng: np.random.Generator | None = None
) -> tuple[float, tuple[float, float]]:
    """The win rate of A, were its texts as long as those of B, and its interval.

    A judge that takes the longer text wherever there is one finds nothing between texts of equal length:

    >>> rate, _ = length_controlled_win_rate([1, 1, 1, 0, 1, 1, 0, 0.5], [9, 8, 20, -5, 30, 6, -8, 0])
    >>> round(float(win_rate([1, 1, 1, 0, 1, 1, 0, 0.5])), 2), 0.45 < rate < 0.65
    (0.69, True)

    Args:
        points: (B,) as in `win_rate`.
        differences: (B,) length of A's text minus that of B's.
        level, n, rng: of the bootstrap interval; by default a generator of its own, seeded 0.

    Returns:
        The rate and its interval; NaN where there is no verdict, or where every difference is the same and not zero.

    Raises:
        ValueError: not one finite difference a pair; other points.
    """
    values, kept = _known(points)
    lengths = np.asarray(differences, np.float64)
    if lengths.shape != kept.shape or not np.isfinite(lengths).all():
        raise ValueError(f"one finite difference of lengths a pair is wanted, got shape {lengths.shape} for {kept.shape}")
    lengths = lengths[kept]
    if len(values) == 0 or (np.ptp(lengths) == 0 and lengths[0] != 0):
        return math.nan, (math.nan, math.nan)
    x = np.tanh(lengths / lengths.std()) if np.ptp(lengths) else np.zeros_like(lengths)
    counts = _resamples(len(values), n, rng)
    rates = _at_zero(x, values, np.concatenate([np.ones((1, len(values))), counts]))
    low, high = np.quantile(rates[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(rates[0]), (float(low), float(high))


def raw_agreement(one: Sequence[Hashable | None], other: Sequence[Hashable | None]) -> float:
    """The share of items that two judges label alike, of those that both label (None: no label); NaN where there is none.

    >>> raw_agreement(["a", "b", None, "tie"], ["a", "a", "b", "tie"])
    0.6666666666666666
    """
    both = _both(one, other)
    return sum(a == b for a, b in both) / len(both) if both else math.nan


def cohen_kappa(one: Sequence[Hashable | None], other: Sequence[Hashable | None]) -> float:
    """Agreement beyond chance, κ = (p_o − p_e) / (1 − p_e) (Cohen 1960), over the items that both label.

    NaN where chance alone agrees on everything: both judges gave one and the same label throughout.

    >>> cohen_kappa(["a", "a", "b", "b"], ["a", "b", "b", "b"])
    0.5
    """
    both = _both(one, other)
    if not both:
        return math.nan
    observed = sum(a == b for a, b in both) / len(both)
    labels = {label for pair in both for label in pair}
    shares = [[sum(pair[side] == label for pair in both) / len(both) for side in (0, 1)] for label in labels]
    chance = sum(of_one * of_other for of_one, of_other in shares)
    return math.nan if chance >= 1 - 1e-12 else (observed - chance) / (1 - chance)


def _both(one: Sequence[Hashable | None], other: Sequence[Hashable | None]) -> list[tuple[Hashable, Hashable]]:
    if len(one) != len(other):
        raise ValueError(f"the judges labelled {len(one)} and {len(other)} items; give None where one has no label")
    return [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]


def _known(points: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The points that are there, and where."""
    values = np.asarray(points, np.float64)
    kept: NDArray[np.bool_] = ~np.isnan(values)
    wrong = kept & ~np.isin(values, (0.0, 0.5, 1.0))
    if values.ndim != 1 or wrong.any():
        raise ValueError(f"points are 1 (a win), 0.5 (a tie), 0 (a loss) or NaN (no verdict), got {values[wrong][:1].tolist()}")
    return values[kept], kept


def _resamples(size: int, n: int, rng: np.random.Generator | None) -> NDArray[np.float64]:
    """(n, size): how often each pair is drawn."""
    rng = rng or np.random.default_rng(0)
    return rng.multinomial(size, np.full(size, 1 / size), n).astype(np.float64)


def _at_zero(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) σ(θ) of the regression of y on x under each row of weights (R, B), by Newton's method.

    A side that wins always has no finite θ: it stays as it is (0 or 1).
    """
    total = weights.sum(1)
    mean = weights @ y / total
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(theta[:, None] + phi[:, None] * x)))  # (R, B)
        residual, curvature = weights * (y - p), weights * p * (1 - p)
        g0, g1 = residual.sum(1), residual @ x - _RIDGE * phi
        h00, h01, h11 = curvature.sum(1) + 1e-9, curvature @ x, curvature @ x**2 + _RIDGE
        determinant = h00 * h11 - h01**2
        steps = np.stack([(h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant])
        steps = np.clip(steps, -_LONGEST_STEP, _LONGEST_STEP)
        theta, phi = np.clip(theta + steps[0], -30, 30), phi + steps[1]
        if np.abs(steps).max() < 1e-10:
            break
    rates: NDArray[np.float64] = np.where((mean == 0) | (mean == 1), mean, 1 / (1 + np.exp(-theta)))
    return rates
