"""Keys and values with room for the tokens to come, in the place of a cache that is copied at every token.

transformers' `DynamicLayer` puts a new token behind the others by `torch.cat`: all keys and values of the batch are copied
at each step, those of 64 texts of 128 tokens a hundred times over. Here a new token is written into a buffer that has room
for the next `BLOCK`; it is copied when that is full.

1. The model is given the whole buffer, as by a `StaticCache`: what is behind the last token is masked. Its front alone would
   be no contiguous tensor, and PyTorch's products of bfloat16 would copy that at every step, too.
2. Only decoders that can do with a `StaticCache` (transformers marks them; of those with ALiBi none can), and only layers that
   keep all tokens. Sliding windows, state spaces and encoder–decoders stay as they are.
3. Under autocast the buffer is of autocast's dtype, in which the products read it anyway (models with rotary positions hand
   in float32 keys).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["BLOCK", "make_room", "takes_buffers"]

BLOCK = 32
"""Tokens between two copies: more are fewer copies, and more masked columns to compute."""


def make_room(model: Any, cache: Any) -> None:
    """Let the cache that a model gave back as `past_key_values` take more tokens without copying what it holds."""
    if not takes_buffers(model):
        return
    layers = cache.layers if type(cache) is DynamicCache else []
    for i, layer in enumerate(layers):
        if type(layer) is DynamicLayer and isinstance(layer.keys, Tensor) and layer.keys.dim() == 4 and layer.values is not None:
            layers[i] = _Roomy(layer.keys, layer.values)


def takes_buffers(model: Any) -> bool:
    """Whether a model can be given buffers in the place of its tokens' keys and values.

    One with ALiBi cannot: it makes its distances of a mask of the tokens alone, so of fewer columns than a buffer has.
    """
    alibi = getattr(model.config, "alibi", model.config.model_type == "bloom")
    return bool(getattr(model, "_can_compile_fullgraph", False)) and not alibi


class _Roomy(DynamicLayer):
    """`keys` and `values` are whole buffers, (b, heads, a multiple of `BLOCK`, width), zero behind the last token."""

    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        kind = keys.device.type
        self.dtype, self.device = values.dtype, keys.device
        if torch.is_autocast_enabled(kind) and keys.dtype == torch.float32:
            self.dtype = torch.get_autocast_dtype(kind)
        self.is_initialized = True
        self.length = keys.shape[2]
        self._hold(keys, values, self._columns(0))

    def _columns(self, new: int) -> int:
        """How many columns the buffers have with so many tokens more."""
        return -(-(self.length + new) // BLOCK) * BLOCK

    def _hold(self, keys: Tensor, values: Tensor, columns: int) -> None:
        """Copy the tokens of both into new buffers."""
        for name, held in (("keys", keys), ("values", values)):
            b, heads, _, width = held.shape
            buffer = held.new_zeros((b, heads, columns, width), dtype=self.dtype)
            buffer[:, :, : self.length] = held[:, :, : self.length]
            setattr(self, name, buffer)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The buffers, with those of n new tokens, (b, heads, n, width) each, behind the others."""
        new = key_states.shape[2]
        if self._columns(new) > self.keys.shape[2]:
            self._hold(self.keys, self.values, self._columns(new))
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            buffer[:, :, self.length : self.length + new] = states
        self.length += new
        return self.keys, self.values

    def get_seq_length(self, *args: Any) -> int:
        """How many tokens it holds."""
        return self.length

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Columns of the mask for so many new tokens (transformers 5.0 gives their positions), and the first of them."""
        new = query_length.shape[0] if isinstance(query_length, Tensor) else query_length
        return max(self._columns(new), self.keys.shape[2]), 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these rows go on, or are repeated."""
        self.keys, self.values = self.keys[indices], self.values[indices]
