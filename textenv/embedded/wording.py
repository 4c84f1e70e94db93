"""The tokenizer of the embedded world: SentencePiece on the grammar's texts, nearly every word one piece.

Whole words are worth more than a small vocabulary here: the language model makes no spelling mistakes, and a critic copies
a word in one step. So the corpus holds documents, and every word by itself, lower case and as it begins a sentence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from transformers import PreTrainedTokenizerFast

from textenv.embedded import critique, grammar
from textenv.tokenization import fast_tokenizer, train_sentencepiece

__all__ = ["build_tokenizer", "corpus"]


def corpus(rng: random.Random, documents: int = 2000) -> Iterator[str]:
    """The lines that the tokenizer is trained on."""
    for _ in range(documents):
        yield grammar.sample(rng).text
    headers = [header for lists in critique.HEADERS.values() for header, _, _ in lists]
    for _ in range(60):
        yield from grammar.GRAMMAR.vocabulary()
        yield from grammar.GRAMMAR.openers()
        yield critique.NONE
        for header in headers:
            # After a newline a header has no space before it. A digit ends a word, so "1Insults" counts for the piece
            # "Insults"; only what occurs within two words becomes a candidate at all, hence the two others.
            yield f"1{header}: {critique.NONE}{critique.SEPARATOR} x{header} q{header}"


def build_tokenizer(seed: int = 0, vocab_size: int = 2048) -> tuple[bytes, PreTrainedTokenizerFast]:
    """The proto of the SentencePiece model and the tokenizer made of it; encoding with special tokens puts bos in front."""
    proto = train_sentencepiece(corpus(random.Random(f"{seed} tokenizer")), vocab_size, max_sentencepiece_length=24)
    return proto, fast_tokenizer(proto, add_bos=True, model_max_length=512)
