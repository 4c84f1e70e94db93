"""How the language model, the scorers and the critics of the embedded world are trained: sizes, steps, rates.

Every function returns a model in float32, ready to be saved. Each is fixed by its seed on one machine: material, initial
weights and samples have generators of their own. The judges of answers are in `textenv.embedded.judging`, the copy that
prefers in `textenv.embedded.preferring`, the translator in `textenv.embedded.translating`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textenv.embedded import material, networks, sampling
from textenv.embedded.lessons import KINDS, Lessons, Step
from textenv.embedded.openings import prompts
from textenv.embedded.worlds import DOCUMENTS
from textenv.fitting.training import fit

__all__ = ["LABELS", "SIZE", "STEPS", "Progress", "critic", "draft_samples", "language_model", "rng_of", "scorer"]

LABELS = {"sentiment": ("negative", "positive"), "insults": ("civil", "toxic")}
SIZE = {"width": 128, "layers": 4, "heads": 4}  # of tiny and of what begins with its weights
STEPS = {
    "draft": 600,
    "tiny": 10000,
    "tiny-translation": 3000,
    "tiny-critic-sentiment": 11000,
    "tiny-critic-insults": 4500,
    "tiny-sentiment": 3000,
    "tiny-toxicity": 800,
    "judges": 10000,
    "tiny-aspects": 4000,
    "tiny-critic-answers": 4000,
    "tiny-preferred": 500,
    "tiny-principles": 1500,
}
"""Optimiser steps of each training."""

Progress = Callable[[str], None]


def rng_of(seed: int, purpose: str) -> random.Random:
    """The generator of one training's material."""
    return random.Random(f"{seed} {purpose}")


class Lately:
    """A moving average of the loss of each kind of row, for the progress lines."""

    def __init__(self) -> None:
        self.loss: dict[str, float] = {}

    def told(self, nll: torch.Tensor, kinds: torch.Tensor) -> None:
        """Losses of tokens (N,) and the kinds of their rows (N,)."""
        for index in kinds.unique().tolist():
            value, name = float(nll[kinds == index].mean()), KINDS[index]
            self.loss[name] = value if name not in self.loss else 0.97 * self.loss[name] + 0.03 * value

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3f}" for name, value in self.loss.items())


def language_model(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    steps: int,
    *,
    learning_rate: float = 2.5e-3,
    purpose: str = "tiny",
    size: dict[str, int] | None = None,
    shares: dict[str, float] | None = None,
) -> PreTrainedModel:
    """The language model of all tasks, or of the mixture `shares`."""
    model = networks.language_model(tokenizer, seed, **(size or SIZE))
    lately = Lately()

    def loss(model: Any, step: Step) -> torch.Tensor:
        where = step.weights[:, 1:] > 0
        with networks.products():
            read = model.model(step.ids, attention_mask=step.mask, position_ids=step.positions, use_cache=False)
            logits = networks.next_token_logits(model, read.last_hidden_state[:, :-1][where])
        nll = F.cross_entropy(logits.float(), step.ids[:, 1:][where], reduction="none")
        weights = step.weights[:, 1:][where]
        learned = weights == 1.0
        lately.told(nll.detach()[learned], step.kinds[:, 1:][where][learned])
        return (nll * weights).sum() / weights.sum()

    def tell(line: str) -> None:
        progress(f"{line}  ({lately})")

    copying = min(1000, steps // 2) if shares is None else 0
    lessons = Lessons(tokenizer, rng_of(seed, purpose), copying=copying, shares=shares)
    fit(model, iter(lessons), loss, steps=steps, learning_rate=learning_rate, warmup=0.03, progress=tell)
    return model


def draft_samples(
    tokenizer: PreTrainedTokenizerBase, seed: int, progress: Progress, steps: int, *, count: int = 1500
) -> dict[str, list[str]]:
    """Continuations by a half-trained language model of documents, per genre: its mistakes are wanted."""
    size, documents = {"width": 96, "layers": 4, "heads": 4}, {"document": 1.0}
    model = language_model(tokenizer, seed, progress, steps, learning_rate=3e-3, purpose="draft", size=size, shares=documents)
    generator, rng = torch.Generator().manual_seed(seed), rng_of(seed, "draft prompts")
    samples = {}
    for genre in DOCUMENTS:
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
        with networks.products():
            labels = model.score(model.model(ids, use_cache=False).last_hidden_state).float()
        judged = targets >= 0
        return F.binary_cross_entropy_with_logits((labels[..., 1] - labels[..., 0])[judged], targets[judged])

    excerpts = material.Excerpts(rng_of(seed, f"scorer {task}"), material.GENRE[task], samples)
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
    curriculum = material.Curriculum(steps)
    excerpts = material.Excerpts(rng_of(seed, f"critic {task}"), material.GENRE[task], samples)
    batches = material.critic_batches(tokenizer, excerpts, task, curriculum)
    loss = critic_loss(tokenizer, seed, text_weight, curriculum.told)

    def tell(line: str) -> None:
        progress(f"{line}  (answers {curriculum.loss:.4f}, texts of up to {curriculum.reach:.0f} words)")

    fit(model, batches, loss, steps=steps, learning_rate=3e-3, warmup=0.03, progress=tell)
    return model


def critic_loss(
    tokenizer: PreTrainedTokenizerBase, seed: int, text_weight: float, told: Callable[[float], None]
) -> Callable[[Any, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """The loss of (ids, 1 where a token belongs to the answer); `told` is called with that of the answers alone."""
    generator = torch.Generator().manual_seed(seed)

    def loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, answer = batch
        targets, answer = ids[:, 1:], answer[:, 1:].bool()
        text = (targets != tokenizer.pad_token_id) & ~answer
        text &= torch.rand(text.shape, generator=generator) < 0.25  # a quarter of the text stands for all: the head is dear
        with networks.products():
            hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
            logits = [(networks.next_token_logits(model, hidden[w]), targets[w]) for w in (answer, text) if w.any()]
        nll = [F.cross_entropy(x.float(), wanted) for x, wanted in logits]
        told(nll[0].item())
        return nll[0] + text_weight * sum(nll[1:]) * 4  # about four times as many tokens are text as answer

    return loss
