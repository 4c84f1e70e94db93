"""What a causal language model makes of many unfinished texts: the state, and the logits, after the last token of each.

Two ways, which agree to 1e-5 in float32:

    `read_states`   one pass, differentiable. A text that begins another one is read as part of it (a causal model's state
                    at a token knows nothing of what follows), so that the steps of one text cost one text.
    `PrefixCache`   texts that grow by a token between calls: keys and values of what was read are kept, the new token
                    alone is read. Rows may be of any lengths, and any of them may begin anew at any call.

1. The cache is one rectangle: every row stands flush right in it, under its own mask; rows that begin anew are read apart
   and put in their places, and columns that no row needs any more are cut off.
2. It is dropped when the weights change (`textenv.weights`): an optimizer's step, fused or not, or `load_state_dict`.
3. A model with a memory of another kind (state spaces, none at all) is read whole at every step: slower, the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from textenv.layouts import Decoding, layout_of
from textenv.weights import marks

__all__ = ["PrefixCache", "States", "read_states"]

Ids = NDArray[np.int64]


class States(NamedTuple):
    """After the last token of each of n texts."""

    hidden: Tensor  # (n, H) what the head reads
    logits: Tensor  # (n, V)


def read_states(model: Any, rows: Sequence[Ids]) -> States:
    """The state after each row, all of them in one pass; differentiable.

    >>> import torch
    >>> from textenv.models import load_causal_lm
    >>> rows = [np.array([5, 6]), np.array([5, 6, 7]), np.array([8])]  # the first begins the second: two texts are read
    >>> read_states(load_causal_lm("textenv/tiny"), rows).logits.shape[0]
    3

    Args:
        model: a causal transformers model.
        rows: n arrays of ids, at least one id each.
    """
    texts, home = _longest(rows)
    layout = layout_of(model)
    at = layout.positions(texts, [np.zeros(1, np.int64)] * len(texts), apart=True)  # flush left, and one column behind
    columns = [len(row) - 1 for row in rows]
    where = torch.tensor([home, columns], device=model.device)
    inputs = {name: tensor[:, :-1] for name, tensor in at.inputs.items()}  # the last column is nobody's
    zeros = torch.zeros_like(where[0])
    hidden, head = layout.read(replace(at, inputs=inputs, rows=where[0], columns=where[1], steps=zeros, actions=zeros))
    return States(hidden, head(hidden))


def _longest(rows: Sequence[Ids]) -> tuple[list[Ids], list[int]]:
    """The rows that begin no other row, and for every row the one of them that it begins.

    In lexical order whatever begins with a row comes straight after it.
    """
    keys = [tuple(row.tolist()) for row in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    texts: list[Ids] = []
    home = [0] * len(rows)
    after: tuple[int, ...] = ()
    for i in reversed(order):
        if not texts or after[: len(keys[i])] != keys[i]:
            texts.append(rows[i])
        home[i], after = len(texts) - 1, keys[i]
    return texts, home


class PrefixCache:
    """Reads n growing texts, call by call, without reading a token twice. No gradients.

    >>> from textenv.models import load_causal_lm
    >>> cache = PrefixCache(load_causal_lm("textenv/tiny"))
    >>> _ = cache.read([np.array([5, 6, 7]), np.array([8])])
    >>> _ = cache.read([np.array([5, 6, 7, 9]), np.array([4, 4])])  # the first goes on, the second is another text
    >>> cache.tokens_read
    7

    Attributes:
        tokens_read: tokens that the model was given so far, padding left out.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tokens_read = 0
        self._keeps: bool | None = None  # whether the model's memory is keys and values; None: not known yet
        self._sliding = False
        self.clear()

    def clear(self) -> None:
        """Forget all texts: the weights have changed, or the model has moved."""
        self._rows: list[Ids] = []
        self._states: States | None = None
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.int64)  # (n, L) which columns of the cache are a row's own
        self._parameters = list(self.model.parameters())
        self._marks = marks(self._parameters)

    @torch.no_grad()
    def read(self, rows: Sequence[Ids]) -> States:
        """The state after each of n texts; a row that is the row of the last call and one more token costs one token."""
        if marks(self._parameters) != self._marks or len(rows) != len(self._rows):
            self.clear()
        elif self._states is not None and all(map(np.array_equal, rows, self._rows)):
            return self._states
        if self._keeps is False:
            self.tokens_read += sum(map(len, rows))
            return read_states(self.model, rows)
        on = [i for i, old in enumerate(self._rows) if len(rows[i]) == len(old) + 1 and np.array_equal(rows[i][:-1], old)]
        try:
            if self._cache is None or not on:
                states = self._begin(rows)
            elif len(on) == len(rows):
                states = self._go_on(rows)
            else:
                states = self._mixed(rows, on)
        except BaseException:
            self.clear()  # what is half read is no memory
            raise
        self._rows, self._states = [row.copy() for row in rows], states
        return states

    # --- Within --------------------------------------------------------------------------------------------------

    def _forward(self, decoding: Decoding) -> States:
        with _head_input(self.model) as seen:
            output = self.model(**layout_of(self.model).inputs(decoding))
        decoding.cache = getattr(output, "past_key_values", None)
        self.tokens_read += int(decoding.mask.sum()) if decoding.written == 0 else len(decoding.ids)
        return States(seen[0][:, -1], output.logits[:, -1])

    def _begin(self, rows: Sequence[Ids]) -> States:
        """All rows from their beginning."""
        decoding = layout_of(self.model).begin(rows)
        decoding.cache = DynamicCache() if self._sliding else None
        states = self._forward(decoding)
        if self._keeps is None:
            layers = list(getattr(decoding.cache, "layers", []))
            self._keeps = type(decoding.cache) is DynamicCache and all(isinstance(x, DynamicLayer) and _whole(x) for x in layers)
            self._sliding = any(getattr(layer, "is_sliding", False) for layer in layers)
            if self._keeps and self._sliding:  # once more, with a cache that keeps every column
                return self._begin(rows)
        if self._keeps:
            self._cache, self._mask = decoding.cache, decoding.mask
        return states

    def _go_on(self, rows: Sequence[Ids]) -> States:
        """One more token in every row."""
        ids = torch.from_numpy(np.array([row[-1] for row in rows])).to(self._mask.device)
        decoding = Decoding(ids[:, None], self._mask, cache=self._cache, written=1)
        states = self._forward(decoding)
        self._cache = decoding.cache
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(rows), 1)], 1)
        return states

    def _mixed(self, rows: Sequence[Ids], on: list[int]) -> States:
        """Some rows go on, the others begin; then all stand in one rectangle again."""
        anew = sorted(set(range(len(rows))) - set(on))
        where = torch.tensor(on, device=self._mask.device)
        self._cache.batch_select_indices(where)
        self._mask = self._mask[where]
        first = self._go_on([rows[i] for i in on]), self._cache
        second = self._begin([rows[i] for i in anew]), self._cache
        back = torch.tensor(np.argsort(on + anew), device=self._mask.device)
        width = max(map(len, rows))
        self._cache = DynamicCache()
        for layer, (one, other) in enumerate(zip(first[1].layers, second[1].layers, strict=True)):
            keys, values = (torch.cat([_flush(a, width), _flush(b, width)])[back]
                            for a, b in ((one.keys, other.keys), (one.values, other.values)))  # fmt: skip
            self._cache.update(keys, values, layer)
        lengths = torch.tensor([len(row) for row in rows], device=back.device)
        self._mask = (torch.arange(width, device=back.device) >= width - lengths[:, None]).long()
        return States(*(torch.cat(pair)[back] for pair in zip(first[0], second[0], strict=True)))


def _whole(layer: Any) -> bool:
    return isinstance(layer.keys, Tensor) and layer.keys.dim() == 4


def _flush(tensor: Tensor, width: int) -> Tensor:
    """(b, ·, L, ·) → (b, ·, width, ·): the last columns, zeros (never read) in front of them if there are fewer."""
    short = width - tensor.shape[2]
    return torch.nn.functional.pad(tensor, (0, 0, short, 0)) if short > 0 else tensor[:, :, -width:]


@contextmanager
def _head_input(model: Any) -> Iterator[list[Tensor]]:
    """What the model's head reads while the block runs."""
    seen: list[Tensor] = []
    handle = layout_of(model).head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()
