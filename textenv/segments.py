"""Where a text may be cut: sentences, sub-sentences, lines, or not at all.

A segmenter takes a text and gives half-open character intervals that partition it: no gap, no overlap, white space
belongs to the segment before it (that at the very beginning to the first), an empty text has no segment. Any callable with
these properties is one (spaCy's sentences, say).

Fine-Grained RLHF (Wu et al. 2023, arXiv 2306.01693) judges sentences and sub-sentences. Departures from its code:

1. sentences come from punctuation, where it asks spaCy;
2. sub-sentences are as it cuts them: after a word that ends in one of , ; ! ?, inside sentences, with at least five words
   on either side of the cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from textenv.alignment import overlap
from textenv.episode import Episode

__all__ = [
    "SEGMENTERS", "Segmenter", "ended", "excerpt", "last_token", "lines", "load_segmenter", "sentences", "settled",
    "sub_sentences", "whole",
]  # fmt: skip

Segmenter = Callable[[str], Sequence[tuple[int, int]]]
"""A text → the half-open intervals of its segments, in order."""

MIN_WORDS = 5  # of a sub-sentence
_SENTENCE_END = re.compile(r"""(?:[.!?…]+["'”’»)\]]*(?=\s|\Z)|[。！？]+["'”’」』）]*|\n)\s*""")
_CLAUSE_END = re.compile(r"\S*[,;!?](?=\s)\s*")
_LINE_END = re.compile(r"\n\s*")
_NO_END = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Nr|No|Fig|vs|approx|ca|bzw|e\.g|i\.e|z\.B|d\.h)|(?<![\w'])[A-HJ-Z])\.\Z"
)  # a title, an abbreviation, an initial: what the full stop behind it does not end
_MORE = " And so it goes on and on"  # any sentence, longer than MIN_WORDS


def sentences(text: str) -> list[tuple[int, int]]:
    """After . ! ? … and their closing quotes, before white space; after their full-width kin; at line ends.

    >>> text = "Dr. Lee sang. It was 3.5 km!  Was it?"
    >>> [text[start:end] for start, end in sentences(text)]
    ['Dr. Lee sang. ', 'It was 3.5 km!  ', 'Was it?']
    """
    ends = []
    for found in _SENTENCE_END.finditer(text):
        dot = found.start() + 1
        if "\n" in found[0] or not _NO_END.search(text, max(dot - 10, 0), dot):
            ends.append(found.end())
    return _partition(text, ends)


def sub_sentences(text: str) -> list[tuple[int, int]]:
    """Inside sentences, after a word that ends in , ; ! ? with at least five words before the cut and after it.

    >>> text = "The plot was thin and slow, but the cast was a joy, truly."
    >>> [text[start:end] for start, end in sub_sentences(text)]
    ['The plot was thin and slow, ', 'but the cast was a joy, truly.']
    """
    ends: list[int] = []
    for start, end in sentences(text):
        begin = start
        for found in _CLAUSE_END.finditer(text, start, end):
            cut = found.end()
            if min(len(text[begin:cut].split()), len(text[cut:end].split())) >= MIN_WORDS:
                ends.append(cut)
                begin = cut
        ends.append(end)
    return _partition(text, ends)


def lines(text: str) -> list[tuple[int, int]]:
    r"""After each line end: the steps of a worked answer.

    >>> lines("x = 2\n\ny = 3")
    [(0, 7), (7, 12)]
    """
    return _partition(text, [found.end() for found in _LINE_END.finditer(text)])


def whole(text: str) -> list[tuple[int, int]]:
    """The text, in one piece.

    >>> whole("one. two"), whole("")
    ([(0, 8)], [])
    """
    return _partition(text, [])


SEGMENTERS: dict[str, Segmenter] = {
    "sentences": sentences, "sub_sentences": sub_sentences, "lines": lines, "whole": whole
}  # fmt: skip
"""Name → segmenter."""


def load_segmenter(segmenter: str | Segmenter) -> Segmenter:
    """A segmenter by name; a callable is checked at every use.

    Raises:
        ValueError: no such name. The callable raises it where its segments are no partition of the text.
    """
    if not callable(segmenter):
        if segmenter not in SEGMENTERS:
            raise ValueError(f"segmenter {segmenter!r}: one of {', '.join(SEGMENTERS)}, or a callable text -> [(start, end), ...]")
        return SEGMENTERS[segmenter]
    if segmenter in SEGMENTERS.values():
        return segmenter
    given = segmenter

    def checked(text: str) -> list[tuple[int, int]]:
        pieces = [(int(start), int(end)) for start, end in given(text)]
        at = 0
        for start, end in pieces:
            if start != at or end <= start:
                raise ValueError(f"segmenter {_name(given)}: segment ({start}, {end}) follows {at}; segments partition the text")
            at = end
        if at != len(text):
            raise ValueError(f"segmenter {_name(given)}: segments end at {at} of {len(text)} characters: {text[:80]!r}")
        return pieces

    return checked


def last_token(episode: Episode, end: int) -> int:
    """The index of the token on which a segment that ends before character `end` is paid.

    It is the last token that holds a part of the last visible character before `end`: a token such as " The" may hold the
    white space behind a sentence, but belongs to the next one.

    Raises:
        ValueError: `end` is not in 1..len(episode.text).
    """
    if not 0 < end <= len(episode.text):
        raise ValueError(f"a segment ends at {end} of the {len(episode.text)} characters of {episode.text[:80]!r}")
    visible = len(episode.text[:end].rstrip()) or end
    return int(np.flatnonzero(overlap(episode.offsets, 0, visible))[-1])


def ended(text: str, segmenter: Segmenter) -> bool:
    """Whether the last segment of a text has come to its end, if more is to follow: an unfinished text may still grow.

    >>> ended("It was good.", sentences), ended("It was goo", sentences), ended("It was good.", whole)
    (True, False, False)
    """
    return any(len(text) <= end <= len(text) + 1 for _, end in segmenter(text + _MORE)[:-1])


def settled(episode: Episode, segmenter: Segmenter) -> list[tuple[int, int]]:
    """The segments of a text; of an unfinished one those that have come to their end."""
    found = list(segmenter(episode.text))
    return found if episode.finished or (found and ended(episode.text, segmenter)) else found[:-1]


def excerpt(episode: Episode, start: int, end: int) -> Episode:
    """The characters start..end of a text as an episode of its own, finished, not judged, with the tokens that overlap them."""
    inside = overlap(episode.offsets, start, end)
    offsets = np.clip(episode.offsets[inside], start, end) - start
    return replace(
        episode, tokens=episode.tokens[inside], text=episode.text[start:end], offsets=offsets, finish_reason="length",
        score=float("nan"), rewards=np.zeros(int(inside.sum()), np.float64),
    )  # fmt: skip


def _partition(text: str, ends: Sequence[int]) -> list[tuple[int, int]]:
    """The intervals between ends, each with something to see in it."""
    out: list[tuple[int, int]] = []
    start = 0
    for end in [*ends, len(text)]:
        if text[start:end].strip():
            out.append((start, end))
            start = end
    if start < len(text):  # white space alone
        out = [*out[:-1], (out[-1][0], len(text))] if out else [(0, len(text))]
    return out


def _name(segmenter: Any) -> str:
    return str(getattr(segmenter, "__name__", type(segmenter).__name__))
