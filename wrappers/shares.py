"""The score shared among the tokens: what attention-based credit, the uniform and the noise control have in common.

With R the score of a finished text and α_t ≥ 0 the share of token t, Σ α_t = 1 (ABC, arXiv 2402.00782):

    r_t = β R α_t + (1 − β) R 1[t = T]

Only the score moves: what wrappers inside paid beside it stays where it is. An unfinished text has no score, so nothing moves.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.reward import RewardWrapper

__all__ = ["ShareReward", "check_mix"]


class ShareReward(RewardWrapper):
    """Takes β R from the last token and hands it out by `shares`.

    Keeps the return: yes. Causal: no (R is known at the end). Takes the score: yes, one such reward a stack.

    Args:
        env: a text environment.
        mix: β, the part of the score that is shared; the rest stays on the last token.
    """

    keeps_return: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(self, env: gym.Env[Any, Any], *, mix: float) -> None:
        super().__init__(env)
        self.mix = check_mix(mix)
        self.takes_score = self.mix > 0  # type: ignore[misc]  # the class tells of the defaults

    @abstractmethod
    def shares(self, episodes: Sequence[Episode]) -> Sequence[NDArray[np.float64]]:
        """α of each finished episode: (T,) ≥ 0, summing to 1."""

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """r_t, (T,) each."""
        out = [e.rewards for e in episodes]
        finished = [i for i, e in enumerate(episodes) if e.finished]
        if self.mix and finished:
            for i, alpha in zip(finished, self.shares([episodes[i] for i in finished]), strict=True):
                moved = self.mix * episodes[i].score
                out[i] = out[i].copy()
                out[i][-1] -= moved
                out[i] += moved * alpha
        return out


def check_mix(mix: float) -> float:
    """The mixing weight, if it is one.

    Raises:
        ValueError: it is not in 0..1.
    """
    if not 0.0 <= mix <= 1.0:
        raise ValueError(f"mix must lie in 0..1 (0: all on the last token, 1: all of it moved), got {mix}")
    return float(mix)
