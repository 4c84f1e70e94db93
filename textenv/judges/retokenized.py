"""A text that was written by one tokenizer and is read by another: where their tokens stand against each other.

Everything goes by characters of `Episode.text`; a token is never searched for.

1. Prefixes (`boundaries`). After a policy token the reader has read the reader's tokens that end within the text so far.
   Where none ends there (the reader's token goes on), nothing is new: the change is carried to the next policy token at
   which one does, so that sums are kept.
2. Shares (`spread`). What belongs to a reader's token is spread evenly over its characters, and what belongs to a character
   evenly over the policy tokens that hold a part of it, so that sums are kept again.
3. A character is there when its last byte is (`complete_ends`). Until then it decodes to U+FFFD or to another character, so a
   trailing U+FFFD counts as not yet written, in the finished text as in the unfinished one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.episode import Episode

__all__ = ["boundaries", "complete_ends", "spread"]


def complete_ends(episode: Episode) -> NDArray[np.int64]:
    """(T,) int64: the number of characters that are complete once each token has been written; never falls."""
    out = np.zeros(len(episode), np.int64)
    following = len(episode.text)  # where the next token with text begins
    for t in reversed(range(len(episode))):
        begin, end = map(int, episode.offsets[t])
        out[t] = min(end, following)
        while out[t] and episode.text[out[t] - 1] == "\ufffd":
            out[t] -= 1
        if begin < end:
            following = min(following, begin)
    return np.maximum.accumulate(out)


def boundaries(reader_ends: ArrayLike, ends: ArrayLike) -> NDArray[np.int64]:
    """The index of the last reader's token that is read up to each end; −1 where none is.

    >>> boundaries([3, 7, 7, 12], [2, 3, 5, 7, 12])  # the reader's " weasel" ends at 7, the policy cuts it at 5
    array([-1,  0,  0,  2,  3])

    Args:
        reader_ends: (S,) where each reader's token ends, in characters; special tokens 0.
        ends: (T,) the characters there are.

    Returns:
        (T,) int64.
    """
    seen = np.maximum.accumulate(np.asarray(reader_ends, np.int64))  # tokens of one character may come in any order
    return np.asarray(np.searchsorted(seen, np.asarray(ends, np.int64), side="right") - 1, np.int64)


def spread(intervals: ArrayLike, values: ArrayLike, episode: Episode) -> NDArray[np.float64]:
    """What stands on the reader's tokens, on the policy's tokens.

    Args:
        intervals: (S, 2) the characters of `episode.text` that each reader's token overlaps, half-open; what lies outside the
            text (prompt, special tokens) is left out, with its share.
        values: (S,) what stands on each.

    Returns:
        (T,) float64.
    """
    size = len(episode.text)
    on_characters = np.zeros(size, np.float64)
    for (begin, end), value in zip(np.asarray(intervals).reshape(-1, 2), np.asarray(values, np.float64), strict=True):
        if begin < end:
            on_characters[max(begin, 0) : max(end, 0)] += value / (end - begin)
    holders = np.zeros(size, np.float64)
    for begin, end in episode.offsets:
        holders[begin:end] += 1
    each = np.divide(on_characters, holders, out=np.zeros(size), where=holders > 0)
    return np.array([each[begin:end].sum() for begin, end in episode.offsets], np.float64)
