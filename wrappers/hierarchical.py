"""ALaRM: aspects are paid only where the text as a whole is good already; and the weighted sum it is compared with.

Paper: Lai et al. 2024, *ALaRM: Align Language Models via Hierarchical Rewards Modeling* (arXiv 2403.06754). With R_H the
score, h its z-score on texts of the initial policy, a_{k,t} the raw value of aspect k at token t, s the squashing:

    h   = (R_H − μ) / σ             s(a) = 1 / (1 + exp(−a))
    r_t = 1[t = T] w_H h                                            where h < τ
    r_t = 1[t = T] w_H h + Σ_k w_k s(a_{k,t})   at placed t alone    where h ≥ τ

`weighted_sum` is the same without the gate. The paper's other two baselines are settings: aspects alone is
`("weighted_sum", {"holistic_weight": 0})`, the holistic reward alone is `("hierarchical", {"gate": math.inf})`.

Departures from the released code:

1. a reward sits at its own token; the code pads on the wrong side and moves it;
2. w_H and τ are the task's, μ and σ those of the embedded policy, unless given; UltraRM's constants fit no other scorer;
3. an aspect of which lower is better is turned around before it is squashed;
4. length is not squashed, as there, and is divided by its mean over texts of the initial policy, where a statistics file tells
   it, else by the budget of new tokens (`Aspect.squash`, `Aspect.scale`);
5. `normalise="per_position"` divides an aspect's sum by its number of placed positions, so that length does not pay; off,
   as in the paper;
6. short texts (`short_tokens`) get h = −10 and no aspects, but the environment has asked the scorer before.

The score is taken from the last token and w_H h put there: a second reward that takes the score is refused. The return is
not kept: report `Episode.score` apart. An unfinished text has no score, so the gate is shut and nothing is paid; without the
gate those pieces are paid that have come to their end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.aspects import Aspect, Placed, pick_aspects, pick_weights
from textenv.episode import Episode
from textenv.judges.statistics import aspect_means, checked_statistics, read_statistics
from textenv.reward import NotApplicable, RewardWrapper
from textenv.task import Task

__all__ = ["HierarchicalReward", "WeightedSumReward"]

Aspects = str | Aspect | Sequence[str | Aspect] | None
Weights = float | Sequence[float] | Mapping[str, float] | None
SHORT = -10.0  # h of a text that is too short


class _AspectReward(RewardWrapper):
    """What both share: all but the gate."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        aspects: Aspects,
        weights: Weights,
        gate: float | None,
        holistic_weight: float | None,
        statistics: tuple[float, float] | str | os.PathLike[str] | None,
        squash: Literal["sigmoid"] | None,
        normalise: Literal["per_position"] | None,
        short_tokens: int | None,
    ) -> None:
        super().__init__(env)
        if squash not in ("sigmoid", None):
            raise ValueError(f'squash must be "sigmoid" or None, got {squash!r}')
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
        self._texts, self._open, self._sums = 0, 0, dict.fromkeys((aspect.name for aspect in self.aspects), 0.0)

    def _chosen(self, task: Task, aspects: Aspects) -> list[Aspect]:
        return pick_aspects(task.aspects, aspects)

    def _statistics(self, task: Task, given: tuple[float, float] | str | os.PathLike[str] | None) -> tuple[float, float]:
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

    def _scales(
        self, env: gym.Env[Any, Any], given: tuple[float, float] | str | os.PathLike[str] | None
    ) -> dict[str, float]:
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
        for aspect, weight in zip(self.aspects, self.weights, strict=True):
            if weight:
                for i, placed in zip(opened, aspect.placed([episodes[i] for i in opened], settled=True), strict=True):
                    paid = weight * self._shaped(aspect, placed)
                    out[i] += paid
                    self._sums[aspect.name] += float(paid.sum()) if episodes[i].finished else 0.0
        return out

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


class HierarchicalReward(_AspectReward):
    """Pays the score's z-value at the end, and aspects where it reaches the gate.

    Keeps the return: no. Causal: no (hindsight). Takes the score: yes.

    Example, a score of 3 that is half a standard deviation too good, and a verdict of +0.5 on each of two sentences:

        >>> import gymnasium as gym, textenv
        >>> from textenv.wrappers import Aspect, HierarchicalReward
        >>> fact = Aspect("fact", lambda episodes: [[textenv.Span(0, 2, 0.5), textenv.Span(3, 5, 0.5)] for _ in episodes],
        ...               "sentence")
        >>> for gate in (0.5, 0.6):
        ...     env = gym.make("textenv/CountLetter-v0", max_new_tokens=5, scorer=lambda episodes: [3.0] * len(episodes),
        ...                    payment="end", reward=lambda env: HierarchicalReward(env, fact, gate=gate, statistics=(2, 2)))
        ...     _ = env.reset(seed=0)
        ...     for character in "a. b.":
        ...         *_, info = env.step(ord(character))
        ...     print(info["text_episode"].rewards.round(3).tolist())
        [0.0, 0.622, 0.0, 0.0, 1.122]
        [0.0, 0.0, 0.0, 0.0, 0.5]

    Args:
        env: a text environment.
        aspects: names of the task's aspects, or `Aspect`s; default: the task's first.
        weights: w_k: one for all, a list, or by name; default 1.
        gate: τ, in standard deviations; default: the task's (0.5 of translation; 0.6 of long answers).
        holistic_weight: w_H; default: the task's (1; 3 of translation, 5 of long answers).
        statistics: (μ, σ), or a file of `textenv calibrate`; default: of the embedded policy and scorer.
        squash: "sigmoid" (but for aspects that are not to be squashed, as length), or None: raw values.
        normalise: "per_position" divides an aspect's sum by its number of placed positions.
        short_tokens: finished texts of so many tokens or fewer get h = −10 and no aspects (the paper: 2); None: no such rule.

    Raises:
        NotApplicable: μ and σ are not known; the message says who measures them.
        ValueError: no such aspect; bad arguments.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        aspects: Aspects = None,
        *,
        weights: Weights = None,
        gate: float | None = None,
        holistic_weight: float | None = None,
        statistics: tuple[float, float] | str | os.PathLike[str] | None = None,
        squash: Literal["sigmoid"] | None = "sigmoid",
        normalise: Literal["per_position"] | None = None,
        short_tokens: int | None = None,
    ) -> None:
        super().__init__(env, aspects, weights, gate, holistic_weight, statistics, squash, normalise, short_tokens)

    def _chosen(self, task: Task, aspects: Aspects) -> list[Aspect]:
        found = pick_aspects(task.aspects, aspects)
        return found[:1] if aspects is None else found  # the paper pays one, the one that was selected


class WeightedSumReward(_AspectReward):
    """Pays the score's z-value at the end, and all aspects wherever they are placed.

    Keeps the return: no. Causal: no (hindsight). Takes the score: yes.

    `HierarchicalReward` without its gate, with the same arguments otherwise, but by default with all of the task's own aspects.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        aspects: Aspects = None,
        *,
        weights: Weights = None,
        holistic_weight: float | None = None,
        statistics: tuple[float, float] | str | os.PathLike[str] | None = None,
        squash: Literal["sigmoid"] | None = "sigmoid",
        normalise: Literal["per_position"] | None = None,
        short_tokens: int | None = None,
    ) -> None:
        super().__init__(env, aspects, weights, -math.inf, holistic_weight, statistics, squash, normalise, short_tokens)
