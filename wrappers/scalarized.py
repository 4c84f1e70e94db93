"""Several aspects made into one score of the text: the scalarizations of MORLAIF.

Paper: Williams 2024, *Multi-objective Reinforcement learning from AI Feedback* (arXiv 2406.07295). With r_i the verdict of
aspect i on a text and w_i its weight, u_i = w_i r_i; weights come first, for every function:

    linear                Σ u_i
    worst_case            min u_i
    soft_max_min          Σ u_i e^{−u_i/T} / Σ e^{−u_i/T}
    uncertainty_weighted  mean u − λ var u                    (population variance)
    lower_quantile        mean of the ⌊q K⌋ smallest u_i, at least one
    max_median            median u
    bernoulli_nash        (Π u_i)^{1/K}

Departures from the released code, of which but two functions work on a batch:

1. objectives are an explicit axis, the last; a batch gives what its rows give alone;
2. min u is subtracted before exp; ⌊q K⌋ is at least 1; the median of an even number is the mean of the middle two;
3. the geometric mean has its root, and asks for positive numbers: `positive="sigmoid"` (the default) maps u into (0, 1)
   first, None raises where a u_i is not positive;
4. an aspect of which lower is better is turned around; a verdict is the mean over the aspect's pieces (`reduce="sum"`: their
   sum, which grows with the number of pieces).

The scalar replaces the score on the last token (`keep_score=True`: stands beside it). The return is not kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.aspects import Aspect, pick_aspects, pick_weights
from textenv.episode import Episode
from textenv.reward import RewardWrapper
from textenv.task import Task

__all__ = ["SCALARIZERS", "ScalarizedReward", "scalarize"]

Values = NDArray[np.float64]


def linear(u: Values) -> Values:
    """(..., K) → (...,): the sum."""
    return np.asarray(u.sum(-1))


def worst_case(u: Values) -> Values:
    """(..., K) → (...,): the smallest."""
    return np.asarray(u.min(-1))


def soft_max_min(u: Values, *, temperature: float = 1.0) -> Values:
    """(..., K) → (...,): between the smallest (temperature → 0) and the mean (→ ∞)."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    share = np.exp((u.min(-1, keepdims=True) - u) / temperature)
    return np.asarray((u * share).sum(-1) / share.sum(-1))


def uncertainty_weighted(u: Values, *, penalty: float = 0.5) -> Values:
    """(..., K) → (...,): the mean, less λ times the population variance."""
    return np.asarray(u.mean(-1) - penalty * u.var(-1))


def lower_quantile(u: Values, *, quantile: float = 1 / 3) -> Values:
    """(..., K) → (...,): the mean of the lowest ⌊q K⌋, at least one."""
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
    lowest = max(1, int(np.floor(quantile * u.shape[-1] + 1e-9)))  # 1/3 of 3 is 1, whatever floats say
    return np.asarray(np.sort(u, -1)[..., :lowest].mean(-1))


def max_median(u: Values) -> Values:
    """(..., K) → (...,): the median."""
    return np.asarray(np.median(u, -1))


def bernoulli_nash(u: Values, *, positive: Literal["sigmoid"] | None = "sigmoid") -> Values:
    """(..., K) → (...,): the geometric mean, of numbers made positive.

    Raises:
        ValueError: `positive=None`, and a number is not.
    """
    if positive not in ("sigmoid", None):
        raise ValueError(f'positive must be "sigmoid" or None, got {positive!r}')
    if positive is None and not (u > 0).all():
        raise ValueError(f'a geometric mean needs positive numbers, got {u.min()}; pass positive="sigmoid"')
    logs = -np.logaddexp(0.0, -u) if positive else np.log(u)
    return np.asarray(np.exp(logs.mean(-1)))


SCALARIZERS: dict[str, Callable[..., Values]] = {
    function.__name__: function
    for function in (linear, worst_case, soft_max_min, uncertainty_weighted, lower_quantile, max_median, bernoulli_nash)
}
"""Name → (..., K) values → (...,) scalars."""


def scalarize(
    scalarizer: str | Callable[..., ArrayLike], values: ArrayLike, weights: ArrayLike | None = None, **options: Any
) -> Values:
    """One number from K.

    >>> scalarize("lower_quantile", [[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]]).tolist()
    [1.0, 4.0]

    Args:
        scalarizer: a name (`SCALARIZERS`), or a callable (..., K) → (...,).
        values: (..., K) r_i.
        weights: (K,) w_i; default 1.
        **options: of the function.

    Raises:
        ValueError: no such name, no objective, bad options.
    """
    u = np.asarray(values, np.float64) * (1.0 if weights is None else np.asarray(weights, np.float64))
    if u.ndim == 0 or u.shape[-1] == 0:
        raise ValueError(f"values of shape {u.shape}: at least one objective is needed, on the last axis")
    out = np.asarray(_function(scalarizer)(u, **options), np.float64)
    if out.shape != u.shape[:-1]:
        raise ValueError(f"scalarizer {scalarizer!r} made {out.shape} of {u.shape}; it reduces the last axis alone")
    return out


