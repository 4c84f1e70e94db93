"""What a transformer attended to, in one layer: one forward pass, the weights of the other layers let go at once.

Fused kernels do not tell their weights, so the model runs with the "eager" implementation for this pass alone; grouped queries
give one map a query head, a sliding window leaves zeros before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["attention_weights"]


@torch.inference_mode()
def attention_weights(model: Any, ids: Tensor, mask: Tensor, layer: int = -1) -> Tensor:
    """(b, heads, L, L): row i holds what position i attended to.

    Args:
        model: the transformer without its head (`base_model`).
        ids, mask: (b, L).
        layer: index of the layer, from either end.

    Raises:
        ValueError: no such layer; a model that tells no attention weights.
    """
    layers = int(model.config.num_hidden_layers)
    if not -layers <= layer < layers:
        raise ValueError(f"layer {layer} of a model of {layers} layers; give {-layers}..{layers - 1}")
    inputs = {"input_ids": ids, "attention_mask": mask}
    with _eager(model):
        modules, index = _modules(model)
        if len(modules) != layers:  # the model does not say where its attention is: all layers are kept for a moment
            found = getattr(model(**inputs, output_attentions=True), "attentions", None)
            weights = found[layer] if found else None
        else:
            seen: list[Any] = []
            handle = modules[layer].register_forward_hook(lambda _, __, output: seen.append(output[index]))
            try:
                model(**inputs)
            finally:
                handle.remove()
            weights = seen[0] if seen else None
    if weights is None or weights.dim() != 4 or weights.shape[-1] != ids.shape[1]:
        raise ValueError(f"{type(model).__name__} tells no attention weights")
    attended: Tensor = weights.float()
    return attended


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """The implementation that tells its weights; the one before comes back, since its results differ in the last bits."""
    before = model.config._attn_implementation
    if before == "eager":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _modules(model: Any) -> tuple[list[nn.Module], int]:
    """The self-attention modules in order, and where in their output the weights stand."""
    named = (getattr(model, "_can_record_outputs", None) or {}).get("attentions")
    kind = getattr(named, "target_class", named)
    if not isinstance(kind, type):
        return [], 0
    part = getattr(named, "layer_name", None) or ""
    named_modules: Iterator[tuple[str, nn.Module]] = model.named_modules()
    found = [module for name, module in named_modules if isinstance(module, kind) and f"{part}." in f"{name}."]
    return found, int(getattr(named, "index", 1))
