"""Attention in bfloat16 on a CPU: two batched matrix products and a softmax, in the place of PyTorch's fused kernel.

That kernel (`scaled_dot_product_attention`) is good in float32 and poor in bfloat16: sampling and updates of small models
are a third faster without it (`benchmarks.ppo`). So the function here is that kernel through transformers' own function,
but for bfloat16 on a CPU. It is registered in transformers' attention interface under `NAME`, with the masks of "sdpa";
a model takes it by its configuration, and no model's code is changed.

1. Key heads that several query heads share (GQA) are not copied: their queries become rows of one product.
2. The scores are rounded to bfloat16, the softmax is computed in float32 inside PyTorch's kernel. Dropout, paged caches and
   whatever else a model asks for are left to the fused kernel.
3. Under autocast models with rotary positions hand in float32 queries: what counts is the precision of the products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from textenv.shapes import halved

__all__ = ["NAME", "attention", "use_matmul_attention"]

NAME = "textenv_matmul"


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers asks of an attention function.

    Args:
        query: (B, heads, Q, D).
        key, value: (B, key heads, L, D).
        attention_mask: bool (true: read) or an addend, (B, 1, Q, L); None: all, or the past where `is_causal`.
        position_bias: an addend, (1, heads, Q, L) (T5).

    Returns:
        (B, Q, heads, D), and no weights.
    """
    given: dict[str, Any] = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **others}
    fused = dropout or others.get("cache") is not None or others.get("softcap") is not None
    if fused or not halved(query.device.type, query.dtype):
        bias: dict[str, Any] = {} if position_bias is None else {"position_bias": position_bias}
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **given, **bias)
        return out
    (b, heads, q, d), shared = query.shape, key.shape[1]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and causal and q > 1:
        key, value = key[:, :, :q], value[:, :, :q]  # a cache may have room behind the prompt
        attention_mask = torch.ones(q, q, dtype=torch.bool, device=query.device).tril()[None, None]
    rows = (query * (d**-0.5 if scaling is None else scaling)).to(torch.bfloat16).reshape(b, shared, heads // shared * q, d)
    scores = (rows @ key.to(torch.bfloat16).transpose(-1, -2)).view(b, heads, q, key.shape[2])
    if position_bias is not None:
        scores = scores + position_bias[..., : scores.shape[-1]].to(scores.dtype)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = torch.where(attention_mask, scores, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask.to(scores.dtype)
    weights = scores.softmax(-1).view(b, shared, -1, key.shape[2])
    read = (weights @ value.to(torch.bfloat16)).view(b, heads, q, value.shape[-1])
    return read.transpose(1, 2).contiguous(), None


def use_matmul_attention(model: Any) -> None:
    """Let a transformers model that attends by "sdpa" attend by `attention`: the same in float32. Others stay as they are.

    A model with parts of several configurations (an encoder and a decoder) has them all told by transformers.
    """
    if getattr(model.config, "_attn_implementation", None) == "sdpa" and hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(NAME)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
