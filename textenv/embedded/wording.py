"""The tokenizer of the embedded world: one SentencePiece for all models and both languages, nearly every word one piece.

Whole words are worth more than a small vocabulary here: the language model makes no spelling mistakes, and a critic copies
a word in one step. So the corpus holds texts of all tasks, and every word by itself, lower case and as it begins a sentence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from transformers import PreTrainedTokenizerFast

from textenv.embedded import contrastive, critique, grammar, principles
from textenv.embedded.worlds import ANSWERS, TEMPLATES, world
from textenv.tokenization import fast_tokenizer, train_sentencepiece

__all__ = ["build_tokenizer", "corpus", "headers", "words"]

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def headers() -> list[str]:
    """The words that stand at the beginning of a line, where no space comes before them."""
    found = [header for lists in critique.HEADERS.values() for header, _, _ in lists]
    found += [word for template in TEMPLATES.values() for word in re.findall(r"\n(\w+)", template)]
    return sorted(set(found))


def words() -> list[str]:
    """Every word that a model of the embedded world reads or writes, as it is spelled, sorted."""
    found = {*grammar.GRAMMAR.vocabulary(), *grammar.GRAMMAR.openers(), *headers(), critique.NONE}
    for wordings in principles.PRINCIPLES.values():
        found |= set(wordings)
    for templates in contrastive.CONTRASTIVE.values():
        found |= {word for template in templates for word in _WORD.findall(template.replace("{prompt}", ""))}
    found |= set(_WORD.findall(principles.question(["civil"])))
    for name in ANSWERS:
        found |= {word for phrase in world(name).vocabulary() for word in _WORD.findall(phrase)}
        rng = random.Random(f"words of {name}")  # and with the capitals that sentences begin with
        for example in (world(name).sample(rng) for _ in range(500)):
            found |= set(_WORD.findall(" ".join((example.prompt.text, *example.prompt.references[:1], example.text))))
    return sorted(found)


def corpus(rng: random.Random, documents: int = 1500) -> Iterator[str]:
    """The lines that the tokenizer is trained on."""
    for _ in range(documents):
        yield grammar.sample(rng).text
    for name in ANSWERS:
        for _ in range(documents // 5):
            example = world(name).sample(rng)
            yield from world(name).prompt_text(example.prompt).split("\n")
            yield example.text.strip()
    every, starts = words(), headers()
    for _ in range(60):
        for word in every:
            yield f"{word} {word},"  # only what occurs within two words becomes a candidate at all
        for header in starts:
            # After a newline a header has no space before it; a digit ends a word, so "1Insults" counts for the piece "Insults".
            yield f"1{header}: {critique.NONE}{critique.SEPARATOR} x{header} q{header}"


def build_tokenizer(seed: int = 0, vocab_size: int = 4096) -> tuple[bytes, PreTrainedTokenizerFast]:
    """The proto of the SentencePiece model and the tokenizer made of it; encoding with special tokens puts bos in front."""
    proto = train_sentencepiece(corpus(random.Random(f"{seed} tokenizer")), vocab_size, max_sentencepiece_length=24)
    return proto, fast_tokenizer(proto, add_bos=True, model_max_length=512)
