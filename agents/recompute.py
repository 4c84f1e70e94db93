"""Gradient checkpointing: what a block keeps for its gradient is computed again instead of held (Chen et al. 2016,
arXiv 1604.06174, *Training Deep Nets with Sublinear Memory Cost*).

transformers does so in training mode alone, where dropout is on and the ratio of a first PPO update is not 1. So the
blocks are wrapped here, in either mode: where gradients are recorded, only what enters a block is kept. Sampling, with its
KV cache, records none and runs as before. The non-reentrant form is used: the inputs of a frozen base need no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = ["recompute_blocks"]


class _Recomputed:
    """The forward of a block, computed twice where gradients are recorded."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)


def recompute_blocks(model: nn.Module) -> None:
    """Compute every block of a transformers model again in the backward pass. Once is enough; twice changes nothing.

    Raises:
        ValueError: the model has no such blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no blocks that can be computed again: gradient_checkpointing=False")
    for block in blocks:
        if not isinstance(block.forward, _Recomputed):
            block.forward = _Recomputed(block.forward)
