"""Is the credit on the right tokens? Measures of credit against known truth, with intervals.

Truth is a mask over the tokens of a text: whether a token shares a character with a true span (an insult, a wrong word).
A reward is asked how well it finds them: with `sign=-1` by −credit, for bad spans; with `sign=1` by credit, for good ones.

1. `auc`: within a text, how often a token on a true span ranks above one that is not (ties half: midranks), averaged over
   the texts that hold both kinds. Credit that is the same for all tokens of a text gives exactly .5, whatever its size.
2. `auc_pooled`, `average_precision`: the same curve, and precision averaged over recall, over the tokens of all texts
   together (a threshold at each different value, so ties are one step). A reward that only tells bad texts from good ones
   is above chance here; chance is .5, and the share of tokens on true spans.
3. `share`: Σ |credit| on true spans over Σ |credit|, all texts together. Chance: the share of tokens on true spans.
4. `spearman`, `pearson`: correlation, within a text, of credit and what the score loses without the token
   (`deletion_effects`), averaged over the texts in which both vary. Effects below 1 % of the largest are zero: a scorer that is
   sure of its verdict hardly moves when one of two insults is deleted, and the order of such trifles would be noise.

Intervals are percentile bootstrap intervals over *texts* (the tokens of one resemble one another).

What is credit placement? `sparse` puts the score on the last token because a text ends there, not because that token earned it.
So what a reward leaves there of the score is not counted. It is found by asking, not by a list of names: every score is raised by a
constant, those of prefixes too (`Raised`). Where the credit of the last token answers by a constant share λ of that (a critic's
spans beside the score: 1; half of the score and something else: ½) and no other token answers, λ × score is taken out of the last
token (`score_left`). Where other tokens answer, the reward *moves* the score (uniform, attention): that is its placement, measured
as delivered. So is credit that does not answer (differences of prefix scores), and credit in which the score is transformed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.alignment import overlap
from textenv.data.labelled import area_under_curve
from textenv.episode import Episode, Span
from textenv.metrics import Estimate
from textenv.task import Scorer, check_scores

__all__ = [
    "TRANSFORMED",
    "Interval",
    "Raised",
    "ScoreLeft",
    "credit_quality",
    "deletion_effects",
    "score_left",
    "truth_mask",
    "without_score",
]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
STEP = 0.125  # by which scores are raised; exact in binary
CHUNK = 1024  # shortened texts scored together


class Interval(NamedTuple):
    """A number and its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def truth_mask(episode: Episode, spans: Sequence[Span], sign: int = -1) -> Mask:
    """(T,) bool: the tokens that share a character with a bad (`sign=-1`) or a good (`sign=1`) span."""
    mask = np.zeros(len(episode), np.bool_)
    for span in spans:
        if span.reward * sign > 0:
            mask |= overlap(episode.offsets, span.start, span.end)
    return mask


