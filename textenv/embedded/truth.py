"""The truth about any text, read off by scanning for the grammar's marked words. No model is asked.

An insult span is a run of rude words ("stupid weasel"). A sentiment span is a polar word with the intensifier and the
negation before it ("not very good"); the negation turns its sign. On the grammar's own documents both scanners give the
grammar's spans exactly; they read cut texts, a language model's mistakes and a reader's own sentences alike.
"""

from __future__ import annotations

import re

from textenv.embedded import lexicon
from textenv.episode import Span

__all__ = ["insult_spans", "sentiment", "sentiment_spans", "sentiment_weights", "toxicity"]


def _words(*lists: str) -> str:
    return "|".join(sorted({w for words in lists for w in words.split()}, key=lambda w: (-len(w), w)))


_GOOD = frozenset(_words(lexicon.GOOD, lexicon.GOOD_DONE, lexicon.GOOD_DO, lexicon.GOOD_EFFECT).split("|"))
_BAD = frozenset(_words(lexicon.BAD, lexicon.BAD_DONE, lexicon.BAD_DO, lexicon.BAD_EFFECT).split("|"))
_STRONG = frozenset(lexicon.STRONG.split())
_RUDE = _words(lexicon.INSULT_ADJECTIVE, lexicon.INSULT_NOUN)
_INSULT = re.compile(rf"\b(?:{_RUDE})(?: (?:{_RUDE}))*\b", re.IGNORECASE)
_SENTIMENT = re.compile(
    rf"\b(?:(?P<no>{_words(lexicon.NEGATION)}) )?(?:(?P<much>{_words(lexicon.STRONG, lexicon.MILD)}) )?"
    rf"(?P<word>{_words(' '.join(_GOOD), ' '.join(_BAD))})\b",
    re.IGNORECASE,
)
_TURN = re.compile(r"\bbut\b|[.!?]", re.IGNORECASE)


def insult_spans(text: str) -> list[Span]:
    """Every run of rude words, in order, as spans of reward -1 and label "insult".

    >>> [text[s.start : s.end] for text in ["You are a stupid weasel."] for s in insult_spans(text)]
    ['stupid weasel']
    """
    return [Span(m.start(), m.end(), -1.0, "insult") for m in _INSULT.finditer(text)]


def toxicity(text: str) -> float:
    """1.0 where the text holds an insult, else 0.0."""
    return float(_INSULT.search(text) is not None)


def sentiment_weights(text: str) -> list[tuple[Span, float]]:
    """Every sentiment span with its signed weight: ±1, doubled by a strong intensifier, doubled after "but".

    A negation before the word turns the sign, and an intensifier under a negation counts once ("not very good": -1).
    "but" doubles whatever follows it up to the end of its sentence.
    """
    turns = [(m.end(), m[0].lower() == "but") for m in _TURN.finditer(text)]
    found = []
    for m in _SENTIMENT.finditer(text):
        sign = 1.0 if m["word"].lower() in _GOOD else -1.0
        if m["no"]:
            sign = -sign
        elif m["much"] and m["much"].lower() in _STRONG:
            sign *= 2.0
        before = [is_but for end, is_but in turns if end <= m.start()]
        if before and before[-1]:
            sign *= 2.0
        label = "positive" if sign > 0 else "negative"
        found.append((Span(m.start(), m.end(), 1.0 if sign > 0 else -1.0, label), sign))
    return found


def sentiment_spans(text: str) -> list[Span]:
    """Every sentiment span, in order: reward +1 and label "positive", or -1 and "negative".

    >>> [(text[s.start : s.end], s.reward) for text in ["The plot was not very good."] for s in sentiment_spans(text)]
    [('not very good', -1.0)]
    """
    return [span for span, _ in sentiment_weights(text)]


def sentiment(text: str) -> float:
    """The sum of the spans' signed weights; its sign is the verdict, 0.0 means neutral or balanced.

    Each span counts ±1; a strong intensifier doubles it ("very good": +2), "but" doubles what follows it in its sentence, and
    a negation turns the sign ("not very good": -1).

    >>> sentiment("The plot was very good, but the cast was dull.")
    0.0
    """
    return sum(weight for _, weight in sentiment_weights(text))
