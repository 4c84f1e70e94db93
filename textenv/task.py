"""What a text is for: prompts, a verdict, and the metrics that the field reports.

A task knows no tokens and no rewards beyond its own score; environments and wrappers are built on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from textenv.aspects import Aspect
from textenv.episode import Episode, Prompt, Span
from textenv.judges.statistics import embedded_statistics, same_scorer

__all__ = ["Critic", "RewardDefaults", "Scorer", "Task", "by_prompt", "check_scores", "check_spans"]


class Scorer(Protocol):
    """Episodes → the score of each, as many numbers; higher is better."""

    def __call__(self, episodes: Sequence[Episode], /) -> Sequence[float]: ...


@runtime_checkable
class Critic(Protocol):
    """Episodes → for each the spans of `episode.text` that deserve a reward (sign: good or bad); None: no verdict."""

    def __call__(self, episodes: Sequence[Episode], /) -> Sequence[Sequence[Span] | None]: ...


@dataclass(frozen=True)
class RewardDefaults:
    """What the papers pay per task: RELC's v⁺, v⁻, v⁰, and how its code compares token strings; ALaRM's w_H and gate τ."""

    positive: float = 0.5
    negative: float = -0.5
    neutral: float = 0.0
    strip_tokens: bool = True
    holistic_weight: float = 1.0
    gate: float = 0.5


@dataclass(eq=False)
class Task(ABC):
    """Prompts and a verdict.

    Attributes:
        prompts: what may be asked; never empty.
        scorer: episodes → scores.
        fluency_model: the language model that judges fluency; None where the embedded one does not speak the language.
        reward_model: the embedded model that tells attention where the default scorer is no model; None: there is none.
    """

    fluency_model: ClassVar[str | None] = "textenv/tiny"
    reward_model: ClassVar[str | None] = None

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

    def prompt_text(self, prompt: Prompt) -> str:
        """What the policy reads of a prompt: its text, or what the task writes around it."""
        return prompt.text

    @property
    def aspects(self) -> Mapping[str, Aspect]:
        """The aspects that can be judged apart, by name; their models load when they are first asked.

        Here those that every task has; a task puts its own before them: `{"factuality": ..., **super().aspects}`.
        """
        return self._generic_aspects

    @cached_property
    def _generic_aspects(self) -> dict[str, Aspect]:
        from textenv.judges.generic_aspects import generic_aspects  # loads language models; a task needs none

        return generic_aspects(self, self.fluency_model)

    @property
    def score_statistics(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the default score over texts of the embedded policy.

        None where they are not known: another scorer, say. `textenv calibrate` measures them.
        """
        return embedded_statistics(type(self).__name__) if same_scorer(self.scorer, self.load_scorer(None)) else None

    def truth(self, episodes: Sequence[Episode]) -> list[list[Span]]:
        """What is known to be good (reward > 0) and bad (reward < 0) in each text, where the task's world tells.

        Raises:
            ValueError: nothing is known about such texts.
        """
        raise ValueError(f"{type(self).__name__} knows no truth about its texts; the embedded tasks do")

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
        TypeError: what is no list of numbers; a column (B, 1) is one.
        ValueError: a wrong number of scores, or a score that is not finite (which episode, which scorer).
    """
    name = getattr(scorer, "__name__", type(scorer).__name__)
    try:
        values = [float(score.item() if hasattr(score, "item") else score) for score in scores]
    except (TypeError, ValueError, RuntimeError) as error:  # PyTorch's, of several numbers that are not one
        said = f"an array of shape {tuple(scores.shape)}" if hasattr(scores, "shape") else f"{scores!r:.80}"
        raise TypeError(f"scorer {name} returned {said} for {len(episodes)} episodes; one number for each is wanted") from error
    if len(values) != len(episodes):
        raise ValueError(f"scorer {name} returned {len(values)} scores for {len(episodes)} episodes")
    for i, value in enumerate(values):
        if not np.isfinite(value):
            raise ValueError(
                f"scorer {name} returned {value} for episode {i} (text {episodes[i].text[:80]!r}); a score must be finite"
            )
    return values


def check_spans(
    answers: Iterable[Iterable[Span] | None], episodes: Sequence[Episode], critic: object
) -> list[list[Span] | None]:
    """The spans of each episode, after the checks that every critic must pass.

    Raises:
        TypeError: something that is no span, or no list of them (which critic, which episode).
        ValueError: a wrong number of lists.
    """
    name = getattr(critic, "__name__", type(critic).__name__)
    wanted = "for each episode a list of textenv.Span(start, end, reward), or None, is wanted"
    try:
        out: list[list[Any] | None] = [None if spans is None else list(spans) for spans in answers]
    except TypeError as error:
        raise TypeError(f"the critic {name} returned {answers!r:.80}; {wanted}") from error
    if len(out) != len(episodes):
        raise ValueError(f"the critic {name} returned {len(out)} lists of spans for {len(episodes)} episodes")
    for i, spans in enumerate(out):
        for span in spans or ():
            if not isinstance(span, Span):
                where = f"episode {i} (text {episodes[i].text[:60]!r})"
                raise TypeError(f"the critic {name} returned {span!r:.80} for {where}; {wanted}")
    return out


def by_prompt(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Episodes grouped by the prompt object they continue, in order of first appearance."""
    groups: dict[int, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(id(episode.prompt), []).append(episode)
    return list(groups.values())
