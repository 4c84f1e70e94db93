"""Sentiment: continue a text so that it speaks well (or, by argument, ill) of its subject.

Score: P(positive) of what was generated. Metrics: mean score, share positive (score > 0.5), distinct-1/2/3.
RELC's released values are v⁺ = 0.5, v⁻ = −0.5 (README; ±0.8 in its shell script).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from textenv import embedded
from textenv.critics import load_critic
from textenv.critics.language_model import CritiqueFormat, Section
from textenv.embedded.truth import sentiment_spans
from textenv.episode import Episode, Prompt, Span
from textenv.judges.loading import load_scorer
from textenv.metrics import Estimate, distinct_metrics, sentiment_metrics
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
        scorer: callable (episodes → scores, higher is better), a classifier by directory or hub name, a reward model (its
            logit; with target "positive"), or None: the embedded classifier.
        target: "positive" or "negative". A critic's rewards change sign with it.
        label: the classifier's label that is scored, by name or index; default: found by the target's usual names.
        output: "probability", or "logit" (RELC's paper); `share_positive` then counts scores ≥ 0.
        with_prompt: judge prompt and text together (RELC's paper), not the text alone. What `textenv fit-reward-model` fitted
            reads the template it was fitted to.

    Raises:
        ValueError: bad arguments; a label that the classifier does not have (the message lists those it has); one output that
            tells neither tone, or a reward model with target "negative".
    """

    def __init__(
        self,
        *,
        prompts: Sequence[Prompt] | None = None,
        scorer: Any = None,
        split: str = "train",
        target: Literal["positive", "negative"] = "positive",
        label: str | int | None = None,
        output: Literal["probability", "logit"] = "probability",
        with_prompt: bool = False,
    ) -> None:
        if target not in LABELS:
            raise ValueError(f'target must be "positive" or "negative", got {target!r}')
        if callable(scorer) and (label is not None or output != "probability" or with_prompt):
            raise ValueError("label=, output= and with_prompt= tell how a classifier is read; scorer= is a callable of its own")
        self.target, self.label, self.output, self.with_prompt = target, label, output, with_prompt
        super().__init__(
            prompts=embedded.prompts("sentiment", split) if prompts is None else prompts,
            scorer=self.load_scorer(scorer),
            reward_defaults=RewardDefaults(positive=0.5, negative=-0.5),
        )
        if getattr(self.scorer, "output", "") == "logit":
            self.output = "logit"  # a reward model's

    def load_scorer(self, source: Any) -> Scorer:
        return load_scorer(
            "textenv/tiny-sentiment" if source is None else source,
            label=LABELS[self.target] if self.label is None else self.label,
            opposite=LABELS["negative" if self.target == "positive" else "positive"],
            output=self.output,
            template="{prompt}{text}" if self.with_prompt else "{text}",
            reward_model="allowed" if self.target == "positive" else "refused",
        )

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

    @property
    def score_statistics(self) -> tuple[float, float] | None:
        """Those of P(positive); P(negative) is the rest of it. The embedded classifier read otherwise is another scorer."""
        plain = self.output == "probability" and self.label is None and not self.with_prompt
        known = super().score_statistics if plain else None
        return known if known is None or self.target == "positive" else (1.0 - known[0], known[1])

    def truth(self, episodes: Sequence[Episode]) -> list[list[Span]]:
        """The sentiment phrases of the embedded world's word lists; +1 where they are of the target's tone."""
        sign = 1.0 if self.target == "positive" else -1.0
        return [[replace(s, reward=sign * s.reward) for s in sentiment_spans(e.text)] for e in episodes]

    def metrics(self, episodes: Sequence[Episode]) -> dict[str, Estimate]:
        """`sentiment_metrics` and distinct-1/2/3 over the continuations of each prompt.

        A text counts as positive from 0 on where scores are logits (some then lie beyond [0, 1]), else from 0.5 on.
        """
        groups = by_prompt(episodes)
        logits = self.output == "logit" or any(not 0.0 <= episode.score <= 1.0 for episode in episodes)
        return {
            **sentiment_metrics([[episode.score for episode in group] for group in groups], 0.0 if logits else 0.5),
            **distinct_metrics([[episode.text for episode in group] for group in groups]),
        }