def credit_quality(
    credit: Sequence[Floats],
    truth: Sequence[Mask],
    effects: Sequence[Floats | None] | None = None,
    *,
    sign: int = -1,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """The measures of one reward, by name.

    >>> credit = [np.array([0.0, -0.5, 0.0, 0.0]), np.array([0.0, 0.0, -0.5, -0.5])]
    >>> truth = [np.array([False, True, False, False]), np.array([False, False, False, True])]
    >>> {name: round(measure.value, 3) for name, measure in credit_quality(credit, truth).items()}
    {'auc': 0.917, 'auc_pooled': 0.917, 'average_precision': 0.667, 'share': 0.667, 'spearman': nan, 'pearson': nan}

    Args:
        credit: (T,) of each text.
        truth: (T,) of each text: the tokens on true spans.
        effects: (T,) of each text, as `deletion_effects` gives them; None where they were not measured.
        sign: -1: the true spans are bad, so low credit finds them; 1: they are good.
        bootstrap: resamples.
        seed: of the resampling.

    Raises:
        ValueError: shapes that differ; no token, or every token, on a true span; another sign.
    """
    if sign not in (-1, 1):
        raise ValueError(f"sign is -1 (bad spans) or 1 (good spans), got {sign}")
    for i, (values, mask) in enumerate(zip(credit, truth, strict=True)):
        if values.shape != mask.shape:
            raise ValueError(f"text {i}: credit of shape {values.shape} and truth of shape {mask.shape} should be as long")
    positive = np.concatenate([*truth, np.zeros(0, np.bool_)])
    if not positive.any() or positive.all():
        kind = {-1: "bad", 1: "good"}[sign]
        raise ValueError(
            f"{positive.sum()} of {len(positive)} tokens are on a {kind} span: there is nothing to tell apart; give texts that "
            "hold both kinds, or choose the other sign"
        )
    texts = range(len(credit))
    known = _above_trifles(effects or [None] * len(credit))
    within = [area_under_curve(sign * credit[i], truth[i]) for i in texts]
    size = np.array([np.abs(values).sum() for values in credit])
    hit = np.array([np.abs(values[mask]).sum() for values, mask in zip(credit, truth, strict=True)])
    found = {"auc": _mean(within, bootstrap, seed), **_pooled(credit, truth, sign, bootstrap, seed)}
    found["share"] = _interval(Estimate(hit / np.where(size > 0, size, 1.0), size), bootstrap, seed)
    both = [(values, effect) for values, effect in zip(credit, known, strict=True) if effect is not None]
    found["spearman"] = _mean([_correlation(_midranks(a), _midranks(b)) for a, b in both], bootstrap, seed)
    found["pearson"] = _mean([_correlation(a, b) for a, b in both], bootstrap, seed)
    return found


def _above_trifles(effects: Sequence[Floats | None]) -> list[Floats | None]:
    least = 0.01 * max((float(np.abs(each).max(initial=0.0)) for each in effects if each is not None), default=0.0)
    return [None if each is None else np.where(np.abs(each) < least, 0.0, each) for each in effects]


def _mean(values: Sequence[float], bootstrap: int, seed: int) -> Interval:
    """Over the texts in which the value is defined."""
    known = np.array(values, np.float64)
    return _interval(Estimate(known[~np.isnan(known)]), bootstrap, seed)


def _interval(estimate: Estimate, bootstrap: int, seed: int) -> Interval:
    if math.isnan(estimate):
        return Interval(math.nan, math.nan, math.nan)
    return Interval(float(estimate), *estimate.interval(n=bootstrap, rng=np.random.default_rng(seed)))


def _pooled(credit: Sequence[Floats], truth: Sequence[Mask], sign: int, bootstrap: int, seed: int) -> dict[str, Interval]:
    """`auc_pooled` and `average_precision`. Tokens are sorted once; a resample is a number of copies of each text."""
    values = sign * np.concatenate(credit)  # (N,)
    order = np.argsort(-values, kind="stable")
    text = np.repeat(np.arange(len(credit)), [len(part) for part in credit])[order]  # (N,)
    positive = np.concatenate(truth)[order].astype(np.float64)
    starts = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))  # of each run of ties

    def curve(copies: Floats) -> tuple[float, float]:
        weight = copies[text]
        hits = np.add.reduceat(weight * positive, starts)  # (ties,)
        misses = np.add.reduceat(weight * (1.0 - positive), starts)
        above, others = hits.cumsum(), misses.cumsum()
        if not above[-1] or not others[-1]:
            return math.nan, math.nan
        area = float(hits @ (others[-1] - others + misses / 2)) / float(above[-1] * others[-1])
        precision = above / np.maximum(above + others, 1e-300)  # 0/0 where a resample holds none of the first texts
        return area, float(hits @ precision) / float(above[-1])

    rng, n = np.random.default_rng(seed), len(credit)
    draws = [curve(np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)) for _ in range(bootstrap)]
    low, high = np.nanquantile(np.array(draws), [0.025, 0.975], axis=0)
    names = ("auc_pooled", "average_precision")
    numbers = zip(names, curve(np.ones(n)), low.tolist(), high.tolist(), strict=True)
    return {name: Interval(value, least, most) for name, value, least, most in numbers}


