"""The aspects that every task has: the verdict on each sentence, fluency, length.

    sentence_score   the task's own scorer on each sentence by itself: a dense reading of any score
    fluency          mean log-probability of a token under a reference language model: minus the log of its perplexity
    length           number of generated tokens, EOS included (ALaRM's ablation: over the initial policy's mean, not squashed)

A task's own aspects come first: `{"factuality": ..., **generic_aspects(self)}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from textenv.aspects import Aspect
from textenv.episode import Episode, Span
from textenv.models import load_causal_lm
from textenv.segments import Segmenter, excerpt, load_segmenter
from textenv.tokenization import load_tokenizer
from textenv.waits import waits

if TYPE_CHECKING:
    from textenv.task import Scorer, Task

__all__ = ["Fluency", "SegmentScores", "generic_aspects", "token_count"]


def generic_aspects(task: Task, reference: Any = "textenv/tiny") -> dict[str, Aspect]:
    """`sentence_score`, `fluency` (None as the reference: none) and `length` of a task."""
    out = {"sentence_score": Aspect("sentence_score", SegmentScores(task.scorer), "sentence")}
    if reference is not None:
        out["fluency"] = Aspect("fluency", Fluency(reference, prompt_text=lambda e: task.prompt_text(e.prompt)), "text")
    out["length"] = Aspect("length", token_count, "text", squash=False, scale="mean")
    return out


def token_count(episodes: Sequence[Episode]) -> list[list[Span]]:
    """The number of generated tokens of each text, EOS included, as one span."""
    return [[Span(0, len(e.text), float(len(e)))] if e.text else [] for e in episodes]


class SegmentScores:
    """A scorer on each segment by itself, as an `Aspect.judge`: one scorer call for all segments of all texts.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", max_new_tokens=10).unwrapped
    >>> [spans] = SegmentScores(env.task.scorer)([env.episode(textenv.Prompt("p"), list(b"aaa. b. a."))])
    >>> [(span.start, span.end, span.reward) for span in spans]
    [(0, 5, 0.3), (5, 8, 0.0), (8, 10, 0.1)]
    """

    def __init__(self, scorer: Scorer, segmenter: str | Segmenter = "sentences") -> None:
        self.scorer, self.segmenter = scorer, load_segmenter(segmenter)

    def __call__(self, episodes: Sequence[Episode]) -> list[list[Span]]:
        places = [[(start, end) for start, end in self.segmenter(e.text) if e.text[start:end].strip()] for e in episodes]
        pieces = [excerpt(e, start, end) for e, found in zip(episodes, places, strict=True) for start, end in found]
        scores = iter(self.scorer(pieces) if pieces else ())
        return [[Span(start, end, float(next(scores))) for start, end in found] for found in places]

    @property
    def waits(self) -> bool:
        """Whether the scorer does."""
        return waits(self.scorer)

    def __deepcopy__(self, memo: dict[int, Any]) -> SegmentScores:
        return self


class Fluency:
    """Mean log p(token | prompt, tokens before) of a text under a language model, in nats, as an `Aspect.judge`.

    The model reads prompt and text by its own tokenizer, which need not be the policy's; a beginning that does not fit its
    positions is left out. It loads when it is first asked.

    Args:
        source: a causal language model by directory, name or object (then `tokenizer=` too).
        prompt_text: what the model reads before the text; default: `Prompt.text`.
    """

    def __init__(
        self, source: Any = "textenv/tiny", *, tokenizer: Any = None, prompt_text: Callable[[Episode], str] | None = None
    ) -> None:
        self.source, self._tokenizer = source, tokenizer
        self.prompt_text = prompt_text or (lambda episode: episode.prompt.text)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fluency:
        return self

    @cached_property
    def model(self) -> Any:
        """The language model, frozen."""
        return load_causal_lm(self.source, shared=isinstance(self.source, str))

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return load_tokenizer(self.source if self._tokenizer is None else self._tokenizer)

    def __call__(self, episodes: Sequence[Episode]) -> list[list[Span]]:
        from textenv.metrics import negative_log_likelihood  # imports textenv.task, which needs this module

        read = [self._as_read(episode) for episode in episodes]
        losses, counts = negative_log_likelihood(self.model, read)
        return [
            [Span(0, len(e.text), -float(loss / count))] if e.text and count else []
            for e, loss, count in zip(episodes, losses, counts, strict=True)
        ]

    def _as_read(self, episode: Episode) -> Episode:
        prompt = list(self.tokenizer(self.prompt_text(episode))["input_ids"])
        if prompt and prompt[-1] == self.tokenizer.eos_token_id and len(prompt) > 1:
            prompt.pop()  # some tokenizers close every text
        text = list(self.tokenizer(episode.text, add_special_tokens=False)["input_ids"])
        limit = getattr(self.model.config, "max_position_embeddings", None) or len(prompt) + len(text)
        text = text[: limit - 1]
        prompt = prompt[-(limit - len(text)) :] or [self.tokenizer.bos_token_id or self.tokenizer.eos_token_id]
        return replace(
            episode, prompt_tokens=np.array(prompt, np.int64), tokens=np.array(text, np.int64), finish_reason=None
        )
