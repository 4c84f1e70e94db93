"""CountLetter: say a letter as often as possible. The smallest world that can be learned.

One prompt, bytes as tokens, no model: an agent that cannot solve it in seconds has a defect. The score of a text is
the share of its budget that holds the letter, so ending early never pays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenv.critics import load_critic
from textenv.critics.language_model import CritiqueFormat, Section
from textenv.episode import Episode, Prompt, Span
from textenv.metrics import Estimate
from textenv.models import refuse_model
from textenv.task import Critic, RewardDefaults, Scorer, Task, by_prompt

__all__ = ["CountLetter"]


class CountLetter(Task):
    """Say `letter`.

    Score: occurrences of the letter over the token budget (a token may hold several characters: at most 1).
    Critic: marks each occurrence, the truth.
    """

    def __init__(
        self, *, max_new_tokens: int, prompts: Sequence[Prompt] | None = None, scorer: Any = None, letter: str = "a"
    ) -> None:
        if len(letter) != 1:
            raise ValueError(f"letter must be one character, got {letter!r}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self.letter, self.max_new_tokens = letter, max_new_tokens
        super().__init__(
            prompts=prompts or [Prompt(f"Say {letter}: ")],
            scorer=self.load_scorer(scorer),
            reward_defaults=RewardDefaults(positive=1.0 / max_new_tokens, negative=-1.0 / max_new_tokens),
        )

    def load_scorer(self, source: Any) -> Scorer:
        if source is None:
            return self._share
        if callable(source):
            refuse_model("scorer", source)
            scorer: Scorer = source
            return scorer
        raise TypeError(f"scorer must be callable for CountLetter, got {source!r}")

    def load_critic(self, source: Any) -> Critic:
        return self._spans if source is None else load_critic(source, CritiqueFormat((Section("Letters", 1.0),)))

    @property
    def score_statistics(self) -> tuple[float, float] | None:
        """Of texts whose bytes are drawn uniformly from the byte tokenizer's 259 ids: the letters are binomial."""
        if self.scorer != self._share:
            return None
        p = 1 / 259
        return p, math.sqrt(p * (1 - p) / self.max_new_tokens)

    def metrics(self, episodes: Sequence[Episode]) -> dict[str, Estimate]:
        """Mean score."""
        groups = [[episode.score for episode in group] for group in by_prompt(episodes)]
        return {"mean_score": Estimate([np.mean(group) for group in groups], [len(group) for group in groups])}

    def _share(self, episodes: Sequence[Episode]) -> list[float]:
        return [min(episode.text.count(self.letter) / self.max_new_tokens, 1.0) for episode in episodes]

    def _spans(self, episodes: Sequence[Episode], /) -> list[list[Span]]:
        return [
            [Span(i, i + 1, 1.0, "letter") for i, character in enumerate(episode.text) if character == self.letter]
            for episode in episodes
        ]