def _midranks(values: Floats) -> Floats:
    """(T,) ranks from 1, those of ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's; NaN where one of the two does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    x, y = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return float(x @ y) / scale if scale else math.nan


# --- What a token does to the score ------------------------------------------------------------------------------------


def deletion_effects(
    scorer: Scorer, episodes: Sequence[Episode], on_progress: Callable[[int], None] | None = None
) -> list[Floats]:
    """What each token gives to the score: score − score of the text without the token's characters, (T,) each.

    A token without characters (EOS) gives 0. A character that several tokens hold together goes with each of them.

    Args:
        scorer: episodes → scores. It is called on all shortened texts, `CHUNK` at a time.
        on_progress: called with the number of texts scored so far.
    """
    wanted = [(i, t) for i, episode in enumerate(episodes) for t in np.flatnonzero(np.ptp(episode.offsets, axis=1)).tolist()]
    whole = check_scores(scorer(episodes), episodes, scorer)
    out = [np.zeros(len(episode), np.float64) for episode in episodes]
    for first in range(0, len(wanted), CHUNK):
        part = wanted[first : first + CHUNK]
        shorter = [_without_token(episodes[i], t) for i, t in part]
        for (i, t), score in zip(part, check_scores(scorer(shorter), shorter, scorer), strict=True):
            out[i][t] = whole[i] - score
        if on_progress is not None:
            on_progress(min(first + CHUNK, len(wanted)))
    return out


def _without_token(episode: Episode, t: int) -> Episode:
    begin, end = episode.offsets[t].tolist()
    offsets = np.delete(episode.offsets, t, axis=0)
    return replace(
        episode,
        text=episode.text[:begin] + episode.text[end:],
        tokens=np.delete(episode.tokens, t),
        offsets=np.where(offsets <= begin, offsets, np.maximum(offsets - (end - begin), begin)),
        rewards=np.delete(episode.rewards, t),
    )


# --- What of the score is left on the last token -----------------------------------------------------------------------


class Raised:
    """A scorer whose every score, of prefixes too, is `STEP` higher; else the one it is made of."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        """(B,) scores."""
        return [score + STEP for score in self._scorer(episodes)]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._scorer, name)
        if name != "prefix_scores":
            return found
        return lambda *arguments, **options: [np.asarray(values) + STEP for values in found(*arguments, **options)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Raised:
        return self


@dataclass(frozen=True)
class ScoreLeft:
    """What a reward does with the score: the share that stays on the last token, and a word for it."""

    share: float
    what: str


TRANSFORMED = ScoreLeft(0.0, "transformed")


def score_left(env: gym.Env[Any, Any], raised: gym.Env[Any, Any], episodes: Sequence[Episode]) -> ScoreLeft:
    """Which share of the score the rewards of `env` leave on the last token, and there alone.

    Args:
        env: the environment with its reward wrappers.
        raised: the same, made with `scorer=Raised(scorer)`.
        episodes: a few finished ones.
    """
    if not episodes or any(not episode.finished for episode in episodes):
        raise ValueError("the score's place is found on finished episodes; give at least one")
    before, after = (each.get_wrapper_attr("credit")(episodes) for each in (env, raised))
    answers = [(more.rewards - less.rewards) / STEP for less, more in zip(before, after, strict=True)]
    if any(np.abs(answer[:-1]).max(initial=0.0) > 1e-6 for answer in answers):
        return ScoreLeft(0.0, "moved")
    last = np.array([answer[-1] for answer in answers])
    if np.abs(last).max() <= 1e-6:
        return ScoreLeft(0.0, "none left")
    if np.ptp(last) > 1e-6:
        return TRANSFORMED
    share = float(last.mean())
    if abs(share - round(share, 6)) < 1e-9:  # what rounding made of 1, of 1/2
        share = round(share, 6)
    return ScoreLeft(share, "taken out" if share == 1 else f"{share:.3g} × taken out")


def without_score(episodes: Sequence[Episode], left: ScoreLeft) -> list[Floats]:
    """The credit of each episode less what of its score was left on the last token, (T,) each.

    What rounding leaves there would break the ties with other tokens (0.01 and 0.010000000000000009): a rest that is as good as
    what another token of these texts got, or as 0, is set to that.
    """
    if not left.share:
        return [episode.rewards.copy() for episode in episodes]
    others = np.unique(np.concatenate([np.zeros(1), *(episode.rewards[:-1] for episode in episodes)]))
    out = []
    for episode in episodes:
        credit = episode.rewards.copy()
        if len(credit):
            taken = left.share * episode.score
            credit[-1] = _snapped(float(credit[-1] - taken), others, 1e-9 * max(abs(float(credit[-1])), abs(taken)))
        out.append(credit)
    return out


def _snapped(value: float, grid: Floats, within: float) -> float:
    """The number of an ascending grid that is nearest, if it is near enough; else the value, rounded to `within`."""
    at = int(np.searchsorted(grid, value))
    nearest = float(min(grid[max(at - 1, 0) : at + 1], key=lambda number: abs(number - value)))
    if abs(nearest - value) <= within:
        return nearest
    return round(value / within) * within if within else value
