"""The two controls that every ablation of dense rewards needs: the score shared evenly, and shared at random.

Both keep the return and know nothing of the text. A dense reward that does no better than they do owes its gain to being dense
(RED, arXiv 2411.08302, Fig. 3b, and ABC, arXiv 2402.00782, whose uniform control has most of ABC's gain on HH). The noise
is drawn as α_t ∝ e_t with e_t ~ Exp(1), or is zero-sum noise on top of the credit that is there.

Return-to-go under uniform credit multiplies the gradient of token t by (T − t + 1) / T: late tokens are under-weighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.wrappers.draws import generator_of
from textenv.wrappers.shares import ShareReward

__all__ = ["NoiseReward", "UniformReward"]


class UniformReward(ShareReward):
    """R / T for every token.

    Keeps the return: yes. Causal: no (R and T are known at the end). Takes the score: yes.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", reward="uniform", max_new_tokens=4, payment="end")
    >>> _ = env.reset(seed=0)
    >>> for character in "aaba":
    ...     _, reward, _, _, info = env.step(ord(character))
    >>> reward, info["text_episode"].rewards.tolist()
    (0.75, [0.1875, 0.1875, 0.1875, 0.1875])

    Args:
        env: a text environment.
        mix: the part of the score that is shared; the rest stays on the last token.
    """

    keeps_return: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(self, env: gym.Env[Any, Any], *, mix: float = 1.0) -> None:
        super().__init__(env, mix=mix)

    def shares(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """1 / T, (T,) each."""
        return [np.full(len(e), 1.0 / len(e)) for e in episodes]


class NoiseReward(ShareReward):
    """The score shared at random, or zero-sum noise on the credit that is there.

    Keeps the return: yes. Causal: no (R and T are known at the end). Takes the score: yes (zero-sum noise: no).

    The noise of a text is drawn from a generator seeded by `seed`, the prompt's and the text's tokens: the same text is always
    paid alike, alone or in a batch, stepped through or not.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", reward=("noise", {"seed": 1}), max_new_tokens=4, payment="end")
    >>> _ = env.reset(seed=0)
    >>> for character in "aaba":
    ...     _, reward, _, _, info = env.step(ord(character))
    >>> round(reward, 9), bool((info["text_episode"].rewards > 0).all())
    (0.75, True)

    Args:
        env: a text environment.
        kind: "exponential": shares α_t ∝ Exp(1); "zero_sum": + scale · (n_t − mean n), n_t ~ N(0, 1).
        mix: the part of the score that is shared ("exponential").
        scale: of the zero-sum noise, in units of reward ("zero_sum").
        seed: of the noise.

    Raises:
        ValueError: another kind, a mix outside 0..1, a negative scale or seed.
    """

    keeps_return: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        kind: Literal["exponential", "zero_sum"] = "exponential",
        mix: float = 1.0,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(env, mix=mix)
        if kind not in ("exponential", "zero_sum"):
            raise ValueError(f'kind must be "exponential" or "zero_sum", got {kind!r}')
        if not (0 <= scale < float("inf")) or seed < 0:
            raise ValueError(f"scale must be finite and, like seed, not negative, got scale={scale}, seed={seed}")
        self.kind, self.scale, self.seed = kind, scale, seed
        self.takes_score = kind == "exponential" and mix > 0  # type: ignore[misc]  # the class tells of the defaults

    def shares(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """α_t = e_t / Σ e, (T,) each."""
        drawn = [generator_of(self.seed, e).exponential(size=len(e)) for e in episodes]
        return [values / values.sum() for values in drawn]

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit with its noise; that of an unfinished text as it is (T is not known)."""
        if self.kind == "exponential":
            return super().rewards(episodes)
        return [e.rewards + self._zero_sum(e) if e.finished else e.rewards for e in episodes]

    def _zero_sum(self, episode: Episode) -> NDArray[np.float64]:
        noise: NDArray[np.float64] = generator_of(self.seed, episode).standard_normal(len(episode))
        noise -= noise.mean()
        return noise * np.float64(self.scale)
