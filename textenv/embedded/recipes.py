"""How each embedded model is trained: sizes, steps, rates. Every function returns a model in float32, ready to be saved.

Each is fixed by its seed on one machine: material, initial weights and samples have generators of their own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textenv.embedded import material, networks, sampling
from textenv.embedded.openings import prompts
from textenv.training import fit

__all__ = ["LABELS", "STEPS", "critic", "draft_samples", "language_model", "scorer"]

LABELS = {"sentiment": ("negative", "positive"), "insults": ("civil", "toxic")}
STEPS = {
    "draft": 800,
    "tiny": 9000,
    "tiny-critic-sentiment": 6500,
    "tiny-critic-insults": 4500,
    "tiny-sentiment": 3000,
    "tiny-toxicity": 800,
}
"""Optimiser steps of each training."""

Progress = Callable[[str], None]


def _rng(seed: int, purpose: str) -> random.Random:
    return random.Random(f"{seed} {purpose}")


def language_model(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    steps: int,
    *,
    learning_rate: float = 2e-3,
    purpose: str = "tiny",
) -> PreTrainedModel:
    """The language model of the documents.

    Its loss rests for some 500 to 2,000 steps (at 1.94) where sentences are right and topics are not kept; then it falls.
    """
    model = networks.language_model(tokenizer, seed, width=96, layers=4, heads=4)

    def loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
        logits = model(ids.clamp(min=0), use_cache=False).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=material.IGNORED)

    batches = material.language_batches(tokenizer, _rng(seed, purpose), rows=16)
    fit(model, batches, loss, steps=steps, learning_rate=learning_rate, warmup=0.03, progress=progress)
    return model


def draft_samples(
    tokenizer: PreTrainedTokenizerBase, seed: int, progress: Progress, steps: int, *, count: int = 1500
) -> dict[str, list[str]]:
    """Continuations by a half-trained language model, with their prompts in front, per genre: its mistakes are wanted."""
    model = language_model(tokenizer, seed, progress, steps, learning_rate=3e-3, purpose="draft")
    generator, rng = torch.Generator().manual_seed(seed), _rng(seed, "draft prompts")
    samples = {}
    for genre in sorted(material.GENRE.values()):
        openings = [rng.choice(prompts(genre, "train")).text for _ in range(count)]
        samples[genre] = sampling.continuations(model, tokenizer, openings, 110, generator)
        progress(f"{len(openings)} samples of {genre}, e.g. {samples[genre][0][:80]!r}")
    return samples


def scorer(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    task: str,
    samples: Sequence[str],
    steps: int,
) -> PreTrainedModel:
    """The classifier of `task`, taught the verdict on every prefix of every text."""
    model = networks.scorer(tokenizer, seed, LABELS[task], width=64, layers=3, heads=2)

    def loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, targets = batch
        labels = model.score(model.model(ids, use_cache=False).last_hidden_state)
        judged = targets >= 0
        return F.binary_cross_entropy_with_logits((labels[..., 1] - labels[..., 0])[judged], targets[judged])

    excerpts = material.Excerpts(_rng(seed, f"scorer {task}"), material.GENRE[task], samples)
    batches = material.scorer_batches(tokenizer, excerpts, task)
    fit(model, batches, loss, steps=steps, learning_rate=3e-3, progress=progress)
    return model


def critic(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    task: str,
    samples: Sequence[str],
    steps: int,
    *,
    text_weight: float = 0.02,
) -> PreTrainedModel:
    """The language model that answers critique prompts of `task`; loss on the answer, and a little on the text."""
    layers = {"insults": 3, "sentiment": 4}[task]  # two lists, and negations to be undone
    model = networks.language_model(tokenizer, seed, width=96, layers=layers, heads=layers)
    generator = torch.Generator().manual_seed(seed)

    def loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, answer = batch
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
        targets, answer = ids[:, 1:], answer[:, 1:].bool()
        text = (targets != tokenizer.pad_token_id) & ~answer
        text &= torch.rand(text.shape, generator=generator) < 0.25  # a quarter of the text stands for all: the head is dear
        nll = [F.cross_entropy(model.lm_head(hidden[where]), targets[where]) for where in (answer, text) if where.any()]
        curriculum.told(nll[0].item())
        return nll[0] + text_weight * sum(nll[1:]) * 4  # about four times as many tokens are text as answer

    excerpts = material.Excerpts(_rng(seed, f"critic {task}"), material.GENRE[task], samples)
    curriculum = material.Curriculum(steps)

    def tell(line: str) -> None:
        progress(f"{line}  (answers {curriculum.loss:.4f}, texts of up to {curriculum.reach:.0f} words)")

    batches = material.critic_batches(tokenizer, excerpts, task, curriculum)
    fit(model, batches, loss, steps=steps, learning_rate=3e-3, warmup=0.03, progress=tell)
    return model
