"""The data set of a Grow step: samples of a policy, scored once, beside the original data.

    D_g = {(x_i, y_i): x_i ~ D, y_i ~ π_θ(·|x_i)} ∪ D          (ReST, Gulcehre et al. 2023, arXiv 2308.08998, Sect. 3)

Samples are `Episode`s: the ids as they were sampled, the task's verdict (`score`) and the credit of every token (`rewards`).
They are written with their ids, and read again without sampling, scoring or tokenizing anything.

1. The original data are texts: they are tokenized once, EOS behind them, and judged by the environment like any sample.
2. Which texts are learned from is not decided here (`textenv.agents.rest.thresholds`), but what can never be learned from is left
   out: `usable` drops texts that were cut at their budget (they teach not to stop) and, if asked to, repeated ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from textenv.agents.policy import LMPolicy
from textenv.agents.rest.thresholds import ThresholdKind, cut, filtered, most_of_each
from textenv.agents.rollout import Timing, rollout
from textenv.agents.targets import target_ids
from textenv.episode import Episode, Prompt
from textenv.generation import ActionRule

__all__ = ["FilterBy", "GrownData", "credited", "grow", "reference_episodes", "sampling_temperature"]

FilterBy = Literal["score", "return"]
CHUNK = 1024  # texts sampled and judged together


@dataclass(frozen=True, eq=False)
class GrownData:
    """Scored texts, and which of them are the original data.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", max_new_tokens=4)
    >>> texts = [env.unwrapped.episode(env.unwrapped.task.prompts[0], list(text.encode())) for text in ("aaba", "bbba", "cccc")]
    >>> data = GrownData.of(env.unwrapped.credit(texts))
    >>> data.kept("absolute", 0.25).tolist()  # strictly above
    [True, False, False]

    Attributes:
        episodes: N finished, judged texts.
        original: (N,), True for the data that were there before anything was sampled.
    """

    episodes: tuple[Episode, ...]
    original: NDArray[np.bool_]

    @classmethod
    def of(cls, samples: Sequence[Episode], original: Sequence[Episode] = ()) -> GrownData:
        """Samples, and the original data behind them."""
        return cls((*samples, *original), np.arange(len(samples) + len(original)) >= len(samples))

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def sources(self) -> list[Hashable]:
        """Of every text, what it answers: equal for equal prompts."""
        return [(episode.prompt.text, episode.prompt.context) for episode in self.episodes]

    def rewards(self, by: FilterBy = "score") -> NDArray[np.float64]:
        """(N,): the task's verdict ("score"), or the sum of each text's credit ("return").

        Raises:
            ValueError: neither of these.
        """
        if by not in get_args(FilterBy):
            raise ValueError(f"filter_by must be one of {', '.join(get_args(FilterBy))}, got {by!r}")
        return np.array([e.score if by == "score" else e.rewards.sum() for e in self.episodes], np.float64)

    def thresholds(self, kind: ThresholdKind, level: float | None, by: FilterBy = "score") -> NDArray[np.float64]:
        """(N,): what the reward of each text has to exceed."""
        return cut(kind, level, self.rewards(by), self.sources)

    def kept(
        self,
        kind: ThresholdKind,
        level: float | None,
        *,
        by: FilterBy = "score",
        keep_data: Literal["filtered", "all", "none"] = "filtered",
        most: int | None = None,
    ) -> NDArray[np.bool_]:
        """(N,): which texts an Improve step learns from.

        Args:
            kind, level: the threshold, see `textenv.agents.rest.thresholds`.
            by: the reward that is compared with it.
            keep_data: the original data: filtered like the samples (ReST), all of it, or none (RAFT, ReST^EM).
            most: at most so many samples of a source, the best.
        """
        rewards = self.rewards(by)
        passed = filtered(rewards, self.thresholds(kind, level, by))
        kept = passed & ~self.original
        if most is not None:
            kept = most_of_each(kept, rewards, self.sources, most)
        if keep_data == "none":
            return kept
        return kept | (self.original if keep_data == "all" else self.original & passed)

    def select(self, rows: Sequence[int] | NDArray[Any]) -> GrownData:
        """The texts of these indices, or where a mask says True."""
        chosen = np.arange(len(self))[np.asarray(rows)] if len(rows) else np.zeros(0, np.int64)
        return GrownData(tuple(self.episodes[i] for i in chosen), self.original[chosen])

    def usable(self, rule: ActionRule, *, drop_truncated: bool = True, deduplicate: bool = False) -> GrownData:
        """Without texts cut at their budget, and without repeated ones.

        Where the rule lets no text end before its budget, none counts as cut.
        """
        ends = drop_truncated and rule.min_new_tokens < rule.max_new_tokens
        rows, seen = [], set()
        for i, episode in enumerate(self.episodes):
            key = (episode.prompt.text, episode.prompt.context, episode.tokens.tobytes())
            if (ends and episode.finish_reason != "stop") or (deduplicate and key in seen):
                continue
            seen.add(key)
            rows.append(i)
        return self.select(rows)

    @property
    def samples(self) -> GrownData:
        """What was sampled."""
        return self.select(~self.original)

    @property
    def originals(self) -> GrownData:
        """What was there before."""
        return self.select(self.original)


@contextlib.contextmanager
def sampling_temperature(policy: LMPolicy, temperature: float) -> Iterator[None]:
    """The policy samples at this temperature meanwhile; its likelihoods are learned at its own."""
    own, policy.temperature = policy.temperature, temperature
    try:
        yield
    finally:
        policy.temperature = own


def grow(
    env: gym.Env[Any, Any],
    policy: LMPolicy,
    prompts: Sequence[Prompt],
    generator: torch.Generator | None = None,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    timing: Timing | None = None,
) -> Iterator[list[Episode]]:
    """A sampled and credited text for each prompt, in parts, in order.

    Args:
        env: a text environment with its rewards: it judges every sample once.
        prompts: one a sample; a prompt that shall have K candidates comes K times.
        temperature: of sampling; 0.8 is ReST's.
        top_k, top_p: truncate the distribution that is sampled.
        timing: seconds are added to it.
    """
    options: dict[str, Any] = {"top_k": top_k, "top_p": top_p, "timing": timing}
    for at in range(0, len(prompts), CHUNK):
        part = list(prompts[at : at + CHUNK])
        with sampling_temperature(policy, temperature):
            episodes = rollout(env, policy, len(part), generator, prompts=part, **options)
        yield episodes


def reference_episodes(env: gym.Env[Any, Any], policy: LMPolicy, prompts: Sequence[Prompt]) -> tuple[list[Episode], int]:
    """The references of prompts as credited episodes, and how many were left out because they exceed the token budget."""
    budget, make = env.get_wrapper_attr("action_rule").max_new_tokens, env.get_wrapper_attr("episode")
    pairs = [(prompt, target_ids(policy.tokenizer, policy.model, text)) for prompt in prompts for text in prompt.references]
    fitting = [make(prompt, ids) for prompt, ids in pairs if len(ids) <= budget]
    return credited(env, fitting), len(pairs) - len(fitting)


def credited(env: gym.Env[Any, Any], episodes: Sequence[Episode]) -> list[Episode]:
    """Finished episodes judged by the environment, a part at a time."""
    out: list[Episode] = []
    for at in range(0, len(episodes), CHUNK):
        out += env.get_wrapper_attr("credit")(episodes[at : at + CHUNK])
    return out
