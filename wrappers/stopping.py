"""SALMON's two terms beside its reward model: a bonus for length, and a price for texts that do not stop.

Paper: Sun et al. 2023, *SALMON: Self-Alignment with Instructable Reward Models* (arXiv 2310.05910); released code. With |y|
generated tokens and budget L (1,024 there):

    R(y) = RM(x, y, principles) − 6 · 1[no stop token] + 5 · min(m |y| / L, 0.8)

Both are added on the last token, to whatever is there, and compose with any other reward; `principles` is the first term.

1. L is the environment's budget. The released value of m is not known here: 1.
2. The published 6 and 5 fit a reward model whose rewards span several units. Where the score is a probability, say, they drown it:
   give a smaller `weight`.
3. A text that stops has sampled EOS (`finish_reason` "stop"). SALMON looks for a stop string, which here is the task's own matter.

The bonus pays for words as such. The paper has no ablation without it: report length beside the score.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.reward import RewardWrapper

__all__ = ["LengthBonus", "NoStopPenalty"]


class _LastToken(RewardWrapper):
    """A number for the text as a whole, by its length and its end alone."""

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    name: ClassVar[str]

    def __init__(self, env: gym.Env[Any, Any], weight: float) -> None:
        super().__init__(env)
        if not math.isfinite(weight):
            raise ValueError(f"weight must be finite, got {weight}")
        self.weight = weight
        self._rule = env.get_wrapper_attr("action_rule")
        self._sum, self._texts = 0.0, 0

    @abstractmethod
    def value(self, episode: Episode) -> float:
        """What a finished text is paid."""

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit inside, and the value on the last token of finished texts."""
        out = [episode.rewards.copy() for episode in episodes]
        for rewards, episode in zip(out, episodes, strict=True):
            if episode.finished:
                value = self.value(episode)
                rewards[-1] += value
                self._sum, self._texts = self._sum + value, self._texts + 1
        return out

    def metrics(self) -> dict[str, float]:
        """`credit/length_bonus` or `credit/no_stop_penalty`: its mean over the finished texts since the last call."""
        out = {f"credit/{self.name}": self._sum / max(self._texts, 1)}
        self._sum, self._texts = 0.0, 0
        return out


class LengthBonus(_LastToken):
    """Pays a text for its length, up to a cap, on its last token.

    Keeps the return: no. Causal: yes (a token that ends the text knows how long it has become). Takes the score: no.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", reward="length_bonus", max_new_tokens=10,
    ...                scorer=lambda episodes: [0.0] * len(episodes))
    >>> for text in (b"abcd", b"abcdefghi"):  # 5 and 10 tokens, EOS among them, of 10
    ...     _ = env.reset(seed=0)
    ...     print([env.step(token)[1] for token in [*text, 258]][-1])
    2.5
    4.0

    Args:
        env: a text environment.
        weight: of the bonus.
        multiplier: m.
        cap: of m |y| / L.
        max_tokens: L; default: the environment's budget.

    Raises:
        ValueError: a weight that is not finite; another argument that is not positive.
    """

    name: ClassVar[str] = "length_bonus"

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        weight: float = 5.0,
        multiplier: float = 1.0,
        cap: float = 0.8,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(env, weight)
        self.max_tokens = self._rule.max_new_tokens if max_tokens is None else max_tokens
        if not all(math.isfinite(number) and number > 0 for number in (multiplier, cap, self.max_tokens)):
            raise ValueError(f"multiplier, cap and max_tokens must be positive, got {multiplier}, {cap}, {self.max_tokens}")
        self.multiplier, self.cap = multiplier, cap

    def value(self, episode: Episode) -> float:
        return self.weight * min(self.multiplier * len(episode) / self.max_tokens, self.cap)


class NoStopPenalty(_LastToken):
    """Takes a fixed price from the last token of a text that its budget cut off.

    Keeps the return: no. Causal: yes (the token that spends the budget knows that it does). Takes the score: no.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", reward=("no_stop_penalty", {"weight": 2.0}), max_new_tokens=3,
    ...                scorer=lambda episodes: [0.5] * len(episodes))
    >>> for tokens in ([*b"ab", 258], [*b"abc"]):
    ...     _ = env.reset(seed=0)
    ...     print([env.step(token)[1] for token in tokens])
    [0.0, 0.0, 0.5]
    [0.0, 0.0, -1.5]

    Args:
        env: a text environment.
        weight: the price.

    Raises:
        ValueError: a weight that is not finite.
    """

    name: ClassVar[str] = "no_stop_penalty"

    def __init__(self, env: gym.Env[Any, Any], *, weight: float = 6.0) -> None:
        super().__init__(env, weight)
        if self._rule.min_new_tokens == self._rule.max_new_tokens:
            warnings.warn(
                f"policies do not sample EOS before {self._rule.max_new_tokens} tokens here (min_new_tokens), so nearly every text "
                f"pays {weight:g}",
                stacklevel=2,
            )

    def value(self, episode: Episode) -> float:
        return -self.weight if episode.finish_reason == "length" else 0.0
