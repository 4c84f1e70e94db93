"""Decoding as a compiled program: one step over keys and values of a fixed size, for long runs.

    program(token, mask, position)  →  last hidden states        torch.compile of the model's trunk; on CUDA a CUDA graph of it

Small models spend most of a step on launching small operations. A program launches them as one, where every shape is known
beforehand: buffers for so many rows and so many columns, all of which is attended to under a mask (as transformers' `StaticCache`
has them). Rows that have ended leave by halves, so that few programs are made. Making one takes seconds, once a process, and on a
CPU a C++ compiler.

1. What comes of it is what `textenv.generation` computes, to rounding; prompts and the head run as ever.
2. Decoders whose layers keep the keys and values of all tokens, and whose attention takes a mask ("sdpa", `textenv.attention`'s);
   others are decoded as ever.
3. It is made for CUDA, where it was not run yet. On a CPU it hardly pays: a pass of GPT-2 (4 layers × 256) over a token of each of
   64 texts takes 4.4 in place of 6.1 ms in bfloat16, and an iteration of PPO 1.23 in place of 1.30 s; where texts end anywhere the
   masked columns take that back, and in float32 more (two threads of an Intel Xeon).
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from textenv.attention import NAME
from textenv.hidden_states import Head, head_of
from textenv.kv_cache import takes_buffers
from textenv.layouts import Decoding, Layout
from textenv.shapes import rounded

__all__ = ["CompiledDecoding", "begin_compiled", "rows_of_program"]

FEWEST = 8
"""Rows of a program at least."""
COLUMNS = 64
"""The columns of a program are a multiple of this."""

_BUFFERS: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], _Buffers]] = weakref.WeakKeyDictionary()
"""Of each model, of the most columns that were needed: a program knows where they lie."""


def rows_of_program(texts: int) -> int:
    """How many rows a program for so many texts has.

    >>> [rows_of_program(n) for n in (1, 8, 9, 64)]
    [8, 8, 16, 64]
    """
    return max(FEWEST, 1 << (texts - 1).bit_length())


class _Layer(DynamicLayer):
    """Keys and values of one layer, (b, heads, C, width); a token's are written at a place that a tensor tells."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, columns: int, rows: int, place: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self.is_initialized, self.place = values.dtype, values.device, True, place
        self.keys, self.values = (held.new_zeros((rows, held.shape[1], columns, held.shape[3])) for held in (keys, values))
        for buffer in (self.keys, self.values):
            torch._dynamo.mark_static_address(buffer)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The buffers, with those of one new token."""
        self.keys.index_copy_(2, self.place, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.place, value_states.to(self.values.dtype))
        return self.keys, self.values

    def get_seq_length(self, *args: Any) -> int:
        """Not asked for: masks and positions are given."""
        return 0


class _Buffers:
    """Keys and values of so many rows and columns, in all layers."""

    def __init__(self, layers: list[Any], rows: int, columns: int) -> None:
        self.rows = rows
        self.place = torch.zeros(1, dtype=torch.int64, device=layers[0].keys.device)
        torch._dynamo.mark_static_address(self.place)
        self.cache = DynamicCache()
        self.cache.layers = [_Layer(layer.keys, layer.values, columns, rows, self.place) for layer in layers]

    def hold(self, layers: list[Any], rows: Tensor) -> None:
        """Take these rows of other layers."""
        for mine, theirs in zip(self.cache.layers, layers, strict=True):
            for name in ("keys", "values"):
                held = getattr(theirs, name)[rows]
                getattr(mine, name)[: len(rows), :, : held.shape[2]] = held


class CompiledDecoding:
    """Texts being decoded by programs. `begin_compiled` gives it."""

    def __init__(self, layout: Layout, head: Head, decoding: Decoding, columns: int) -> None:
        self.layout, self.head, self.decoding = layout, head, decoding
        self.layers = decoding.cache.layers
        known = _BUFFERS.setdefault(layout.model, {})
        widest = max((width for _, width, *_ in known), default=0)
        if columns > widest:
            known.clear()
        self.columns = max(columns, widest)
        self._take(torch.arange(len(decoding.mask), device=decoding.mask.device))

    def step(self) -> tuple[Tensor, Tensor]:
        """Logits (b, V) and last hidden states (b, H) after the tokens that `decoding` holds."""
        b, prompt = self.decoding.mask.shape
        at = prompt + self.decoding.written - 1
        self.buffers.place.fill_(at)
        rows = self.buffers.rows
        mask = torch.zeros(rows, 1, 1, self.columns, dtype=torch.bool, device=self.decoding.mask.device)
        mask[:b, 0, 0, :prompt] = self.decoding.mask.bool()
        mask[:, :, :, prompt : at + 1] = True
        ids, positions = self.decoding.ids.new_zeros((2, rows, 1))
        ids[:b] = self.decoding.ids
        positions[:b] = self.decoding.mask.sum(1, keepdim=True) + self.decoding.written - 1
        if mask.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        with torch._dynamo.config.patch(recompile_limit=64):
            hidden = _program(mask.device.type)(self.layout.trunk, ids, mask, positions, self.buffers.cache)
        hidden = hidden[:b, -1].clone()  # a CUDA graph writes its next output into the same place
        return self.head(hidden), hidden

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self.decoding.ids, self.decoding.mask = self.decoding.ids[rows], self.decoding.mask[rows]
        self._take(rows)

    def _take(self, rows: Tensor) -> None:
        layers, n = self.layers, rows_of_program(len(rows))
        known = _BUFFERS.setdefault(self.layout.model, {})
        key = (n, self.columns, layers[0].keys.dtype, layers[0].values.dtype, str(layers[0].keys.device))
        if key not in known:
            with torch.inference_mode(False):  # others may write into them without it
                known[key] = _Buffers(layers, n, self.columns)
        self.buffers = known[key]
        self.buffers.hold(layers, rows)
        self.layers = self.buffers.cache.layers


def begin_compiled(layout: Layout, decoding: Decoding, kind: Any, new: int) -> CompiledDecoding | None:
    """The same texts, to be decoded by programs from here on; None: the model's cannot be.

    Args:
        decoding: after the prompts were read.
        kind: what the model's trunk puts out, a transformers output class.
        new: tokens of a text at most.
    """
    layers = getattr(decoding.cache, "layers", [])
    fit = layers and all(type(layer) is DynamicLayer and isinstance(layer.keys, Tensor) for layer in layers)
    config = layout.model.config
    if not fit or not takes_buffers(layout.model) or getattr(config, "_attn_implementation", None) not in ("sdpa", NAME):
        return None
    head = head_of(layout.model, kind, layout.blank)
    return CompiledDecoding(layout, head, decoding, rounded(decoding.mask.shape[1] + new, COLUMNS))


def _run(trunk: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    states: Tensor = trunk(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state
    return states


_PROGRAMS: dict[str, Any] = {}


def _program(device: str) -> Any:
    if device not in _PROGRAMS:
        _PROGRAMS[device] = torch.compile(_run, dynamic=False, mode="reduce-overhead" if device == "cuda" else None)
    return _PROGRAMS[device]
