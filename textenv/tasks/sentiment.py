"""Sentiment: continue a text so that it speaks well (or, by argument, ill) of its subject.

Score: P(positive) of what was generated. Metrics: mean score, share positive (score > 0.5), distinct-1/2/3.
RELC's released values are v⁺ = 0.5, v⁻ = −0.5 (README; ±0.8 in its shell script).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

from textenv import embedded
from textenv.critics import load_critic
from textenv.critics.language_model import CritiqueFormat, Section
from textenv.episode import Episode, Prompt
from textenv.metrics import Estimate, distinct_metrics, sentiment_metrics
from textenv.scorers import SequenceClassifierScorer
from textenv.task import Critic, RewardDefaults, Scorer, Task, by_prompt

__all__ = ["Sentiment"]

LABELS = {"positive": ("positive", "pos", "LABEL_1"), "negative": ("negative", "neg", "LABEL_0")}

EXAMPLES = (
    ("The room was spotless but the staff were rude to us.", " spotless\nNegative: rude"),
    ("We drove there on Monday and came back at night.", " none\nNegative: none"),
    ("A moving story with splendid pictures, never boring.", " moving; splendid; never boring\nNegative: none"),
)


class Sentiment(Task):
    """Continue in a positive (negative) tone.

    Args:
        prompts: default: the embedded ones.
        scorer: callable (episodes → scores, higher is better), a classifier by directory or hub name (its label is
            found by name), or None: the embedded classifier.
        target: "positive" or "negative". A critic's rewards change sign with it.
    """

    def __init__(
        self,
        *,
        prompts: Sequence[Prompt] | None = None,
        scorer: Any = None,
        split: str = "train",
        target: Literal["positive", "negative"] = "positive",
    ) -> None:
        if target not in LABELS:
            raise ValueError(f'target must be "positive" or "negative", got {target!r}')
        self.target = target
        super().__init__(
            prompts=embedded.prompts("sentiment", split) if prompts is None else prompts,
            scorer=self.load_scorer(scorer),
            reward_defaults=RewardDefaults(positive=0.5, negative=-0.5),
        )

    def load_scorer(self, source: Any) -> Scorer:
        if callable(source):
            scorer: Scorer = source
            return scorer
        name = "textenv/tiny-sentiment" if source is None else os.fspath(source)
        return SequenceClassifierScorer(name, label=LABELS[self.target])

    def load_critic(self, source: Any) -> Critic:
        sign = 1.0 if self.target == "positive" else -1.0
        form = CritiqueFormat(
            sections=(Section("Positive", sign), Section("Negative", -sign)),
            instruction=(
                "You are an annotator. List the words and phrases of the text that carry a positive or a negative "
                "sentiment, word for word as they stand there, each as short as possible, separated by semicolons. "
                'Write "none" for an empty list.'
            ),
            examples=EXAMPLES,
        )
        return load_critic("textenv/tiny-critic-sentiment" if source is None else source, form)

    def metrics(self, episodes: Sequence[Episode]) -> dict[str, Estimate]:
        """`sentiment_metrics` and distinct-1/2/3 over the continuations of each prompt."""
        groups = by_prompt(episodes)
        return {
            **sentiment_metrics([[episode.score for episode in group] for group in groups]),
            **distinct_metrics([[episode.text for episode in group] for group in groups]),
        }
