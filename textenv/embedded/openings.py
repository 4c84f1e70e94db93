"""The prompts of the embedded tasks, written when asked for: openings of reviews and remarks, and whole documents.

An opening is cut at a word boundary, before the first marked span and before the first rude sentence; it does not end in a
word that would begin a span ("not", "very"). The prompts of the other tasks are those of their worlds' examples, with one
difference: a reference translation begins with a space, so that its tokens are those that `textenv/tiny-translation` writes,
which learned its texts behind "German:". Both splits are drawn from one stream of distinct prompts: none is in both.
"""

from __future__ import annotations

import importlib
import random
from dataclasses import replace
from functools import cache

from textenv.embedded import grammar, lexicon
from textenv.episode import Prompt

__all__ = ["SIZES", "prompts"]

SIZES = {"train": 2000, "test": 400}
WORLDS = {task: f"textenv.embedded.{task}" for task in ("summarization", "long_form", "translation")}
"""Task → the module whose `sample` gives its prompts, by import string: a module of one task loads when it is used."""

_WORDS = (3, 12)
_BEGINS_A_SPAN = frozenset(f"{lexicon.NEGATION} {lexicon.STRONG} {lexicon.MILD}".split())


def prompts(task: str, split: str = "train") -> list[Prompt]:
    """The prompts of an embedded task: 2,000 to train on, 400 others to test on; the same ones every time.

    Args:
        task: "sentiment" (openings of reviews), "detox" (openings of remarks to people), "summarization" (documents),
            "long_form" (questions, with their passage as context) or "translation" (sentences).
        split: "train" or "test".
    """
    tasks = {*grammar.GRAMMAR.genres, *WORLDS}
    if task not in tasks:
        raise ValueError(f"no embedded prompts for {task!r}; there are {', '.join(sorted(tasks))}")
    if split not in SIZES:
        raise ValueError(f"no split {split!r}; there are {', '.join(SIZES)}")
    everything = _distinct(task)
    return list(everything[: SIZES["train"]] if split == "train" else everything[SIZES["train"] :])


@cache
def _distinct(task: str) -> tuple[Prompt, ...]:
    rng = random.Random(f"prompts of {task}")
    found: dict[tuple[str, ...], Prompt] = {}
    while len(found) < sum(SIZES.values()):
        prompt = importlib.import_module(WORLDS[task]).sample(rng).prompt if task in WORLDS else _continued(task, rng)
        if prompt and task == "translation":
            prompt = replace(prompt, references=tuple(f" {reference}" for reference in prompt.references))
        if prompt:
            found.setdefault((prompt.text, *prompt.context), prompt)
    return tuple(found.values())


def _continued(task: str, rng: random.Random) -> Prompt | None:
    """The opening of a document as a prompt; None where the document has none that is long enough."""
    document = grammar.sample(rng, task)
    opening = _opening(document, rng)
    return Prompt(opening, metadata={"domain": document.domain}) if opening else None


def _opening(document: grammar.Document, rng: random.Random) -> str:
    limit = min([span.start for span in document.spans], default=len(document.text))
    rude = [start for kind, (start, _) in zip(document.kinds, document.sentences, strict=True) if kind == "remark_rude"]
    words = document.text[: min([limit, *rude])].split()[: rng.randint(*_WORDS)]
    while words and words[-1].lower() in _BEGINS_A_SPAN:
        words.pop()
    return " ".join(words) if len(words) >= _WORDS[0] else ""
