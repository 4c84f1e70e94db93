"""How a grammar is written down: rules with slots, word lists, genres; and what it writes, a `Document`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from textenv.episode import Span

__all__ = ["PUNCTUATION", "Document", "Genre", "Option", "join_words", "rule", "word_list"]

_SLOT = re.compile(r"\{(\w+)\}|[A-Za-z]+|[.,!?]")
PUNCTUATION = frozenset(".,!?")


@dataclass(frozen=True)
class Option:
    """The weighted ways to fill a slot; each is a sequence of symbols, ("word", w) or ("slot", s)."""

    symbols: tuple[tuple[tuple[str, str], ...], ...]
    weights: tuple[float, ...]
    words: bool = False  # a plain list of words, drawn without replacement within a sentence
    cumulative: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cumulative", tuple(itertools.accumulate(self.weights)))

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The words that stand in the templates themselves."""
        words = {value for symbols in self.symbols for sort, value in symbols if sort == "word"}
        return frozenset(words - PUNCTUATION)


def word_list(words: str, slope: float) -> Option:
    """A list of words with Zipf weights 1 / (rank + 1)^slope."""
    items = words.split()
    return Option(tuple((("word", w),) for w in items), tuple((i + 2.0) ** -slope for i in range(len(items))), words=True)


def rule(*templates: str) -> Option:
    """Templates, each with an optional leading weight: rule("3 the {part}", "it")."""
    symbols, weights = [], []
    for template in templates:
        head, _, rest = template.partition(" ")
        weighted = head.replace(".", "", 1).isdigit()
        weights.append(float(head) if weighted else 1.0)
        body = rest if weighted else template
        symbols.append(tuple(("slot", m[1]) if m[1] else ("word", m[0]) for m in _SLOT.finditer(body)))
    return Option(tuple(symbols), tuple(weights))


@dataclass(frozen=True)
class Genre:
    """One kind of document: its rules, the slot of its first sentence, and its moods.

    Attributes:
        opening: the slot of the first sentence.
        rules: slots that this genre adds; its sentence kinds among them.
        moods: name → (probability, {kind of sentence: probability}).
        shortest: sentences of the shortest document.
        stop: probability to stop after each sentence from there on.
    """

    name: str
    opening: str
    rules: Mapping[str, Option]
    moods: Mapping[str, tuple[float, Mapping[str, float]]]
    shortest: int = 3
    stop: float = 0.15


@dataclass(frozen=True)
class Document:
    """A text with its truth: the spans, the end of every sentence, and log P(text), in nats."""

    text: str
    spans: tuple[Span, ...]
    log_probability: float
    genre: str
    domain: str
    mood: str
    kinds: tuple[str, ...]  # one kind a sentence
    sentences: tuple[tuple[int, int], ...]  # the characters of each sentence


def join_words(words: Sequence[str]) -> tuple[str, list[int]]:
    """Words and punctuation written as a sentence, and the character at which each of them begins."""
    text, starts = "", []
    for word in words:
        text += "" if not text or word in PUNCTUATION else " "
        starts.append(len(text))
        text += word
    return text, starts
