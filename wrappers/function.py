"""A reward of one's own from one function.

    def shouts(episode):
        "Half a point off for every token of a word in capitals."
        words = re.finditer(r"[A-Z]{2,}", episode.text)
        return [textenv.Span(*word.span(), reward=-0.5) for word in words]

    env = gym.make("textenv/Detox-v0", reward=RewardFromFunction(shouts))
    env = gym.make("textenv/Detox-v0", reward="my_module:shouts")    # by name; also: textenv train --reward my_module:shouts

What needs a whole batch at a time (a model, say) is a class with one method, `RewardWrapper.rewards`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.alignment import overlap
from textenv.episode import Episode, Span
from textenv.reward import RewardWrapper

__all__ = ["FunctionReward", "RewardFromFunction"]

Function = Callable[[Episode], float | ArrayLike | Iterable[Span]]


class RewardFromFunction:
    """Makes a reward wrapper of `function(episode)`; goes where `reward=` takes a callable.

    What the function returns says where it is paid, beside the credit that is there:

    - spans, listed or yielded: each token that overlaps a span gets its `reward`, so that a word of six tokens costs six times;
    - an array of T numbers: each token its own;
    - one number: the last token, when the text has ended.

    Unfinished texts are shown too (score NaN), when a text is paid for while it is being written.

    >>> import gymnasium as gym, textenv
    >>> from textenv.wrappers import RewardFromFunction
    >>> def no_bees(episode):
    ...     return [textenv.Span(i, i + 1, -1.0) for i, character in enumerate(episode.text) if character == "b"]
    >>> env = gym.make("textenv/CountLetter-v0", reward=RewardFromFunction(no_bees, causal=True), max_new_tokens=4)
    >>> _ = env.reset(seed=0)
    >>> [env.step(ord(character))[1] for character in "aaba"]
    [0.0, 0.0, -1.0, 0.75]

    Args:
        function: episode → spans, (T,) numbers, or a number.
        keeps_return: what it returns sums to zero.
        causal: what it says of token t depends on the tokens up to t alone.
    """

    def __init__(self, function: Function, *, keeps_return: bool = False, causal: bool = False) -> None:
        if not callable(function):
            raise TypeError(f"RewardFromFunction takes a function of an episode, got {function!r}")
        self.function, self.keeps_return, self.causal = function, keeps_return, causal

    def __call__(self, env: gym.Env[Any, Any]) -> FunctionReward:
        return FunctionReward(env, self.function, keeps_return=self.keeps_return, causal=self.causal)


class FunctionReward(RewardWrapper):
    """Pays what a function of an episode says. `RewardFromFunction` makes it.

    Keeps the return: as it was told. Causal: as it was told. Takes the score: no.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False

    def __init__(self, env: gym.Env[Any, Any], function: Function, *, keeps_return: bool = False, causal: bool = False) -> None:
        super().__init__(env)
        self.function = function
        self.keeps_return = keeps_return  # type: ignore[misc]  # the class tells of the defaults
        self.causal = causal  # type: ignore[misc]

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit inside and the function's, (T,) each."""
        return [episode.rewards + self._placed(episode) for episode in episodes]

    def _placed(self, episode: Episode) -> NDArray[np.float64]:
        out = np.zeros(len(episode), np.float64)
        if not len(episode):
            return out
        said = self._said(episode)
        if isinstance(said, Sequence) and all(isinstance(span, Span) for span in said):  # none is a list of spans too
            for span in said:
                if span.end > len(episode.text):
                    raise ValueError(f"{self._name}: {span} ends beyond its text {episode.text[:80]!r}")
                out[overlap(episode.offsets, span.start, span.end)] += span.reward
            return out
        try:
            values = np.asarray("nothing" if said is None else said, np.float64)  # None would be nan
        except (TypeError, ValueError):
            raise TypeError(f"{self._name} returned {said!r}; spans, {len(episode)} numbers, or one number are wanted") from None
        if values.ndim == 0:
            if episode.finished:
                out[-1] = values
        elif values.shape != out.shape:
            raise ValueError(f"{self._name} returned an array of shape {values.shape} for {len(episode)} tokens")
        else:
            out += values
        return out

    def _said(self, episode: Episode) -> Any:
        try:
            said: Any = self.function(episode)
            yields = isinstance(said, Iterable) and not isinstance(said, (str, bytes, Mapping, Sequence))
            return list(said) if yields and not hasattr(said, "__array__") else said
        except TypeError as error:
            if "gymnasium.Env" in str(error) or "wraps text environments" in str(error):
                raise TypeError(
                    f"{self._name} was taken for a function of an episode, but wraps environments ({error}); call its argument env"
                ) from error
            raise

    @property
    def _name(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))
