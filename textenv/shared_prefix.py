"""What all prompts of a batch begin with is read once.

A critic's questions hold the same instruction and the same examples before each text, chats the same system message: of 64
questions of 330 tokens, 300 of them the same, 64 · 30 + 300 tokens are read in the place of 64 · 330. The keys and values of the
common beginning are repeated for each row; the rest of a shorter prompt stands behind padding, which nobody attends to and which
does not count as a position.

That is exact where attention knows positions alone (`position_ids`). Where a layer counts places in the cache (a sliding window) or
keeps a state in its place, nothing is shared.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicLayer

from textenv.layouts import Decoding, Layout
from textenv.padding import left_pad

__all__ = ["LEAST", "begin_sharing", "common_beginning"]

Ids = NDArray[np.int64]
LEAST = 32
"""Tokens that prompts must have in common for a pass of their own to pay."""

WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""What a configuration calls the places that a layer looks back; the last is GPT-Neo's."""


def common_beginning(prompts: Sequence[Ids]) -> int:
    """How many ids all of several prompts begin with, each keeping one at least; 0 if fewer than `LEAST`.

    >>> common_beginning([np.arange(40), np.r_[np.arange(35), 0]])
    35
    >>> common_beginning([np.arange(40)]), common_beginning([np.arange(9), np.arange(9)])
    (0, 0)
    """
    if len(prompts) < 2:
        return 0
    limit = min(map(len, prompts)) - 1
    if limit < LEAST:
        return 0
    heads = np.stack([np.asarray(prompt[:limit]) for prompt in prompts])  # (B, limit)
    same = (heads == heads[0]).all(0)
    found = limit if same.all() else int(same.argmin())
    return found if found >= LEAST else 0


def begin_sharing(layout: Layout, prompts: Sequence[Ids]) -> Decoding:
    """`layout.begin(prompts)`, with what they have in common read already."""
    model = layout.model
    exact = not model.config.is_encoder_decoder and "position_ids" in inspect.signature(model.forward).parameters
    known = common_beginning(prompts) if exact else 0
    cache = _repeated_cache(model, prompts[0][:known], len(prompts)) if known else None
    if cache is None:
        return layout.begin(prompts)
    ids, mask = left_pad([prompt[known:] for prompt in prompts], model.device)
    return Decoding(ids, torch.cat([mask.new_ones(len(mask), known), mask], 1), cache=cache)


def _repeated_cache(model: Any, ids: Ids, rows: int) -> Any:
    """What the model keeps of these ids (S,), for so many rows; None: it is not keys and values of every token alone."""
    if any(getattr(model.config, name, None) for name in WINDOWS):
        return None
    read = torch.from_numpy(np.asarray(ids, np.int64))[None].to(model.device)
    cache = model.base_model(input_ids=read, use_cache=True).past_key_values
    layers = getattr(cache, "layers", [])
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return None
    cache.batch_repeat_interleave(rows)
    return cache
