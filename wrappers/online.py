"""Payment while the text is written: each step pays the growth of the credit of the text so far.

Credit belongs to tokens; Gym wants a float at every step. Let C(t) be the sum of the credit of the first t tokens, as
the wrappers inside place it on that unfinished text. A step pays C(t) − (what has been paid), the last one settles the
rest: the sum telescopes to the credit of the finished text, whatever lies inside, and no learner has to wait.

1. Causal credit is paid at its own token, exactly, at every step.
2. A critic that judges finished texts reads the text so far where a segment ends (a sentence or a clause, by its
   punctuation; at latest after `SEGMENT_TOKENS` tokens), or as often as `pay_every` says. What it changes its mind
   about is settled at the next payment.
3. The task's own score is placed, and paid, at the end alone: an unfinished text has none.

Credit itself is untouched: `info["text_episode"]` is what it would be with payment at the end. C(t) is worked out by
`textenv.payment`, here for one text, in the vector environment for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.env import Observation
from textenv.episode import Episode
from textenv.payment import OnlinePayment
from textenv.reward import RewardWrapper

__all__ = ["OnlineReward"]


class OnlineReward(RewardWrapper):
    """Pays for the text so far. Outermost; `gym.make` adds it around any dense reward.

    Keeps the return: yes. Causal: yes (it adds nothing to the credit inside).

    >>> import gymnasium as gym, textenv
    >>> for payment in ("end", "online"):
    ...     env = gym.make("textenv/CountLetter-v0", reward="critic_span", max_new_tokens=4, payment=payment,
    ...                    pay_every="token")
    ...     _ = env.reset(seed=0)
    ...     print([env.step(ord(character))[1] for character in "aaba"])
    [0.0, 0.0, 0.0, 1.5]
    [0.25, 0.25, 0.0, 1.0]

    Args:
        env: a text environment with its reward wrappers.
        pay_every: "segment", "token", or a number of tokens.
    """

    keeps_return: ClassVar[bool] = True
    causal: ClassVar[bool] = True

    def __init__(self, env: gym.Env[Any, Any], *, pay_every: Literal["segment", "token"] | int = "segment") -> None:
        super().__init__(env)
        self.pay_every = pay_every
        self._payment = OnlinePayment(env, 1, pay_every)

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit as it is: payment never alters it."""
        return [episode.rewards for episode in episodes]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        self._payment.begin(0)
        return super().reset(seed=seed, options=options)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        # What the environment inside pays is replaced by the growth of its credit.
        observation, _, terminated, truncated, info = self.env.step(action)
        if terminated:
            self._step_episode = info["text_episode"]
            total = float(info["text_episode"].rewards.sum())
        else:
            _, totals = self._payment.credit([], {0: int(np.asarray(action).item())}, self._so_far)
            total = totals[0]
        reward = total - self._step_paid
        self._step_paid = total
        return observation, reward, terminated, truncated, info

    def _so_far(self, text: int) -> Episode:
        episode: Episode = self.env.get_wrapper_attr("current_episode")()
        return episode
