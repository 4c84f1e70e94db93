"""Texts as a judge's tokenizer reads them, each tokenized once.

One text is read by several judges, and by one judge several times: for its score, after each of its tokens, for the attention
that fell on it, for one aspect and for the next. What a tokenizer made of a text is therefore remembered beside the tokenizer,
within a bound, the last used longest; what is not known is tokenized in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.judges.remembered import Remembered

__all__ = ["CHARACTERS", "Encoded", "encode"]

CHARACTERS = 1 << 20
"""Characters of the texts that are remembered for one tokenizer, at most: about 20 MB."""


class Encoded(NamedTuple):
    """What a tokenizer made of a text, with what it puts around it; not to be changed.

    Attributes:
        ids: n ids.
        offsets: (n, 2) the characters of each, (0, 0) for what was put around the text; None: the tokenizer tells none.
    """

    ids: list[int]
    offsets: NDArray[np.int64] | None


_KNOWN: Remembered[str, Encoded] = Remembered(CHARACTERS, lambda text, _: len(text))


def encode(tokenizer: Any, texts: Sequence[str]) -> list[Encoded]:
    """Each text as `tokenizer(text, truncation=False)` reads it.

    >>> from textenv.tokenization import byte_tokenizer
    >>> [encoded] = encode(byte_tokenizer(), ["é!"])
    >>> encoded.ids, encoded.offsets.tolist()
    ([195, 169, 33], [[0, 1], [0, 1], [1, 2]])
    """
    found = _KNOWN.get(tokenizer, texts)
    new = list(dict.fromkeys(text for text in texts if text not in found))
    if new:
        fast = bool(tokenizer.is_fast)
        read = tokenizer(new, truncation=False, return_attention_mask=False, return_offsets_mapping=fast)
        places = [np.array(p, np.int64).reshape(-1, 2) for p in read["offset_mapping"]] if fast else [None] * len(new)
        made = {text: Encoded(list(ids), at) for text, ids, at in zip(new, read["input_ids"], places, strict=True)}
        _KNOWN.put(tokenizer, made)
        found |= made
    return [found[text] for text in texts]
