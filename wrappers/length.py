"""DAPO's soft penalty for texts that come close to their budget.

Paper: Yu et al. 2025, *DAPO: An Open-Source LLM Reinforcement Learning System at Scale* (arXiv 2503.14476), Eq. 13. With
|y| generated tokens, budget L and buffer C:

    0                     |y| ≤ L − C
    ((L − C) − |y|) / C   L − C < |y| ≤ L
    −1                    beyond

It is added on the last token, to whatever is there, and composes with any other reward. Departure: the published setting
(L = 20,480, C = 4,096) scales with the environment's budget, C = L / 5. Leaving truncated texts out of the loss is the
learner's matter.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.reward import RewardWrapper

__all__ = ["LengthPenalty", "soft_overlong_penalty"]


def soft_overlong_penalty(tokens: int, limit: int, buffer: int) -> float:
    """DAPO, Eq. 13.

    >>> [soft_overlong_penalty(tokens, 100, 20) for tokens in (80, 85, 90, 100, 101)]
    [0.0, -0.25, -0.5, -1.0, -1.0]
    """
    return max(-1.0, min(0.0, (limit - buffer - tokens) / buffer))


class LengthPenalty(RewardWrapper):
    """Takes up to 1 from the last token of a text that comes close to its budget.

    Keeps the return: no. Causal: yes (a token that ends the text knows how long it has become). Takes the score: no.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", reward=("length_penalty", {"max_tokens": 4, "buffer": 2}),
    ...                scorer=lambda episodes: [1.0] * len(episodes))
    >>> for text in (b"ab", b"abc"):
    ...     _ = env.reset(seed=0)
    ...     print([env.step(token)[1] for token in [*text, 258]])
    [0.0, 0.0, 0.5]
    [0.0, 0.0, 0.0, 0.0]

    Args:
        env: a text environment.
        max_tokens: L; default: the environment's budget.
        buffer: C, the last tokens of L that cost; default: a fifth of L, at least 1.
        weight: of the penalty.

    Raises:
        ValueError: C is not in 1..L; a weight that is not finite.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = True

    def __init__(
        self, env: gym.Env[Any, Any], *, max_tokens: int | None = None, buffer: int | None = None, weight: float = 1.0
    ) -> None:
        super().__init__(env)
        rule = env.get_wrapper_attr("action_rule")
        self.max_tokens = rule.max_new_tokens if max_tokens is None else max_tokens
        self.buffer = max(1, self.max_tokens // 5) if buffer is None else buffer
        if not 1 <= self.buffer <= self.max_tokens:
            raise ValueError(f"the buffer must lie in 1..max_tokens={self.max_tokens}, got {self.buffer}")
        if not math.isfinite(weight):
            raise ValueError(f"weight must be finite, got {weight}")
        self.weight = weight
        if rule.min_new_tokens == rule.max_new_tokens:
            cost = weight * soft_overlong_penalty(rule.max_new_tokens, self.max_tokens, self.buffer)
            warnings.warn(
                f"every text has {rule.max_new_tokens} tokens here (min_new_tokens), so the length penalty is {cost:g} for all",
                stacklevel=2,
            )

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit inside, with the penalty on the last token of finished texts."""
        out = [episode.rewards.copy() for episode in episodes]
        for rewards, episode in zip(out, episodes, strict=True):
            if episode.finished:
                rewards[-1] += self.weight * soft_overlong_penalty(len(episode), self.max_tokens, self.buffer)
        return out
