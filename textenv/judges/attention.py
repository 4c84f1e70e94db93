"""What a transformer attended to, in one layer: one forward pass, the weights of the other layers let go at once.

1. Fused kernels do not tell their weights, so the model runs with the "eager" implementation for this pass alone; grouped queries
   give one map a query head, a sliding window leaves zeros before it.
2. A language model that wrote a text is read where it wrote (`generation_attention`): the position that predicts token s attends
   to the tokens before s, in the decoder's own self-attention where there is an encoder too. The last token is never attended to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textenv.layouts import layout_of

__all__ = ["attention_weights", "generation_attention"]

MAX_WEIGHTS = 1 << 25  # 128 MiB in float32
Ids = NDArray[np.int64]


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
    return _weights(model, model, {"input_ids": ids, "attention_mask": mask}, layer, int(model.config.num_hidden_layers))


@torch.no_grad()
def generation_attention(
    model: Any,
    prompts: Sequence[Ids],
    texts: Sequence[Ids],
    prompt_end: Sequence[int] = (),
    *,
    layer: int = -1,
    heads: Literal["mean"] | int = "mean",
    steps: Literal["mean", "last"] = "mean",
    batch_size: int = 64,
) -> list[NDArray[np.float64]]:
    """What a language model attended to in each text while it wrote it.

    Args:
        model: a transformers language model, causal or encoder–decoder.
        prompts: B arrays (P_b,) as the environment has them, at least one id each.
        texts: B arrays (T_b,).
        prompt_end: the environment's (`ActionRule.prompt_end`).
        layer: of the decoder, from either end.
        heads: "mean", or the index of one.
        steps: the mean over the T steps of a text, or the "last" step alone.
        batch_size: texts a forward pass, at most.

    Returns:
        B arrays (T_b,) float64 ≥ 0; what is missing to 1 fell on the prompt.

    Raises:
        ValueError: no such layer or head; a model that tells no attention weights; texts beyond its positions.
    """
    layout, out = layout_of(model), [np.zeros(len(text)) for text in texts]
    read = layout.prompts(prompts, prompt_end)
    order = sorted((i for i, text in enumerate(texts) if len(text)), key=lambda i: len(texts[i]) + len(read[i]))
    for i in order:
        layout.check(len(read[i]), len(texts[i]))
    while order:
        longest = len(texts[order[-1]]) + len(read[order[-1]])
        size = min(batch_size, max(1, MAX_WEIGHTS // (longest**2 * _heads(model))))
        batch, order = order[-size:], order[:-size]
        at = layout.positions([read[i] for i in batch], [texts[i] for i in batch], apart=True)
        weights = _weights(model, model.get_decoder(), {**at.inputs, "use_cache": False}, layer, _depth(model))
        if heads != "mean" and not (isinstance(heads, int) and 0 <= heads < weights.shape[1]):
            raise ValueError(f'heads must be "mean" or one of 0..{weights.shape[1] - 1}, got {heads!r}')
        of_heads = weights.mean(1) if heads == "mean" else weights[:, heads]  # (b, L, L)
        for k, i in enumerate(batch):
            columns = at.columns[at.rows == k]  # token t is predicted at columns[t], and read at columns[t + 1]
            of_steps = of_heads[k][columns][:, columns[1:]]  # (T, T - 1)
            seen = of_steps.mean(0) if steps == "mean" else of_steps[-1]
            out[i][:-1] = seen.double().cpu().numpy()
    return out


def _heads(model: Any) -> int:
    config = model.config
    return int(getattr(config, "decoder_attention_heads", None) or config.num_attention_heads)


def _depth(model: Any) -> int:
    """Layers of what writes."""
    names = (
        ("decoder_layers", "num_decoder_layers", "num_hidden_layers") if model.config.is_encoder_decoder else ("num_hidden_layers",)
    )
    return next(int(getattr(model.config, name)) for name in names if getattr(model.config, name, None))


def _weights(model: Any, part: Any, inputs: Mapping[str, Any], layer: int, layers: int) -> Tensor:
    """(b, heads, L, L) of one layer of a part of the model, in a pass of the whole."""
    if not -layers <= layer < layers:
        raise ValueError(f"layer {layer} of a model of {layers} layers; give {-layers}..{layers - 1}")
    with _eager(model):
        modules, index = _modules(part)
        if len(modules) != layers:  # the model does not say where its attention is: all layers are kept for a moment
            told = model(**inputs, output_attentions=True)
            found = getattr(told, "attentions" if part is model else "decoder_attentions", None) or getattr(
                told, "attentions", None
            )
            weights = found[layer] if found else None
        else:
            seen: list[Any] = []
            handle = modules[layer].register_forward_hook(lambda _, __, output: seen.append(output[index]))
            try:
                model(**inputs)
            finally:
                handle.remove()
            weights = seen[0] if seen else None
    read = inputs.get("decoder_input_ids", inputs["input_ids"])
    if weights is None or weights.dim() != 4 or weights.shape[-1] != read.shape[1]:
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
