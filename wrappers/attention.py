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

ABC-D (`source="generator"`): the shares are those of what the writer attended to, mean over the steps of writing (ABC-D2:
`steps="last"`). The last token is attended to by no step, so EOS gets none; early tokens are read by more steps than late ones. The
paper's generator is the policy as it learns: pass it, `generator=policy`. By name it is a frozen model, by default the one that the
tokenizer came with, on which the policy began.

The paper's claim of an unchanged optimum holds for the return. The credit is hindsight (α and R depend on all tokens), so an
estimator that drops past rewards is biased for it: see `controls` for what uniform shares do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.judges.attention import generation_attention
from textenv.judges.statistics import same_scorer
from textenv.judges.token_log_probs import load_frozen
from textenv.reward import NotApplicable
from textenv.task import Task
from textenv.wrappers.policies import base_of, moving_model
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
            default: the task's scorer, or its embedded reward model where its own default is no model (Translation's chrF). R is
            the task's score in any case.
        mix: β.
        layer: of the model that is read, from either end.
        heads: "mean", or the index of one.
        source: whose attention: the "reward_model"'s, or the "generator"'s.
        generator: a language model with the environment's tokenizer, by name or directory (frozen), or the policy itself, as it is
            at the moment: a model, or what holds one as `.model` (`LMPolicy`); default: the one that the tokenizer came with.
        steps: of the generator: "mean" over all steps of writing, or the "last" alone.
        fallback: "uniform": shares of 1 / T where there is no attention to go by; None: an error.

    Raises:
        NotApplicable: the reward model tells no attention; no generator is known.
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
        source: Literal["reward_model", "generator"] = "reward_model",
        generator: Any = None,
        steps: Literal["mean", "last"] = "mean",
        fallback: Literal["uniform"] | None = None,
    ) -> None:
        super().__init__(env, mix=mix)
        if source not in ("reward_model", "generator") or steps not in ("mean", "last"):
            raise ValueError(f'source is "reward_model" or "generator", steps "mean" or "last": got {source!r}, {steps!r}')
        if source == "generator" and reward_model is not None:
            raise ValueError(f'source="generator" asks no reward model, got reward_model={reward_model!r}')
        if source == "reward_model" and (generator is not None or steps != "mean"):
            raise ValueError(f'generator= and steps= are of source="generator", got {generator!r}, {steps!r}')
        if fallback not in (None, "uniform"):
            raise ValueError(f'fallback must be "uniform" or None, got {fallback!r}')
        self.layer, self.heads, self.source, self.steps, self.fallback = layer, heads, source, steps, fallback
        self.reward_model: Any = None
        self.generator: Any = None
        if source == "generator":
            self.generator = _generator(env, generator)
            self._prompt_end = env.get_wrapper_attr("action_rule").prompt_end
        else:
            self.reward_model = self._telling(env.get_wrapper_attr("task"), reward_model)
        self._seconds, self._mass, self._texts = 0.0, 0.0, 0

    def shares(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """α, (T,) each: one call of the model that is read."""
        out = [_on_last(e) for e in episodes]
        if self.reward_model is None and self.generator is None:
            return [np.full(len(e), 1.0 / len(e)) for e in episodes]
        # What a generator attended to while it wrote one token is all prompt.
        with_text = [i for i, e in enumerate(episodes) if e.text and (self.generator is None or len(e) > 1)]
        if not with_text:
            return out
        began = time.perf_counter()
        masses = self._masses([episodes[i] for i in with_text])
        self._seconds += time.perf_counter() - began
        for i, mass in zip(with_text, masses, strict=True):
            total = float(np.sum(mass))
            self._mass, self._texts = self._mass + total, self._texts + 1
            if total > 0:
                out[i] = np.asarray(mass, np.float64) / total
            elif self.fallback == "uniform":
                out[i] = np.full(len(episodes[i]), 1.0 / len(episodes[i]))
            else:
                who = self.source.replace("_", " ")
                raise ValueError(
                    f"the {who} paid no attention to the text {episodes[i].text[:80]!r} (layer {self.layer}); choose "
                    "another layer, or pass fallback='uniform'"
                )
        return out

    def _telling(self, task: Task, reward_model: Any) -> Any:
        """The reward model; None, where it tells no attention and shares are to be even."""
        found = task.scorer if reward_model is None else task.load_scorer(reward_model)
        if callable(getattr(found, "attention", None)):
            return found
        if reward_model is None and task.reward_model and same_scorer(found, task.load_scorer(None)):
            return task.load_scorer(task.reward_model)
        if self.fallback is not None:
            return None
        embedded = f"reward_model={task.reward_model!r}, " if task.reward_model else ""
        raise NotApplicable(
            f"the scorer {getattr(found, '__name__', type(found).__name__)} of {type(task).__name__} tells no attention; pass "
            f"{embedded}reward_model=SequenceClassifierScorer(...), source='generator', or fallback='uniform'"
        )

    def _masses(self, episodes: Sequence[Episode]) -> Sequence[NDArray[np.float64]]:
        if self.generator is None:
            masses: Sequence[NDArray[np.float64]] = self.reward_model.attention(episodes, layer=self.layer, heads=self.heads)
            return masses
        prompts, texts = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
        return generation_attention(
            self.generator, prompts, texts, self._prompt_end, layer=self.layer, heads=self.heads, steps=self.steps
        )

    def metrics(self) -> dict[str, float]:
        """`credit/attention_mass` (mean share of the attention that fell on the text), `credit/attention_seconds`."""
        out = {"credit/attention_mass": self._mass / max(self._texts, 1), "credit/attention_seconds": self._seconds}
        self._seconds, self._mass, self._texts = 0.0, 0.0, 0
        return out


def _generator(env: gym.Env[Any, Any], given: Any) -> Any:
    """A frozen model by name, or the policy itself."""
    if given is None:
        given = base_of(env.get_wrapper_attr("tokenizer"), "pass generator= one that shares it, or the policy itself")
    if isinstance(given, (str, os.PathLike)):
        return load_frozen(env, given, "generator")
    return moving_model(given)


def _on_last(episode: Episode) -> NDArray[np.float64]:
    out = np.zeros(len(episode), np.float64)
    out[-1] = 1.0
    return out
