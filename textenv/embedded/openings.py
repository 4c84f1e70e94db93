"""Openings of documents, written by the grammar when asked for: the prompts of the embedded tasks.

An opening is cut at a word boundary, before the first marked span and before the first rude sentence; it does not end in a
word that would begin a span ("not", "very"). Both splits are drawn from one stream of distinct openings: none is in both.
"""

from __future__ import annotations

import random
from functools import cache

from textenv.embedded import grammar, lexicon
from textenv.episode import Prompt

__all__ = ["SIZES", "prompts"]

SIZES = {"train": 2000, "test": 400}
_WORDS = (3, 12)
_BEGINS_A_SPAN = frozenset(f"{lexicon.NEGATION} {lexicon.STRONG} {lexicon.MILD}".split())


def prompts(task: str, split: str = "train") -> list[Prompt]:
    """The prompts of an embedded task: 2,000 to train on, 400 others to test on; the same ones every time.

    Args:
        task: "sentiment" (openings of reviews) or "detox" (openings of remarks to people).
        split: "train" or "test".
    """
    if task not in grammar.GRAMMAR.genres:
        raise ValueError(f"no embedded prompts for {task!r}; there are {', '.join(sorted(grammar.GRAMMAR.genres))}")
    if split not in SIZES:
        raise ValueError(f"no split {split!r}; there are {', '.join(SIZES)}")
    everything = _distinct(task)
    return list(everything[: SIZES["train"]] if split == "train" else everything[SIZES["train"] :])


@cache
def _distinct(task: str) -> tuple[Prompt, ...]:
    rng = random.Random(f"prompts of {task}")
    found: dict[str, Prompt] = {}
    while len(found) < sum(SIZES.values()):
        document = grammar.sample(rng, task)
        opening = _opening(document, rng)
        if opening:
            found.setdefault(opening, Prompt(opening, metadata={"domain": document.domain}))
    return tuple(found.values())


def _opening(document: grammar.Document, rng: random.Random) -> str:
    limit = min([span.start for span in document.spans], default=len(document.text))
    rude = [start for kind, (start, _) in zip(document.kinds, document.sentences, strict=True) if kind == "remark_rude"]
    words = document.text[: min([limit, *rude])].split()[: rng.randint(*_WORDS)]
    while words and words[-1].lower() in _BEGINS_A_SPAN:
        words.pop()
    return " ".join(words) if len(words) >= _WORDS[0] else ""
