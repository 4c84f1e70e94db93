"""Fine-Grained RLHF: each aspect pays at the ends of the pieces that it judges.

Paper: Wu et al. 2023, *Fine-Grained Human Feedback Gives Better Rewards for Language Model Training* (arXiv 2306.01693).
K aspects; aspect k cuts the text into L_k pieces, the j-th ends at token T_j^k and is worth R_k(j):

    r_t = Σ_k Σ_j 1[t = T_j^k] w_k R_k(j)

The KL to the reference is the learner's. Choices:

1. the aspects take the place of the score, as in the paper's question answering, where one of them (completeness) judges the
   whole; `keep_score=True` leaves the score where it is;
2. weights are 1: the paper's 0.5 (factuality) and 0.3 (relevance) are in the raw values ±0.5 and ±0.3, as in its code;
3. rewards are not whitened, and its whitening by √σ is not repeated;
4. of an unfinished text those pieces are paid that have come to their end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.aspects import Aspect, pick_aspects, pick_weights
from textenv.episode import Episode
from textenv.reward import RewardWrapper
from textenv.task import Task

__all__ = ["FineGrainedReward"]


class FineGrainedReward(RewardWrapper):
    """Pays several aspects, each at its own segment ends.

    Keeps the return: no. Causal: no (where a segment ends is known when the next begins, and a judge may read on).
    Takes the score: yes (`keep_score=True`: no).

    >>> import gymnasium as gym, textenv
    >>> from textenv.wrappers import Aspect
    >>> fact = Aspect("fact", lambda es: [[textenv.Span(0, 2, 0.5), textenv.Span(3, 5, -0.5)] for _ in es], "sentence")
    >>> complete = Aspect("complete", lambda es: [[textenv.Span(0, len(e.text), 0.25)] for e in es], "text")
    >>> env = gym.make("textenv/CountLetter-v0", max_new_tokens=6, payment="end",
    ...                reward=("fine_grained", {"aspects": [fact, complete], "weights": {"fact": 2.0}}))
    >>> _ = env.reset(seed=0)
    >>> for token in b"a. b." + bytes([32]):
    ...     *_, info = env.step(token)
    >>> info["text_episode"].rewards.tolist()
    [0.0, 1.0, 0.0, 0.0, -1.0, 0.25]

    Args:
        env: a text environment.
        aspects: names of the task's aspects, or `Aspect`s; default: the task's own.
        weights: w_k: one for all, a list, or by name; default 1.
        keep_score: leave the score on the last token.

    Raises:
        ValueError: no such aspect; weights that do not fit.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        aspects: str | Aspect | Sequence[str | Aspect] | None = None,
        *,
        weights: float | Sequence[float] | Mapping[str, float] | None = None,
        keep_score: bool = False,
    ) -> None:
        super().__init__(env)
        self.takes_score = not keep_score  # type: ignore[misc]  # the class tells of the defaults
        task: Task = env.get_wrapper_attr("task")
        self.aspects = pick_aspects(task.aspects, aspects)
        self.weights = pick_weights(self.aspects, weights)
        self.keep_score = keep_score
        self._texts, self._sums = 0, dict.fromkeys((aspect.name for aspect in self.aspects), 0.0)

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """r_t, (T,) each; one judge call an aspect."""
        out = [episode.rewards.copy() for episode in episodes]
        for i, episode in enumerate(episodes):
            if episode.finished and not self.keep_score:
                out[i][-1] -= episode.score
        self._texts += sum(episode.finished for episode in episodes)
        for aspect, weight in zip(self.aspects, self.weights, strict=True):
            for i, (_, values) in enumerate(aspect.placed(episodes, settled=True)):
                paid = weight * aspect.sign * values
                out[i] += paid
                self._sums[aspect.name] += float(paid.sum()) if episodes[i].finished else 0.0
        return out

    def metrics(self) -> dict[str, float]:
        """`credit/aspect/<name>`: what an aspect paid a finished text, since the last call."""
        out = {f"credit/aspect/{name}": total / max(self._texts, 1) for name, total in self._sums.items()}
        self._texts, self._sums = 0, dict.fromkeys(self._sums, 0.0)
        return out
