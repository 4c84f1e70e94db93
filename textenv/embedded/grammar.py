"""The grammar of the embedded world: one genre a task over shared words. `sample` writes, `accepts` recognises.

    document = sample(random.Random(0))
    document.text, document.spans, document.log_probability

A further task adds a file with its `GENRE` and `MARKS` and one line to the two lists below.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from textenv.embedded import detox, sentiment
from textenv.embedded.domains import DOMAINS
from textenv.embedded.engine import Grammar
from textenv.embedded.lexicon import WEIGHTED
from textenv.embedded.notation import Document, word_list

__all__ = ["GRAMMAR", "Document", "accepted_share", "accepts", "complete_sentences", "continued", "sample"]

_SLOPE = {"thing": 0.9, "part": 0.7, "role": 0.8, "place": 0.7, "did": 0.8}
_SENTENCE = re.compile(r"[^.!?]*[.!?]")

GRAMMAR = Grammar(
    genres=[sentiment.GENRE, detox.GENRE],
    rules={slot: word_list(words, slope) for slot, (words, slope) in WEIGHTED.items()},
    domains={d: {slot: word_list(words, _SLOPE[slot]) for slot, words in slots.items()} for d, slots in DOMAINS.items()},
    marks={**sentiment.MARKS, **detox.MARKS},
)


def sample(rng: random.Random, genre: str | None = None) -> Document:
    """One document with its text, spans and log-probability in nats; `genre` is a task's name, None any of them."""
    return GRAMMAR.sample(rng, genre)


def accepts(sentence: str) -> bool:
    """Whether the grammar can write this sentence.

    >>> accepts("The plot was not very good."), accepts("The plot were good."), accepts("The plot and the soup were good.")
    (True, False, False)
    """
    return GRAMMAR.accepts(sentence)


def continued(prompt: str, text: str) -> str:
    """A prompt and its continuation written as one text: a space between words, none before punctuation."""
    glued = not prompt or not text or prompt[-1].isspace() or text[0].isspace() or text[0] in ".,!?"
    return prompt + ("" if glued else " ") + text


def complete_sentences(text: str, prompt: str = "", *, skip_first: bool = False) -> list[str]:
    """The sentences of a text that end within it; a cut last sentence is left out.

    Args:
        prompt: what the text continues; the first sentence then begins in the prompt.
        skip_first: leave the first fragment out, for a text whose prompt is not known.
    """
    whole = continued(prompt, text)
    begun = len(whole) - len(text)
    found = [m[0].strip() for m in _SENTENCE.finditer(whole) if m.end() > begun]
    return found[1:] if skip_first else found


def accepted_share(texts: Sequence[str], prompts: Sequence[str] | None = None, *, skip_first: bool = False) -> float:
    """The share of complete sentences that the grammar accepts, NaN where there is none.

    Args:
        texts: continuations, or whole texts; they may be cut anywhere at the end.
        prompts: what each text continues: its first sentence is then judged together with its beginning.
        skip_first: leave the first fragment of each text out instead (the texts continue prompts that are not at hand).
    """
    if prompts is not None and len(prompts) != len(texts):
        raise ValueError(f"one prompt a text: got {len(prompts)} prompts for {len(texts)} texts")
    pairs = zip(texts, prompts if prompts is not None else [""] * len(texts), strict=True)
    sentences = [s for text, prompt in pairs for s in complete_sentences(text, prompt, skip_first=skip_first)]
    return sum(map(accepts, sentences)) / len(sentences) if sentences else float("nan")
