"""Credit and payment: the base class of every reward wrapper.

*Credit* says where a reward belongs: `Episode.rewards[t]`, one float a generated token. *Payment* says when Gym hands
it out: the float that `step` returns. A wrapper implements `rewards(episodes)` alone; `credit()` (batches) and `step()`
(Gym) are written here, once, over it, so that both deliver the same numbers.

Here a dense credit is paid at the end of the text, in one sum, whatever the wrappers inside have paid before being
taken into account; `textenv.wrappers.OnlineReward`, outermost, pays while the text is being written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.env import Observation
from textenv.episode import Episode
from textenv.render import render_episode
from textenv.waits import waits

__all__ = ["NotApplicable", "RewardWrapper", "check_pay_every", "check_score_taken_once"]


class NotApplicable(ValueError):
    """A reward that needs what this environment's task does not have; the message names it, and the argument that gives it."""


class RewardWrapper(gym.Wrapper[Observation, np.int64, Observation, np.int64], ABC):
    """Decides which tokens of a text deserve the reward.

    A subclass implements `rewards` and declares three facts:

    Attributes:
        keeps_return: whether the credit of an episode sums to what the environment inside credited.
        causal: whether the credit of token t depends on the tokens up to t alone (else: hindsight).
        takes_score: whether it takes the score, or a part of it, from the last token, to move or to replace it. One wrapper
            of a stack may: a second would take what is no longer there.

    Example:
        Half of the score now, half for the last token:

        >>> import gymnasium as gym, textenv
        >>> class HalfEarly(textenv.RewardWrapper):
        ...     keeps_return, causal, takes_score = True, False, True
        ...     def rewards(self, episodes):
        ...         out = []
        ...         for episode in episodes:
        ...             half = episode.rewards / 2
        ...             half[0] += half.sum()
        ...             out.append(half)
        ...         return out
        >>> env = gym.make("textenv/CountLetter-v0", reward=HalfEarly, max_new_tokens=4, payment="end")
        >>> _ = env.reset(seed=0)
        >>> for character in "aaba":
        ...     _, reward, _, _, info = env.step(ord(character))
        >>> reward, info["text_episode"].rewards.tolist()
        (0.75, [0.375, 0.0, 0.0, 0.375])
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = False

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        try:
            env.get_wrapper_attr("credit")
        except AttributeError:
            raise TypeError(f"{type(self).__name__} wraps text environments; {env} has no credit()") from None
        self._step_paid = 0.0  # named so that a subclass's own counters do not fall upon them
        self._step_episode: Episode | None = None
        self._stack_checked = False

    @abstractmethod
    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        """The credit of each episode, (T,) floats, given episodes as the environment inside credited them.

        Unfinished episodes (finish_reason None, score NaN) come too, when a text is paid for while it is being written:
        the credit of the text so far is asked for.
        """

    def credit(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Episodes with this stack's credit; one call of `rewards` for all of them.

        Raises:
            TypeError: `rewards` returned something else than arrays of numbers.
            ValueError: `rewards` returned a wrong number of arrays, a wrong length, or a value that is not finite; two
                wrappers of this stack take the score.
        """
        return self._place(self.env.get_wrapper_attr("credit")(episodes))

    @property
    def waits(self) -> bool:
        """Whether a judge of this stack waits for somebody else, a server, as its own `waits` says.

        Judges are looked for among the attributes of each wrapper. `credit` is then called for parts of a batch, in a thread of
        its own, one part at a time, while the rest is being written (`textenv.agents.rollout`).
        """
        own = any(waits(value) for name, value in vars(self).items() if name != "env")
        return own or bool(self.env.get_wrapper_attr("waits"))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        self._step_paid, self._step_episode = 0.0, None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward)
        if terminated:
            (self._step_episode,) = self._place([info["text_episode"]])
            info = {**info, "text_episode": self._step_episode}
            reward = float(self._step_episode.rewards.sum()) - self._step_paid
        self._step_paid += reward
        return observation, reward, terminated, truncated, info

    def render(self) -> str | None:
        """The text, each token coloured by its credit ("ansi")."""
        if self.render_mode != "ansi":
            return None
        episode = self._step_episode or self.credit([self.env.get_wrapper_attr("current_episode")()])[0]
        return render_episode(episode)

    def credit_metrics(self) -> dict[str, float]:
        """Counters of the whole stack since the last call; those of one name, from several wrappers, are added."""
        inside: dict[str, float] = self.env.get_wrapper_attr("credit_metrics")()
        return inside | {name: inside.get(name, 0) + value for name, value in self.metrics().items()}

    def metrics(self) -> dict[str, float]:
        """This wrapper's own counters since the last call, by metric name ("credit/..."). None by default.

        Of several processes whole numbers (int) are added, others (means, seconds) averaged.
        """
        return {}

    def _place(self, episodes: Sequence[Episode]) -> list[Episode]:
        if not self._stack_checked:  # what was wrapped by hand has not passed `gym.make`
            check_score_taken_once(self)
            self._stack_checked = True
        placed = self.rewards(episodes)
        if not isinstance(placed, Sized):
            raise TypeError(f"{type(self).__name__}.rewards returned {placed!r:.80}; a list of one (T,) array an episode is wanted")
        if len(placed) != len(episodes):
            raise ValueError(f"{type(self).__name__}.rewards returned {len(placed)} arrays for {len(episodes)} episodes")
        return [
            replace(episode, rewards=self._checked(rewards, episode, i))
            for i, (episode, rewards) in enumerate(zip(episodes, placed, strict=True))
        ]

    def _checked(self, rewards: ArrayLike, episode: Episode, i: int) -> NDArray[np.float64]:
        where = f"{type(self).__name__}.rewards, episode {i} (text {episode.text[:60]!r})"
        try:
            values = np.array(rewards, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{where}: {rewards!r:.80} is no array of {len(episode)} numbers") from error
        if values.shape != (len(episode),):
            raise ValueError(f"{where}: a reward array of shape {values.shape} for {len(episode)} tokens")
        if not np.isfinite(values).all():
            t = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{where}: reward {values[t]} at token {t}; credit must be finite")
        return values


def check_score_taken_once(env: gym.Env[Any, Any]) -> None:
    """Raise if two reward wrappers of a stack take the score from the last token.

    Raises:
        ValueError: with both, and the way out.
    """
    outer: RewardWrapper | None = None
    while isinstance(env, gym.Wrapper):
        if isinstance(env, RewardWrapper) and env.takes_score:
            if outer is not None:
                raise ValueError(
                    f"{type(outer).__name__} around {type(env).__name__}: each moves or replaces the score on the last token, so "
                    "it would be taken twice; keep one of them (keep_score=True, where there is such an argument, leaves the score "
                    "alone), and compose it with rewards that stand beside the score (critic_span, contrastive, length_penalty)"
                )
            outer = env
        env = env.env


def check_pay_every(pay_every: object) -> None:
    """Raise unless it is "segment", "token" or a number of tokens.

    Raises:
        ValueError: with what was given.
    """
    number = isinstance(pay_every, int) and not isinstance(pay_every, bool) and pay_every >= 1
    if pay_every not in ("segment", "token") and not number:
        raise ValueError(f'pay_every must be "segment", "token" or a number of at least 1, got {pay_every!r}')
