"""What a text is for: prompts, a verdict, and the metrics that the field reports.

A task knows no tokens and no rewards beyond its own score; environments and wrappers are built on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from textenv.episode import Episode, Prompt, Span

__all__ = ["Critic", "RewardDefaults", "Scorer", "Task", "by_prompt", "check_scores"]

Scorer = Callable[[Sequence[Episode]], Sequence[float]]
"""Episodes → the score of each; higher is better."""


@runtime_checkable
class Critic(Protocol):
    """Episodes → for each the spans of `episode.text` that deserve a reward (sign: good or bad)."""

    def __call__(self, episodes: Sequence[Episode], /) -> Sequence[Sequence[Span]]: ...


@dataclass(frozen=True)
class RewardDefaults:
    """What RELC pays per task (relc README): v⁺, v⁻, v⁰, and how the released code compares token strings."""

    positive: float = 0.5
    negative: float = -0.5
    neutral: float = 0.0
    strip_tokens: bool = True


@dataclass(eq=False)
class Task(ABC):
    """Prompts and a verdict.

    Attributes:
        prompts: what may be asked; never empty.
        scorer: episodes → scores.
    """

    prompts: Sequence[Prompt]
    scorer: Scorer
    reward_defaults: RewardDefaults = field(default_factory=RewardDefaults)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError(f"{type(self).__name__} needs at least one prompt, got none")

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        """The extrinsic score of each finished episode.

        Raises:
            ValueError: the scorer gave another number of scores, or one that is not finite.
        """
        return check_scores(self.scorer(episodes), episodes, self.scorer)

    @abstractmethod
    def metrics(self, episodes: Sequence[Episode]) -> Mapping[str, float]:
        """What the field reports of scored episodes: name → value (a `metrics.Estimate`, where it has an interval).

        Reads `Episode.score`, never `Episode.rewards`.
        """

    @abstractmethod
    def load_scorer(self, source: Any) -> Scorer:
        """A scorer from a callable, a directory or a hub name, or (None) the embedded one."""

    @abstractmethod
    def load_critic(self, source: Any) -> Critic:
        """A critic from a callable, "lexicon:FILE", a directory or a hub name, or (None) the embedded one."""


def check_scores(scores: Sequence[float], episodes: Sequence[Episode], scorer: object) -> list[float]:
    """The scores as floats, after the checks that every scorer must pass.

    Raises:
        ValueError: a wrong number of scores, or a score that is not finite (which episode, which scorer).
    """
    name = getattr(scorer, "__name__", type(scorer).__name__)
    values = [float(score) for score in scores]
    if len(values) != len(episodes):
        raise ValueError(f"scorer {name} returned {len(values)} scores for {len(episodes)} episodes")
    for i, value in enumerate(values):
        if not np.isfinite(value):
            raise ValueError(
                f"scorer {name} returned {value} for episode {i} (text {episodes[i].text[:80]!r}); a score must be finite"
            )
    return values


def by_prompt(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Episodes grouped by the prompt object they continue, in order of first appearance."""
    groups: dict[int, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(id(episode.prompt), []).append(episode)
    return list(groups.values())
