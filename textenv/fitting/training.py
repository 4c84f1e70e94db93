"""The library's one supervised loop: AdamW, linear warm-up, cosine decay, gradient clipping.

It knows nothing of texts: a module, an iterator of batches, a loss of (module, batch). The embedded models, `textenv pretrain`
and `textenv fit-scorer` train with it. Randomness comes with the batches; nothing here draws any,
but a module's dropout.

Decoupled weight decay (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) is put on matrices only, the cosine
schedule is their earlier one (2017, https://arxiv.org/abs/1608.03983) without restarts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["fit", "learning_rate_factor"]

Batch = TypeVar("Batch")


def learning_rate_factor(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """What the learning rate is multiplied by at `step` (0-based): a linear rise, then half a cosine down to `floor`.

    >>> [round(learning_rate_factor(s, steps=5, warmup=2), 2) for s in range(5)]
    [0.5, 1.0, 1.0, 0.75, 0.25]
    """
    if step < warmup:
        return (step + 1) / warmup
    through = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, through)))


def fit(
    module: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Any, Batch], torch.Tensor | Iterable[torch.Tensor]],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.01,
    warmup: float = 0.05,
    floor: float = 0.0,
    max_grad_norm: float = 1.0,
    on_step: Callable[[int, float], None] | None = None,
    progress: Callable[[str], None] | None = None,
    progress_every: float = 20.0,
) -> list[float]:
    """Trains `module` in place and returns the loss of every step.

    Device and dtype are those of the module and of the batches. The module is in training mode meanwhile and left in
    evaluation mode.

    Args:
        batches: read once, one batch a step; may be endless.
        loss: (module, batch) → scalar tensor; or several whose sum is the loss, read one after the other: the graph of one alone
            stands in memory.
        steps: optimiser steps; fewer batches than that end the training early.
        warmup: share of the steps in which the learning rate rises.
        floor: share of the learning rate that is left at the end.
        on_step: called after every step with (steps done, loss).
        progress: called with a line of text every `progress_every` seconds, and at the end.

    Raises:
        FloatingPointError: a loss or a gradient is NaN or infinite.
        ValueError: no batch, or nothing to train.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("no parameter requires a gradient; unfreeze one before training")
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=True)
    rise = max(1, round(warmup * steps))
    losses: list[float] = []
    begun = told = time.monotonic()
    module.train()
    for step, batch in zip(range(steps), batches):  # noqa: B905 - whichever ends first
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_factor(step, steps, rise, floor)
        optimizer.zero_grad(set_to_none=True)
        parts, total = loss(module, batch), 0.0
        for part in (parts,) if isinstance(parts, torch.Tensor) else parts:
            part.backward()
            total += part.item()
        norm = nn.utils.clip_grad_norm_(trained, max_grad_norm)
        losses.append(total)
        if not (math.isfinite(losses[-1]) and torch.isfinite(norm)):
            raise FloatingPointError(
                f"step {step + 1}: loss {losses[-1]}, gradient norm {norm.item()}; lower the learning rate ({learning_rate})"
            )
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, losses[-1])
        now = time.monotonic()
        if progress is not None and (now - told > progress_every or step + 1 == steps):
            told, recent = now, losses[-50:]
            progress(f"step {step + 1}/{steps}  loss {sum(recent) / len(recent):.4f}  {now - begun:.0f} s")
    module.eval()
    if not losses:
        raise ValueError("no batch to train on; the iterator was empty")
    return losses
