"""What ALaRM's two rewards share, all but the gate: the z-score on the last token, aspects at their places, their numbers.

Formulas, paper and departures stand in `hierarchical`, which adds the gate.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.aspects import Aspect, Placed, pick_aspects, pick_weights
from textenv.episode import Episode
from textenv.judges.statistics import Distribution, aspect_distributions, aspect_means, checked_statistics, read_statistics
from textenv.reward import NotApplicable, RewardWrapper
from textenv.task import Task
from textenv.wrappers.draws import generator_of

__all__ = ["AspectPayment", "Aspects", "Statistics", "Weights", "file_of"]

Aspects = str | Aspect | Sequence[str | Aspect] | None
Weights = float | Sequence[float] | Mapping[str, float] | None
Statistics = tuple[float, float] | str | os.PathLike[str] | None
SHORT = -10.0  # h of a text that is too short


class AspectPayment(RewardWrapper):
    """Pays the score's z-value at the end, and aspects where it reaches `gate` (−∞: everywhere)."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        aspects: Aspects,
        weights: Weights,
        gate: float | None,
        holistic_weight: float | None,
        statistics: Statistics,
        squash: Literal["sigmoid"] | None,
        normalise: Literal["per_position"] | None,
        short_tokens: int | None,
        values: Literal["judged", "random"],
        seed: int,
    ) -> None:
        super().__init__(env)
        if values not in ("judged", "random") or seed < 0:
            raise ValueError(f'values must be "judged" or "random", and seed not negative, got {values!r}, {seed}')
        if squash not in ("sigmoid", None):
            raise ValueError(f'squash must be "sigmoid" or None, got {squash!r}')
        if short_tokens is not None and short_tokens < 0:
            raise ValueError(f"short_tokens must not be negative (None: no text is too short), got {short_tokens}")
        if normalise not in ("per_position", None):
            raise ValueError(f'normalise must be "per_position" or None, got {normalise!r}')
        task: Task = env.get_wrapper_attr("task")
        self.gate = task.reward_defaults.gate if gate is None else float(gate)
        if math.isnan(self.gate):
            raise ValueError("gate must be a number of standard deviations (or ±inf), got nan")
        self.aspects = self._chosen(task, aspects)
        self.weights = pick_weights(self.aspects, weights)
        self.holistic_weight = task.reward_defaults.holistic_weight if holistic_weight is None else float(holistic_weight)
        if not math.isfinite(self.holistic_weight):
            raise ValueError(f"holistic_weight must be finite, got {self.holistic_weight}")
        self.mean, self.sd = self._statistics(task, statistics)
        self.scales = self._scales(env, statistics)
        self.squash, self.normalise, self.short_tokens = squash, normalise, short_tokens
        self.values, self.seed = values, seed
        self._marginals: dict[str, Distribution] = {}
        if values == "random":
            names = [aspect.name for aspect in self.aspects]
            self._marginals = aspect_distributions(file_of(statistics, 'values="random" draws what was seen'), names)
        self._texts, self._open, self._sums = 0, 0, dict.fromkeys((aspect.name for aspect in self.aspects), 0.0)

    def _chosen(self, task: Task, aspects: Aspects) -> list[Aspect]:
        return pick_aspects(task.aspects, aspects)

    def _statistics(self, task: Task, given: Statistics) -> tuple[float, float]:
        if isinstance(given, (str, os.PathLike)):
            return read_statistics(given)
        if given is not None:
            return checked_statistics(given)
        if self.holistic_weight == 0 and self.gate == -math.inf:
            return 0.0, 1.0  # no z-score is asked for
        known = task.score_statistics
        if known is None:
            raise NotApplicable(
                f"{type(self).__name__} needs the mean and standard deviation of the score on texts of the initial policy, which "
                f"are not known for this scorer of {type(task).__name__}: pass statistics=(mean, sd), or statistics=FILE of "
                "`textenv calibrate`"
            )
        return known

    def _scales(self, env: gym.Env[Any, Any], given: Statistics) -> dict[str, float]:
        """What the raw values of each aspect are divided by."""
        measured = aspect_means(given) if isinstance(given, (str, os.PathLike)) else {}
        budget = float(env.get_wrapper_attr("action_rule").max_new_tokens)
        scales = {a.name: measured.get(a.name, budget) if a.scale == "mean" else float(a.scale) for a in self.aspects}
        for name, scale in scales.items():
            if not scale > 0:
                raise ValueError(f"the aspect {name!r} is divided by its mean, {scale} in {given}; pass an Aspect with scale=")
        return scales

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """r_t, (T,) each; one call of each aspect's judge for all texts whose gate is open."""
        out = [episode.rewards.copy() for episode in episodes]
        opened = []
        for i, episode in enumerate(episodes):
            if not episode.finished:
                if len(episode) and self.gate == -math.inf:
                    opened.append(i)
                continue
            short = self.short_tokens is not None and len(episode) <= self.short_tokens
            h = SHORT if short else (episode.score - self.mean) / self.sd
            out[i][-1] = (out[i][-1] - episode.score) + self.holistic_weight * h
            is_open = not short and h >= self.gate
            self._texts, self._open = self._texts + 1, self._open + is_open
            if is_open:
                opened.append(i)
        for k, (aspect, weight) in enumerate(zip(self.aspects, self.weights, strict=True)):
            if weight:
                for i, placed in zip(opened, aspect.placed([episodes[i] for i in opened], settled=True), strict=True):
                    if self.values == "random":
                        placed = self._drawn(k, placed[0], episodes[i])
                    paid = weight * self._shaped(aspect, placed)
                    out[i] += paid
                    self._sums[aspect.name] += float(paid.sum()) if episodes[i].finished else 0.0
        return out

    def _drawn(self, k: int, where: NDArray[np.bool_], episode: Episode) -> Placed:
        """Values of aspect k that know nothing of the text, in the places of those that do."""
        seen, counts = np.array(self._marginals[self.aspects[k].name]).T
        out = np.zeros(len(where), np.float64)
        generator = generator_of(self.seed, episode).spawn(k + 1)[k]
        out[where] = generator.choice(seen, size=int(where.sum()), p=counts / counts.sum())
        return where, out

    def _shaped(self, aspect: Aspect, placed: Placed) -> NDArray[np.float64]:
        """s(a_t) where the aspect has a value, (T,); 0 elsewhere, though s(0) is not."""
        where, raw = placed
        out = np.zeros(len(raw), np.float64)
        value = aspect.sign * raw[where] / self.scales[aspect.name]
        squashed = self.squash is not None and aspect.squash
        out[where] = 0.5 * (1.0 + np.tanh(value / 2)) if squashed else value  # = 1 / (1 + exp(-a)), which would overflow
        return out / where.sum() if self.normalise and where.any() else out

    def metrics(self) -> dict[str, float]:
        """`credit/gate_open` (share of finished texts) and, a finished text, `credit/aspect/<name>`, since the last call."""
        texts = max(self._texts, 1)
        out = {"credit/gate_open": self._open / texts}
        out |= {f"credit/aspect/{name}": total / texts for name, total in self._sums.items()}
        self._texts, self._open, self._sums = 0, 0, dict.fromkeys(self._sums, 0.0)
        return out


def file_of(statistics: Statistics, why: str) -> str | os.PathLike[str]:
    """The file of `textenv calibrate`, where nothing else will do.

    Raises:
        NotApplicable: there is none.
    """
    if not isinstance(statistics, (str, os.PathLike)):
        raise NotApplicable(
            f"{why} on texts of the initial policy: pass statistics=FILE of `textenv calibrate`, not {statistics!r}"
        )
    return statistics
