"""ABC: the score shared among the tokens in proportion to what the reward model attended to.

Paper: Chan, Sun, Holt, van der Schaar 2024, *Dense Reward for Free in Reinforcement Learning from Human Feedback* (arXiv
2402.00782). With a_t the attention of the last layer from the position that the reward model is read at to token t, mean over
heads, prompt columns dropped:

    α_t = a_t / Σ a        r_t = β R α_t + (1 − β) R 1[t = T]        β = 0.8

Departures and choices:

1. the attention on a token of the reward model is split over its characters and handed to the policy tokens that hold them, so
   that the two may have different tokenizers; EOS has no characters and gets none (a text of EOS alone keeps R on it);
2. an encoder is read at its first position ([CLS]), so that is where its attention is taken from;
3. the renormalisation hides how little the text had: `credit/attention_mass` logs it;
4. no weights at all (a sliding window that never reaches the text), or a reward model without attention, is an error, unless
   `fallback="uniform"` is asked for.

The paper's claim of an unchanged optimum holds for the return. The credit is hindsight (α and R depend on all tokens), so an
estimator that drops past rewards is biased for it: see `controls` for what uniform shares do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.reward import NotApplicable
from textenv.wrappers.shares import ShareReward

__all__ = ["AttentionReward"]


class AttentionReward(ShareReward):
    """The score by the reward model's attention.

    Keeps the return: yes. Causal: no (hindsight). Takes the score: yes.

    Example, with shares (0.5, 0.25, 0.25, 0) of a score of 1: 0.4, 0.2, 0.2 and, on the last token, 0.2:

        >>> import gymnasium as gym, textenv, numpy as np
        >>> from textenv.wrappers import AttentionReward
        >>> class Model:
        ...     def __call__(self, episodes):
        ...         return [1.0 for _ in episodes]
        ...     def attention(self, episodes, layer, heads):
        ...         return [np.array([0.2, 0.1, 0.1, 0.0]) for _ in episodes]
        >>> env = gym.make("textenv/CountLetter-v0", scorer=Model(), reward=AttentionReward, max_new_tokens=4, payment="end")
        >>> _ = env.reset(seed=0)
        >>> for character in "aaba":
        ...     _, reward, _, _, info = env.step(ord(character))
        >>> info["text_episode"].rewards.round(9).tolist()
        [0.4, 0.2, 0.2, 0.2]

    Args:
        env: a text environment.
        reward_model: what has a method `attention(episodes, layer, heads)`, or a name that the task can load as a scorer;
            default: the task's scorer. R is the task's score in any case.
        mix: β.
        layer: of the reward model, from either end.
        heads: "mean", or the index of one.
        fallback: "uniform": shares of 1 / T where there is no attention to go by; None: an error.

    Raises:
        NotApplicable: the reward model tells no attention.
        ValueError: bad arguments; a text that got no attention at all.
    """

    keeps_return: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        reward_model: Any = None,
        *,
        mix: float = 0.8,
        layer: int = -1,
        heads: Literal["mean"] | int = "mean",
        fallback: Literal["uniform"] | None = None,
    ) -> None:
        super().__init__(env, mix=mix)
        if fallback not in (None, "uniform"):
            raise ValueError(f'fallback must be "uniform" or None, got {fallback!r}')
        task = env.get_wrapper_attr("task")
        self.reward_model = task.scorer if reward_model is None else task.load_scorer(reward_model)
        self.layer, self.heads, self.fallback = layer, heads, fallback
        self._tells = callable(getattr(self.reward_model, "attention", None))
        if not self._tells and fallback is None:
            name = getattr(self.reward_model, "__name__", type(self.reward_model).__name__)
            raise NotApplicable(
                f"the scorer {name} of {type(task).__name__} tells no attention; pass reward_model=SequenceClassifierScorer(...), "
                "or fallback='uniform'"
            )
        self._seconds, self._mass, self._texts = 0.0, 0.0, 0

    def shares(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """α, (T,) each: one call of the reward model."""
        out = [_on_last(e) for e in episodes]
        with_text = [i for i, e in enumerate(episodes) if e.text]
        if not self._tells:
            return [np.full(len(e), 1.0 / len(e)) for e in episodes]
        if not with_text:
            return out
        began = time.perf_counter()
        masses = self.reward_model.attention([episodes[i] for i in with_text], layer=self.layer, heads=self.heads)
        self._seconds += time.perf_counter() - began
        for i, mass in zip(with_text, masses, strict=True):
            total = float(np.sum(mass))
            self._mass, self._texts = self._mass + total, self._texts + 1
            if total > 0:
                out[i] = np.asarray(mass, np.float64) / total
            elif self.fallback == "uniform":
                out[i] = np.full(len(episodes[i]), 1.0 / len(episodes[i]))
            else:
                raise ValueError(
                    f"the reward model paid no attention to the text {episodes[i].text[:80]!r} (layer {self.layer}); choose "
                    "another layer, or pass fallback='uniform'"
                )
        return out

    def metrics(self) -> dict[str, float]:
        """`credit/attention_mass` (mean share of the attention that fell on the text), `credit/attention_seconds`."""
        out = {"credit/attention_mass": self._mass / max(self._texts, 1), "credit/attention_seconds": self._seconds}
        self._seconds, self._mass, self._texts = 0.0, 0.0, 0
        return out


def _on_last(episode: Episode) -> NDArray[np.float64]:
    out = np.zeros(len(episode), np.float64)
    out[-1] = 1.0
    return out
