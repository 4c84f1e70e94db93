"""Several texts in one row of a pass, so that next to no padding is computed.

    input_ids      a a a a a b b b | c c c c d d 0 0        a row holds whole texts, one behind the other
    position_ids   0 1 2 3 4 0 1 2 | 0 1 2 3 0 1 0 0        and each counts from 0

Of positions that begin anew, where no mask is given, transformers makes the mask that keeps each text to itself; a window is cut
within it. So the texts of a batch are one pass, whatever their lengths, in place of several rectangles (`textenv.batching`).

1. Not every model does so: some never look at positions, some kernels at no mask. It is tried once a model (`packs`), and those
   that read a neighbour, or read a text otherwise than alone, are given one text a row.
2. Rows are filled by the longest texts first, each into the row that it fills best (Johnson 1974, "best fit decreasing"). They are
   as wide as the longest text or wider, up to twice, as costs least: few wide rows have less padding, and attention costs more.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv import batching
from textenv.batching import by_length
from textenv.shapes import FINE, Grain, rounded

__all__ = ["Packed", "Rows", "fill", "pack", "packs", "passes", "unwarned"]

Ids = NDArray[np.int64]

ATTENTION = 1024
"""The width of a row at which attention is taken to cost as much as all else. Measured on a CPU: of GPT-2s 256 and 512 wide the
passes are as fast with 512, 1,024 and 2,048; with 256, which tells short texts from long ones, a fifth slower."""

STEP = 16
"""Columns between the widths that are tried."""

_PACKS: weakref.WeakKeyDictionary[Any, tuple[Any, bool]] = weakref.WeakKeyDictionary()
"""Of each model, by which kernel it attended, and whether it then kept texts apart."""


class Rows(NamedTuple):
    """Which texts stand in each row, in this order; rows without any fill the shape up."""

    width: int
    texts: list[list[int]]

    @property
    def cost(self) -> float:
        """Cells, dearer the wider the row."""
        return len(self.texts) * self.width * (1 + self.width / ATTENTION)


class Packed(NamedTuple):
    """Inputs of a model, (R, W) each, and in which row and column each of B sequences begins, (B, 2)."""

    inputs: dict[str, Tensor]
    begins: Ids


def fill(lengths: Sequence[int], *, most: int | None = None, grain: Grain = FINE) -> Rows:
    """Texts in rows, at the least cost of those that were tried.

    >>> fill([5, 2, 3, 4, 6])
    Rows(width=6, texts=[[4], [0], [3, 1], [2]])
    >>> fill([50, 20, 30, 40, 60])
    Rows(width=108, texts=[[4, 3], [0, 2, 1]])

    Args:
        lengths: of each text, in tokens.
        most: columns of a row at most, if no text is longer; None: any number.
        grain: columns are a multiple of its columns, and rows of its rows, if they are more than those.
    """
    longest = rounded(max(lengths), grain.columns)
    widest = 2 * longest if most is None else max(longest, min(2 * longest, most))
    widths = range(longest, widest + 1, rounded(STEP, grain.columns))
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return min((_filled(lengths, order, width, grain.rows) for width in widths), key=lambda rows: rows.cost)


def _filled(lengths: Sequence[int], order: Sequence[int], width: int, multiple: int) -> Rows:
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # columns left, and in which row; in order
    for i in order:
        at = bisect_left(room, (lengths[i], -1))
        left, row = room.pop(at) if at < len(room) else (width, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        insort(room, (left - lengths[i], row))
    if len(rows) > multiple:
        rows += [[] for _ in range(-len(rows) % multiple)]
    return Rows(width, rows)


def passes(
    lengths: Sequence[int], batch_size: int, tokens: int | None = None, *, overhead: int = 0, grain: Grain = FINE
) -> list[list[int]]:
    """Indices in batches, each to be read in one pass by `pack`; where rows of one text each cost less, they are `by_length`'s.

    >>> passes([50, 20, 30, 40, 60], batch_size=8, overhead=64)
    [[4, 3, 0, 2, 1]]

    Args: as of `by_length`.
    """
    most = batching.TOKENS if tokens is None else tokens
    apart = by_length(lengths, batch_size, most, overhead=overhead, grain=grain)
    if len(lengths) < 2:
        return apart
    width, texts = fill(lengths, most=most, grain=grain)
    rows = [row for row in texts if row]
    at_once = max(1, most // width)
    at_once -= at_once % grain.rows if at_once > grain.rows else 0
    together, held = [list(rows[0])], 1
    for row in rows[1:]:
        if held < at_once and len(together[-1]) + len(row) <= batch_size:
            together[-1] += row
            held += 1
        else:
            together.append(list(row))
            held = 1
    plans = [(plan, [fill([lengths[i] for i in part], grain=grain) for part in plan]) for plan in (together, apart)]
    bounded = [plan for plan in plans if plan[0] is apart or _within(*plan, batch_size, most)]
    return min(bounded, key=lambda plan: sum(overhead + part.cost for part in plan[1]))[0]


def _within(plan: Sequence[Sequence[int]], filled: Sequence[Rows], batch_size: int, most: int) -> bool:
    """Whether no pass of several texts has too many texts or cells."""
    cells = (part.width * len(part.texts) for part in filled)
    return all(len(part) == 1 or (len(part) <= batch_size and n <= most) for part, n in zip(plan, cells, strict=True))


def pack(sequences: Sequence[Ids], device: Any, grain: Grain = FINE) -> Packed | None:
    """Sequences of ids in the rows of least cost, as a model reads them that `packs`; None: a row for each costs no more."""
    rows = fill([len(sequence) for sequence in sequences], grain=grain)
    return _packed(sequences, device, rows) if len(rows.texts) < len(sequences) else None


def _packed(sequences: Sequence[Ids], device: Any, rows: Rows) -> Packed:
    ids, positions = np.zeros((2, len(rows.texts), rows.width), np.int64)
    begins = np.zeros((len(sequences), 2), np.int64)
    for row, texts in enumerate(rows.texts):
        column = 0
        for i in texts:
            n = len(sequences[i])
            ids[row, column : column + n], positions[row, column : column + n] = sequences[i], np.arange(n)
            begins[i] = row, column
            column += n
    inputs = {"input_ids": torch.from_numpy(ids).to(device), "position_ids": torch.from_numpy(positions).to(device)}
    return Packed(inputs, begins)


@contextmanager
def unwarned(trunk: Any) -> Iterator[None]:
    """Without a mask GPT-2 asks each time whether its ids look padded, and warns once: on an accelerator that is a wait, too."""
    name = "warn_if_padding_and_no_attention_mask"
    trunk.__dict__[name] = lambda *_, **__: None
    try:
        yield
    finally:
        del trunk.__dict__[name]


def packs(model: Any, forward: Callable[..., Any], read: Callable[[dict[str, Tensor]], Tensor]) -> bool:
    """Whether a decoder reads a text in a row with others as it reads it alone.

    Tried with two rows of two texts: other tokens in the first of a row must not move the second by one bit, and the
    second must be what it is alone, to rounding.

    Args:
        model: a transformers model.
        forward: what takes its inputs, positions among them.
        read: inputs → its last hidden states (R, W, H).
    """
    kernel = getattr(model.config, "_attn_implementation", None)
    known = _PACKS.get(model)
    if known is None or known[0] != kernel:
        able = getattr(model, "_supports_attention_backend", False) and "position_ids" in signature(forward).parameters
        _PACKS[model] = known = (kernel, able and _tried(model, read))
    return known[1]


@torch.no_grad()
def _tried(model: Any, read: Callable[[dict[str, Tensor]], Tensor]) -> bool:
    ids = int(model.get_input_embeddings().num_embeddings)
    one, other, second = ([n % ids for n in some] for some in ([1, 2, 3], [3, 1, 2], [2, 1, 1, 3]))
    training = model.training
    model.eval()  # dropout would differ, and move the global generator
    try:
        with torch.autocast(model.device.type, enabled=False):
            before, changed, alone = (_states(read, model.device, first, second) for first in (one, other, []))
    finally:
        model.train(training)
    apart = torch.equal(before, changed) and bool(before.isfinite().all())
    return apart and bool((before - alone).abs().max() <= 0.05 * alone.abs().max())


def _states(read: Callable[[dict[str, Tensor]], Tensor], device: Any, first: list[int], second: list[int]) -> Tensor:
    """The states of the second text, (2, T, H): behind the first, and in another row behind the beginning of the first."""
    a, b = np.array(first, np.int64), np.array(second, np.int64)
    rows = Rows(len(a) + len(b) + 1, [[0, 1], [2, 3]]) if first else Rows(len(b), [[1], [3]])
    packed = _packed([a, b, a[:-1], b], device, rows)
    hidden = read(packed.inputs)
    return torch.stack([hidden[row, column : column + len(b)] for row, column in packed.begins[[1, 3]].tolist()]).float()
