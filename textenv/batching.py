"""Texts in batches of like length, under a budget of padded tokens.

A batch costs its number of texts times its longest: sorted by length, little of that is padding. The number of texts alone
bounds neither time nor memory (64 texts of 30 tokens, or of 4,000), so that the budget is in tokens. What a text gets does not
depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["TOKENS", "by_length"]

TOKENS = 1 << 14
"""Padded tokens of a batch at most: 200 MB for the widest layer of a model of BERT's size in float32."""


def by_length(lengths: Sequence[int], batch_size: int, tokens: int | None = None) -> list[list[int]]:
    """Indices in batches, the longest first: what does not fit into memory is told at once.

    >>> by_length([3, 9, 4, 1, 4], batch_size=2)
    [[1, 2], [4, 0], [3]]
    >>> by_length([3, 9, 4, 1, 4], batch_size=64, tokens=12)
    [[1], [2, 4, 0], [3]]

    Args:
        lengths: of each text, in tokens; with those that will be written, where a batch holds them.
        batch_size: texts a batch at most.
        tokens: padded tokens a batch at most (default: `TOKENS`); a longer text is a batch of its own.

    Raises:
        ValueError: a bound below 1.
    """
    tokens = TOKENS if tokens is None else tokens
    if batch_size < 1 or tokens < 1:
        raise ValueError(f"a batch holds at least 1 text and 1 token, got batch_size={batch_size} and tokens={tokens}")
    out: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not out or len(out[-1]) == batch_size or (len(out[-1]) + 1) * longest > tokens:
            out.append([])
            longest = lengths[i]
        out[-1].append(i)
    return out
