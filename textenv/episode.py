"""The two values that travel through the library: a `Prompt` and an `Episode`, one text being generated.

Both are immutable. Every stage (scoring, each reward wrapper) returns a new `Episode`; none patches an old one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Episode", "FinishReason", "Prompt", "Span"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """What the policy is asked to continue.

    Attributes:
        text: the words the policy sees.
        references: texts that a good answer resembles (empty where the task has none).
        context: documents the prompt rests on (the source of a summary, passages of a question).
        metadata: whatever else the data source held; never read by the library.
    """

    text: str
    references: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """A half-open interval of characters of `Episode.text`, with what each of its tokens is worth.

    Wrappers pay `reward` to every token that overlaps the span: a word of six tokens gets it six times.

    >>> episode_text = "you weasel"
    >>> span = Span(4, 10, reward=-1.0, label="insult")
    >>> episode_text[span.start : span.end]
    'weasel'
    """

    start: int
    end: int
    reward: float = 0.0
    label: str = ""

    def __post_init__(self) -> None:
        try:
            index(self.start), index(self.end)
        except TypeError:
            raise TypeError(f"a span's start and end are whole numbers, got start={self.start!r}, end={self.end!r}") from None
        if not 0 <= self.start < self.end:
            raise ValueError(f"a span needs 0 <= start < end, got start={self.start}, end={self.end}")
        if not math.isfinite(self.reward):
            raise ValueError(f"a span's reward must be finite, got {self.reward}")


@dataclass(frozen=True, eq=False)
class Episode:
    """One text being generated, finished or not. Two are equal whose values are, arrays element by element, NaN equal to NaN.

    Attributes:
        prompt: what was asked.
        prompt_tokens: (P,) int64, the ids the model saw.
        tokens: (T,) int64, the ids as sampled, EOS included.
        text: the tokens decoded in the context of the prompt, special tokens left out.
        offsets: (T, 2) int64, the half-open character interval of `text` that each token overlaps; empty for specials.
        finish_reason: "stop" (EOS), "length" (budget spent), None (unfinished).
        score: the task's own (extrinsic) verdict; NaN until judged; an unfinished text has none. No wrapper changes it.
        rewards: (T,) float64, the credit of each token, as the wrappers left it.
    """

    prompt: Prompt
    prompt_tokens: NDArray[np.int64]
    tokens: NDArray[np.int64]
    text: str
    offsets: NDArray[np.int64]
    finish_reason: FinishReason | None
    score: float
    rewards: NDArray[np.float64]

    @property
    def finished(self) -> bool:
        """Whether the text has ended, by EOS or by its budget."""
        return self.finish_reason is not None

    def prefix(self, t: int) -> Episode:
        """The text as it stood after t tokens: unfinished, not judged, without credit.

        Raises:
            ValueError: t is not in 0..T.
        """
        if not 0 <= t <= len(self):
            raise ValueError(f"a prefix of {t} tokens of an episode of {len(self)}")
        offsets = self.offsets[:t]
        end = int(offsets[:, 1].max(initial=0))
        return replace(
            self, tokens=self.tokens[:t], text=self.text[:end], offsets=offsets, finish_reason=None,
            score=math.nan, rewards=np.zeros(t, np.float64),
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Episode):
            return self is other or NotImplemented
        scores = self.score == other.score or (math.isnan(self.score) and math.isnan(other.score))
        return (
            scores
            and (self.text, self.finish_reason, self.prompt) == (other.text, other.finish_reason, other.prompt)
            and all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("tokens", "prompt_tokens", "offsets"))
            and np.array_equal(self.rewards, other.rewards, equal_nan=True)
        )

    def __hash__(self) -> int:
        return hash((self.text, len(self)))

    def __len__(self) -> int:
        return len(self.tokens)
