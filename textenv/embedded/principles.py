r"""Principles in words, and the truth about them: what `textenv/tiny-principles` reads and is taught (SALMON, arXiv 2310.05910).

The reward model reads the principles that a text is to be judged by, then the text:

    Principles: civil; not cheerful⏎ You are right, but the soup was dull.

Each principle votes, a negated one the other way round (`vote`). Departures from SALMON:

1. a principle is a word, since the model has less than a million weights;
2. the vote is the truth of the embedded world, not the opinion of a large model;
3. the verdict is the mean of the votes, where SALMON lets the strongest decide: here all votes have one scale, and a civil
   text would never be told to cheer up.
"""

from __future__ import annotations

from collections.abc import Sequence

from textenv.embedded import truth

__all__ = ["PRINCIPLES", "question", "verdict", "vote"]

PRINCIPLES: dict[str, tuple[str, str]] = {
    "civil": ("civil", "rude"),
    "cheerful": ("cheerful", "gloomy"),
    "brief": ("brief", "long"),
}
"""Name → (its wording, its negated wording)."""

WORDS = 16
"""A text of so many words is neither brief nor long."""


def question(principles: Sequence[str]) -> str:
    r"""What stands before the text. A name with "not " before it is asked for in its negated wording.

    >>> question(["civil", "not cheerful"])
    'Principles: civil; gloomy\n'

    Raises:
        ValueError: no principle, or one that is not known.
    """
    if not principles:
        raise ValueError(f"no principle is asked for; there are {', '.join(PRINCIPLES)}, each also as 'not NAME'")
    return f"Principles: {'; '.join(PRINCIPLES[name][negated] for name, negated in map(_read, principles))}\n"


def vote(principle: str, text: str) -> float:
    """How far the text keeps to one principle, in [-1, 1]; 0 where it says nothing to it.

    >>> vote("civil", " You oaf."), vote("not civil", " You oaf."), vote("cheerful", " It was good.")
    (-1.0, 1.0, 0.5)
    """
    name, negated = _read(principle)
    if name == "civil":
        value = 1.0 - 2.0 * truth.toxicity(text)
    elif name == "cheerful":
        value = max(-1.0, min(1.0, truth.sentiment(text) / 2))
    else:
        value = max(-1.0, min(1.0, (WORDS - len(text.split())) / WORDS))
    return -value if negated else value


def verdict(principles: Sequence[str], text: str) -> float:
    """The mean of the votes, in [-1, 1].

    >>> verdict(["civil", "cheerful"], " It was good, you oaf.")
    -0.25
    """
    return sum(vote(principle, text) for principle in principles) / len(principles)


def _read(principle: str) -> tuple[str, bool]:
    name = principle.removeprefix("not ")
    if name not in PRINCIPLES:
        raise ValueError(f"no principle {principle!r}; there are {', '.join(PRINCIPLES)}, each also as 'not NAME'")
    return name, name != principle