def _function(scalarizer: str | Callable[..., ArrayLike]) -> Callable[..., ArrayLike]:
    if callable(scalarizer):
        return scalarizer
    if scalarizer not in SCALARIZERS:
        raise ValueError(f"unknown scalarizer {scalarizer!r}: one of {', '.join(SCALARIZERS)}, or a callable (..., K) -> (...,)")
    return SCALARIZERS[scalarizer]


class ScalarizedReward(RewardWrapper):
    """Puts one number made of all aspects on the last token, in place of the score.

    Keeps the return: no. Causal: no (hindsight). Takes the score: yes (`keep_score=True`: no).

    >>> import gymnasium as gym, textenv
    >>> from textenv.wrappers import Aspect
    >>> first, second = (Aspect(n, lambda es, n=n: [[textenv.Span(0, 1, float(n))] for _ in es]) for n in ("1", "3"))
    >>> for scalarizer in ("linear", "worst_case", "max_median"):
    ...     env = gym.make("textenv/CountLetter-v0", max_new_tokens=2, payment="end",
    ...                    reward=("scalarized", {"aspects": [first, second], "scalarizer": scalarizer}))
    ...     _ = env.reset(seed=0)
    ...     for character in "ab":
    ...         *_, info = env.step(ord(character))
    ...     print(info["text_episode"].rewards.tolist())
    [0.0, 4.0]
    [0.0, 1.0]
    [0.0, 2.0]

    Args:
        env: a text environment.
        aspects: names of the task's aspects, or `Aspect`s; default: the task's own.
        scalarizer: a name (`SCALARIZERS`), or a callable (B, K) → (B,).
        weights: w_k: one for all, a list, or by name; default 1.
        reduce: a text's verdict is the "mean" of its pieces, or their "sum".
        keep_score: the scalar stands beside the score, not in its place.
        **options: of the scalarizer (`temperature`, `penalty`, `quantile`, `positive`).

    Raises:
        ValueError: no such aspect or function; bad arguments.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        aspects: str | Aspect | Sequence[str | Aspect] | None = None,
        *,
        scalarizer: str | Callable[..., ArrayLike] = "linear",
        weights: float | Sequence[float] | Mapping[str, float] | None = None,
        reduce: Literal["mean", "sum"] = "mean",
        keep_score: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(env)
        self.takes_score = not keep_score  # type: ignore[misc]  # the class tells of the defaults
        task: Task = env.get_wrapper_attr("task")
        self.aspects = pick_aspects(task.aspects, aspects)
        self.weights = pick_weights(self.aspects, weights)
        if reduce not in ("mean", "sum"):
            raise ValueError(f'reduce must be "mean" or "sum", got {reduce!r}')
        self.scalarizer, self.reduce, self.keep_score, self.options = scalarizer, reduce, keep_score, options
        known = inspect.signature(_function(scalarizer)).parameters
        unknown = sorted(set(options) - set(known))
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            raise ValueError(
                f"scalarized takes no argument {unknown}; its own are aspects, scalarizer, weights, reduce, keep_score, and those "
                f"of {scalarizer}: {', '.join(list(known)[1:]) or 'none'}"
            )
        scalarize(scalarizer, np.ones((1, len(self.aspects))), self._positive(), **options)  # bad values are told now
        self._texts, self._sums = 0, np.zeros(len(self.aspects))

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit inside, with the scalar on the last token of finished texts; one judge call an aspect."""
        out = [episode.rewards.copy() for episode in episodes]
        finished = [i for i, episode in enumerate(episodes) if episode.finished]
        if finished:
            judged = [episodes[i] for i in finished]
            columns = [np.array(aspect.per_text(judged, self.reduce)) for aspect in self.aspects]
            self._texts, self._sums = self._texts + len(judged), self._sums + [column.sum() for column in columns]
            signed = np.stack([a.sign * column for a, column in zip(self.aspects, columns, strict=True)], -1)  # (B, K)
            for i, scalar in zip(finished, scalarize(self.scalarizer, signed, self.weights, **self.options), strict=True):
                out[i][-1] += scalar - (0.0 if self.keep_score else episodes[i].score)
        return out

    def metrics(self) -> dict[str, float]:
        """`credit/aspect/<name>`: the mean raw verdict over finished texts since the last call."""
        means = self._sums / max(self._texts, 1)
        self._texts, self._sums = 0, np.zeros(len(self.aspects))
        return {f"credit/aspect/{aspect.name}": float(m) for aspect, m in zip(self.aspects, means, strict=True)}

    def _positive(self) -> list[float]:
        return [abs(weight) or 1.0 for weight in self.weights]
