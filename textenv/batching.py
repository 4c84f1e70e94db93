"""Which texts are read in one pass: in order of length, under a budget of padded tokens, cut where that costs least.

    cost = Σ over passes (texts × longest + what a pass costs by itself)

A pass is a rectangle: each text is padded to its longest. Few passes pad much, many pay for themselves often, and too small
ones leave the processor idle. Over texts in order of length the best cuts are found exactly, by dynamic programming. The number
of texts alone bounds neither time nor memory (64 texts of 30 tokens, or of 4,000), so that the budget is in tokens. What a text
gets does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from textenv.shapes import FINE, Grain

__all__ = ["TOKENS", "by_length", "pass_tokens"]

TOKENS = 1 << 14
"""Padded tokens of a batch at most: 200 MB for the widest layer of a model of BERT's size in float32."""


def pass_tokens(device: str) -> int:
    """What a pass costs by itself, in tokens: so many more are worth a pass less.

    Measured on one CPU thread, GPT-2s of 4 M and 27 M parameters: 15 tokens in float32, 70 to 80 in bfloat16. The number of
    accelerators, which few tokens do not keep busy, is a guess.

    Args:
        device: its type, "cpu", "cuda", ...
    """
    return 64 if device == "cpu" else 2048


def by_length(
    lengths: Sequence[int], batch_size: int, tokens: int | None = None, *, overhead: int = 0, grain: Grain = FINE
) -> list[list[int]]:
    """Indices in batches, the longest first: what does not fit into memory is told at once.

    >>> by_length([9, 2, 8, 2], batch_size=4)
    [[0], [2], [1, 3]]
    >>> by_length([9, 2, 8, 2], batch_size=4, overhead=5), by_length([5, 5, 5], batch_size=3, tokens=10)
    ([[0, 2], [1, 3]], [[0, 1], [2]])

    Args:
        lengths: of each text, in tokens; with those that will be written, where a batch holds them.
        batch_size: texts a batch at most.
        tokens: padded tokens a batch at most; a longer text is a batch of its own. None: `TOKENS`.
        overhead: what a pass costs by itself, in tokens (`pass_tokens`).
        grain: texts come in multiples of its rows, but for the last of them, and texts that stand alone; their lengths count as
            multiples of its columns.

    Raises:
        ValueError: a bound below 1.
    """
    tokens = TOKENS if tokens is None else tokens
    if batch_size < 1 or tokens < 1:
        raise ValueError(f"a batch holds at least 1 text and 1 token, got batch_size={batch_size} and tokens={tokens}")
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    length = -(-np.asarray(lengths, np.int64)[order] // grain.columns) * grain.columns
    n = len(order)
    uneven = np.arange(n + 1) % grain.rows > 0
    uneven[n] = False
    cost, end = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)  # of the texts from i on, and where the first batch ends
    for begin in reversed(range(n)):
        longest = int(length[begin])
        most = min(batch_size, max(1, tokens // max(1, longest)))
        last = min(n, begin + most)
        total = np.arange(1, last - begin + 1) * longest + overhead + cost[begin + 1 : last + 1]
        if most >= grain.rows:
            total = np.where(uneven[begin + 1 : last + 1], np.iinfo(np.int64).max, total)
        best = len(total) - 1 - int(total[::-1].argmin())  # of equals the largest batch
        cost[begin], end[begin] = total[best], begin + 1 + best
    cuts = [0]
    while cuts[-1] < n:
        cuts.append(int(end[cuts[-1]]))
    return [order[a:b].tolist() for a, b in pairwise(cuts)]
