"""The encoder–decoder of Translation: a T5 taught what careless translators write, so that reward has something to teach it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textenv.embedded import networks
from textenv.embedded.examples import Example
from textenv.embedded.material import batched, padded
from textenv.embedded.recipes import Progress, rng_of
from textenv.embedded.worlds import world
from textenv.episode import Prompt
from textenv.fitting.training import fit

__all__ = ["SIZE", "translator"]

SIZE = {"width": 96, "layers": 3, "heads": 4}


def _batches(
    tokenizer: PreTrainedTokenizerBase, rng: random.Random, copying: int, tokens: int = 1600
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Source ids (B, S), their mask, and the ids of a translation with EOS (B, T), right-padded.

    Writing an example takes as long as learning from it: three of four come from those that were written before. In the first
    `copying` batches most are words in any order, to be said again: to look at the source word by word is learned from
    them, and from translations alone not in thousands of steps.
    """
    task, pad, store = world("translation"), tokenizer.pad_token_id or 0, list[Example]()
    words = task.vocabulary()
    while True:
        store += [task.sample(rng) for _ in range(6 * 48 if store else 60 * 48)]
        examples = store[-6 * 48 :] + rng.choices(store, k=18 * 48)
        if copying > 0:
            for i in range(0, len(examples), 3):
                for j in (i, i + 1):
                    text = " ".join(rng.choices(words, k=rng.randint(3, 14)))
                    examples[j] = Example(Prompt(text), f" {text}", ())
        asked = tokenizer([task.prompt_text(e.prompt) for e in examples]).input_ids
        told = tokenizer([e.text for e in examples], add_special_tokens=False).input_ids
        pool = [(len(a) + len(t) + 1, [a, [*t, tokenizer.eos_token_id]]) for a, t in zip(asked, told, strict=True)]
        for batch in batched(rng, tokens, pool):
            copying -= 1
            ids = padded([a for a, _ in batch], pad)
            yield ids, padded([[1] * len(a) for a, _ in batch], 0), padded([t for _, t in batch], pad)


def translator(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    steps: int,
    *,
    learning_rate: float = 3e-3,
    size: dict[str, int] | None = None,
) -> PreTrainedModel:
    """The translator; the loss is on the translation."""
    model = networks.encoder_decoder(tokenizer, seed, **(size or SIZE))

    def loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, mask, told = batch
        with networks.products():
            logits = model(input_ids=ids, attention_mask=mask, labels=None, decoder_input_ids=shifted(model, told)).logits
        where = told != tokenizer.pad_token_id
        return F.cross_entropy(logits[where].float(), told[where])

    batches = _batches(tokenizer, rng_of(seed, "translation"), min(800, steps // 3))
    fit(model, batches, loss, steps=steps, learning_rate=learning_rate, progress=progress)
    return model


def shifted(model: Any, told: torch.Tensor) -> torch.Tensor:
    """What the decoder reads: its start token, then the translation but for its last token."""
    start = torch.full((len(told), 1), model.config.decoder_start_token_id)
    return torch.cat([start, told[:, :-1]], 1)
