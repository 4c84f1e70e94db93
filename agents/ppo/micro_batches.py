"""Which texts are read in one pass: sorted by length, cut where that costs least.

    cost = Σ over passes (rows × longest + what a pass costs by itself)

A pass is a rectangle: each row is padded to its longest. Few passes pad much, many passes pay for themselves often, and too
small ones leave the processor idle. Over texts in order of length the best cuts are found exactly, by dynamic programming.
Texts of one length are cut by the limits alone. Sums over a minibatch are the same however it is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

__all__ = ["micro_batches", "pass_tokens"]


def pass_tokens(device: str) -> int:
    """What a pass costs by itself, in tokens: so many more are worth a pass less.

    Measured on one CPU thread, GPT-2s of 4 M and 27 M parameters: 15 tokens in float32, 70 to 80 in bfloat16. The number of
    accelerators, which few tokens do not keep busy, is a guess.
    """
    return 64 if device == "cpu" else 2048


def micro_batches(lengths: Sequence[int], *, rows: int, tokens: int | None = None, overhead: int = 0) -> list[list[int]]:
    """The indices of the texts of each pass, shortest first.

    >>> micro_batches([9, 2, 8, 2], rows=4)
    [[1, 3], [2], [0]]
    >>> micro_batches([9, 2, 8, 2], rows=4, overhead=5), micro_batches([5, 5, 5], rows=3, tokens=10)
    ([[1, 3], [2, 0]], [[0], [1, 2]])

    Args:
        lengths: tokens of each text, with its prompt.
        rows: texts a pass, at most.
        tokens: tokens a pass, padding included, at most; a text that has more is read alone. None: any number.
        overhead: what a pass costs by itself, in tokens.
    """
    order = np.argsort(lengths, kind="stable")
    length = np.asarray(lengths)[order]
    cost, begin = np.zeros(len(order) + 1, np.int64), np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):
        longest = int(length[end - 1])
        most = rows if tokens is None else min(rows, max(1, tokens // max(1, longest)))
        first = max(0, end - most)
        total = cost[first:end] + (end - np.arange(first, end)) * longest + overhead
        best = int(total.argmin())  # of equals the largest pass
        cost[end], begin[end] = total[best], first + best
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(int(begin[cuts[-1]]))
    cuts.reverse()
    return [order[a:b].tolist() for a, b in pairwise(cuts)]
