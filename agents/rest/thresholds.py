"""How good a sample has to be to be learned from: rising thresholds, and the filter of ReST, RAFT and their relatives.

    F(x, y; τ) = 1[R(x, y) > τ]          strict (ReST, Gulcehre et al. 2023, arXiv 2308.08998, Sect. 3)

A threshold τ may be one number for all samples or one for each source (prompt); ReST's appendix A.7 has both.

1. τ = None keeps everything. The paper writes 0.0 for its unfiltered set, but 0 > 0 is false.
2. Levels must tighten from one Improve step to the next, so that a later set of samples lies within the former.
3. A quantile interpolates linearly between samples (numpy's default). Where all rewards are equal, none lies above it.
4. "source_best" counts different rewards: samples that tie for the best are all kept. Without ties, level 1 is RAFT's best of K
   (Dong et al. 2023, arXiv 2304.06767): the strict threshold at the second-largest reward.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["ThresholdKind", "check_levels", "cut", "filtered", "most_of_each"]

ThresholdKind = Literal["absolute", "quantile", "source_quantile", "source_gamma", "source_best"]
"""What a level says.

"absolute": the reward itself. "quantile": this quantile of all rewards. "source_quantile": of the rewards of the same source.
"source_gamma": γ V_max + (1 − γ) V_mean of the source (A.7). "source_best": the so many best different rewards of the source.
"""

Floats = NDArray[np.float64]


def check_levels(kind: ThresholdKind, levels: Sequence[float | None]) -> None:
    """Nothing, where the levels can be read and each is stricter than the one before.

    Raises:
        ValueError: an unknown kind; a level out of range; levels that do not tighten.
    """
    if kind not in get_args(ThresholdKind):
        raise ValueError(f"threshold must be one of {', '.join(get_args(ThresholdKind))}, got {kind!r}")
    for level in levels:
        if level is None:
            continue
        if kind == "source_best" and (level != int(level) or level < 1):
            raise ValueError(f"a level of 'source_best' is a number of rewards from 1, got {level}")
        if kind in ("quantile", "source_quantile", "source_gamma") and not 0 <= level <= 1:
            raise ValueError(f"a level of {kind!r} lies in 0..1, got {level}; for a reward itself: threshold='absolute'")
        if not math.isfinite(level):
            raise ValueError(f"a threshold must be finite, got {level}; None keeps everything")
    strictness = [-math.inf if x is None else -x if kind == "source_best" else x for x in levels]
    if any(a >= b for a, b in itertools.pairwise(strictness)):
        way = "fall" if kind == "source_best" else "rise"
        raise ValueError(f"thresholds must {way} from one Improve step to the next (None, if at all, first), got {list(levels)}")


def cut(kind: ThresholdKind, level: float | None, rewards: Floats, sources: Sequence[Hashable]) -> Floats:
    """The threshold of every sample.

    >>> cut("quantile", 0.5, np.array([0.0, 1.0, 2.0]), "aab").tolist()
    [1.0, 1.0, 1.0]
    >>> cut("source_gamma", 0.5, np.array([0.0, 1.0, 2.0]), "aab").tolist()
    [0.75, 0.75, 2.0]
    >>> cut("source_best", 1, np.array([0.0, 1.0, 2.0]), "aab").tolist()
    [0.0, 0.0, -inf]

    Args:
        kind: what the level says.
        level: None keeps everything.
        rewards: (N,).
        sources: N keys; samples of equal keys answer the same prompt.

    Returns:
        (N,) to be exceeded; −inf where nothing is asked.
    """
    if level is None or not len(rewards):
        return np.full(len(rewards), -np.inf)
    if kind == "absolute":
        return np.full(len(rewards), float(level))
    if kind == "quantile":
        return np.full(len(rewards), np.quantile(rewards, level))
    out = np.empty(len(rewards))
    for rows in _groups(sources):
        out[rows] = _of_source(kind, level, rewards[rows])
    return out


def filtered(rewards: Floats, thresholds: Floats) -> NDArray[np.bool_]:
    """F(x, y; τ): (N,), True where the reward is strictly above.

    >>> filtered(np.array([0.1, 0.5, 0.5, 0.9]), np.full(4, 0.5)).tolist()
    [False, False, False, True]
    """
    kept: NDArray[np.bool_] = rewards > thresholds
    return kept


def most_of_each(kept: NDArray[np.bool_], rewards: Floats, sources: Sequence[Hashable], most: int) -> NDArray[np.bool_]:
    """Of what is kept, at most so many of each source: the best, the first among equals."""
    out = np.zeros_like(kept)
    for rows in _groups(sources):
        mine = rows[kept[rows]]
        out[mine[np.argsort(-rewards[mine], kind="stable")[:most]]] = True
    return out


def _of_source(kind: ThresholdKind, level: float, rewards: Floats) -> float:
    if kind == "source_quantile":
        return float(np.quantile(rewards, level))
    if kind == "source_gamma":
        most = float(rewards.max())
        # the mean of equal numbers may round to less than they are, and none of them is better than the others
        return most if rewards.min() == most else level * most + (1 - level) * float(rewards.mean())
    different = np.unique(rewards)  # ascending
    return float(different[-int(level) - 1]) if len(different) > level else -math.inf


def _groups(sources: Sequence[Hashable]) -> list[NDArray[np.int64]]:
    """Indices of the samples of each source, in order of first appearance."""
    rows: dict[Hashable, list[int]] = {}
    for i, source in enumerate(sources):
        rows.setdefault(source, []).append(i)
    return [np.array(members, np.int64) for members in rows.values()]
