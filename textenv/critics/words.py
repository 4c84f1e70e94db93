"""From marked spans to a number for every word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from textenv.critics.asking import AskedCritic
from textenv.critics.forms import ScoreRange
from textenv.episode import Episode, Span
from textenv.task import Critic, check_spans
from textenv.waits import waits

__all__ = ["WordsFromSpans"]


class WordsFromSpans:
    """A critic of spans as one of words: each word gets the sum of the spans that it overlaps, cut to [−1, 1].

    For critics that cannot be asked for numbers: the embedded ones, word lists, callables.

    >>> from textenv.critics import LexiconCritic
    >>> critic = WordsFromSpans(LexiconCritic(["old goat"]))
    >>> critic.words("You old goat!", LexiconCritic(["old goat"]).spans("You old goat!"))
    [Span(start=4, end=7, reward=-1.0, label='word'), Span(start=8, end=13, reward=-1.0, label='word')]

    Args:
        critic: episodes → spans.
    """

    def __init__(self, critic: Critic) -> None:
        self.critic = critic

    def __deepcopy__(self, memo: dict[int, Any]) -> WordsFromSpans:
        return self

    def __call__(self, episodes: Sequence[Episode], /) -> list[list[Span] | None]:
        marked = check_spans(self.critic(episodes), episodes, self.critic)
        return [None if s is None else self.words(e.text, s) for e, s in zip(episodes, marked, strict=True)]

    @property
    def waits(self) -> bool:
        """Whether the critic does."""
        return waits(self.critic)

    @staticmethod
    def words(text: str, spans: Sequence[Span]) -> list[Span]:
        """The words of a text that are worth something."""
        out = []
        for match in re.finditer(r"\S+", text):
            value = sum(span.reward for span in spans if span.start < match.end() and match.start() < span.end)
            if value:
                out.append(Span(match.start(), match.end(), min(max(value, -1.0), 1.0), "word"))
        return out

    def showing_score(self, score_range: ScoreRange | None) -> WordsFromSpans:
        """The same, with the score of a text beside it, where the critic is asked in text."""
        if not isinstance(self.critic, AskedCritic):
            raise TypeError(f"{self.critic!r} is not asked in text, so it cannot be shown a score")
        return WordsFromSpans(self.critic.showing_score(score_range))

    def metrics(self) -> dict[str, float]:
        """The critic's own counters."""
        own = getattr(self.critic, "metrics", None)
        return dict(own()) if callable(own) else {}
