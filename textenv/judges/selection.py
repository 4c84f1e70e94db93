"""Which aspect contradicts the score least: ALaRM's proactive selection, as a function of two sets of texts.

Paper: Lai et al. 2024, *ALaRM* (arXiv 2403.06754), and its evaluation code. Pairs of texts of the initial policy on the same
prompts, greedy (g) and sampled (q); i decides by a reward if its two texts differ in it:

    inconsistency_k = 100 · #{i : aspect k and the score both decide, and disagree} / #{i : the score decides}
    win rate_k      = 100 · wins / (wins + losses)    of greedy over sampled by aspect k, ties left out

Departures from the code:

1. an aspect of which lower is better (an error rate) is turned around in both numbers; the code does it in the first alone;
2. ties of an aspect count as no disagreement, as there, so that one which ties often looks consistent: their share is
   reported, and an aspect that never decides is never picked;
3. the numbers have bootstrap intervals over prompts (a prompt with several pairs is drawn with all of them), and an overlap of
   the best two is warned of.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table

from textenv.aspects import Aspect
from textenv.episode import Episode
from textenv.metrics import Estimate

__all__ = ["AspectSelection", "Consistency", "compare_aspects", "consistency"]


@dataclass(frozen=True)
class Consistency:
    """How an aspect stands to the score, over n pairs, in percent.

    Attributes:
        name: of the aspect.
        inconsistency: pairs in which it disagrees with the score, among those that the score decides; an `Estimate`.
        win_rate: of the first set over the second by this aspect, ties left out; NaN where it never decides.
        ties: pairs that the aspect does not decide, among those that the score decides.
    """

    name: str
    inconsistency: Estimate
    win_rate: Estimate
    ties: Estimate


def consistency(
    name: str, first: ArrayLike, second: ArrayLike, score_first: ArrayLike, score_second: ArrayLike,
    *, lower_is_better: bool = False, prompts: Sequence[Hashable] | None = None,
) -> Consistency:  # fmt: skip
    """An aspect's values of n pairs of texts against their scores, (n,) each; NaN: nothing was judged, which is a tie.

    The intervals of the numbers are over `prompts`, (n,) what tells the prompt of each pair; by default each has its own.

    >>> found = consistency("a", [1.0, 2.0, 3.0, 1.0], [0.0, 3.0, 3.0, 0.0], [0.9, 0.8, 0.7, 0.5], [0.1, 0.2, 0.3, 0.5])
    >>> [round(value, 1) for value in (found.inconsistency, found.win_rate, found.ties)]
    [33.3, 66.7, 33.3]

    Raises:
        ValueError: the score decides no pair; lengths that differ.
    """
    by_aspect = _decisions(first, second) * (-1.0 if lower_is_better else 1.0)
    by_score = _decisions(score_first, score_second)
    if by_aspect.shape != by_score.shape:
        raise ValueError(f"{by_aspect.shape} values of the aspect, but {by_score.shape} scores")
    decided = np.abs(by_score)
    if not decided.any():
        raise ValueError(f"the score decides none of {len(decided)} pairs; give more texts, or another score")
    return Consistency(
        name,
        inconsistency=_by_prompt(100.0 * (by_aspect * by_score < 0), decided, prompts),
        win_rate=_by_prompt(100.0 * (by_aspect > 0), np.abs(by_aspect), prompts),
        ties=_by_prompt(100.0 * (by_aspect == 0), decided, prompts),
    )


def _by_prompt(values: NDArray[Any], weights: NDArray[np.float64], prompts: Sequence[Hashable] | None) -> Estimate:
    """The weighted mean of (n,) values as a mean over prompts: of each the mean of its pairs, with their weight."""
    if prompts is None:
        return Estimate(values, weights)
    if len(prompts) != len(values):
        raise ValueError(f"{len(prompts)} prompts of {len(values)} pairs")
    numbers: dict[Hashable, int] = {}
    group = [numbers.setdefault(prompt, len(numbers)) for prompt in prompts]
    weight = np.bincount(group, weights=weights)
    total = np.bincount(group, weights=values * weights)
    return Estimate(np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), weight)


def _decisions(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """+1 where the first is higher, −1 where the second is, 0 for a tie, (n,)."""
    return np.nan_to_num(np.sign(np.asarray(first, np.float64) - np.asarray(second, np.float64)))


@dataclass(frozen=True)
class AspectSelection:
    """The aspects with the most consistent first.

    Attributes:
        rows: one an aspect.
        score_win_rate: of the first set over the second by the score itself, in percent, ties left out.
        n: number of pairs.
    """

    rows: tuple[Consistency, ...]
    score_win_rate: Estimate
    n: int

    @property
    def picked(self) -> str:
        """The name of the aspect that contradicts the score least, among those that decide anything.

        Raises:
            ValueError: none does.
        """
        return self._candidates()[0].name

    def table(self) -> Table:
        """What was measured, each number with its 95 % interval."""
        title = f"Aspects against the score: {self.n} pairs, greedy and sampled; 95 % intervals over prompts"
        table = Table(title=title, caption=f"picked: {self.picked}; by the score greedy wins {_shown(self.score_win_rate)} %")
        for column in ("aspect", "inconsistency %", "greedy wins %", "ties %"):
            table.add_column(column, justify="left" if column == "aspect" else "right")
        for row in self.rows:
            table.add_row(row.name, _shown(row.inconsistency), _shown(row.win_rate), _shown(row.ties))
        return table

    def warn(self) -> None:
        """Say so where the numbers do not tell the best from the second."""
        best, *others = self._candidates()
        if others and best.inconsistency.interval()[1] >= others[0].inconsistency.interval()[0]:
            warnings.warn(
                f"{best.name} ({_shown(best.inconsistency)} %) and {others[0].name} ({_shown(others[0].inconsistency)} %) are not "
                f"told apart by {self.n} pairs; take more, or choose by hand",
                stacklevel=3,
            )

    def _candidates(self) -> list[Consistency]:
        found = [row for row in self.rows if row.ties < 100.0]
        if not found:
            raise ValueError(f"none of the aspects {[row.name for row in self.rows]} tells any two texts apart")
        return found


def compare_aspects(greedy: Sequence[Episode], sampled: Sequence[Episode], aspects: Sequence[Aspect]) -> AspectSelection:
    """The inconsistency of each aspect with the score, from two sets of scored texts on the same prompts.

    Raises:
        ValueError: sets that do not pair up; no aspects; the score decides no pair.
    """
    if len(greedy) != len(sampled) or any(a.prompt != b.prompt for a, b in zip(greedy, sampled, strict=True)):
        raise ValueError(f"{len(greedy)} and {len(sampled)} texts do not pair up: each two continue one prompt")
    if not aspects:
        raise ValueError("no aspects to choose from")
    scores = [[episode.score for episode in episodes] for episodes in (greedy, sampled)]
    if not np.isfinite(scores).all():
        raise ValueError("a text has no score; credit() scores finished texts")
    rows = []
    prompts = [id(episode.prompt) for episode in greedy]
    for aspect in aspects:
        first, second = (aspect.per_text(episodes, empty=math.nan) for episodes in (greedy, sampled))
        rows.append(consistency(aspect.name, first, second, *scores, lower_is_better=aspect.lower_is_better, prompts=prompts))
    by_score = _decisions(*scores)
    rows.sort(key=lambda row: (float(row.inconsistency), float(row.ties)))
    return AspectSelection(tuple(rows), _by_prompt(100.0 * (by_score > 0), np.abs(by_score), prompts), len(greedy))


def _shown(value: Estimate) -> str:
    if math.isnan(value):
        return "–"
    low, high = value.interval()
    return f"{value:.1f} ({low:.1f} … {high:.1f})"
