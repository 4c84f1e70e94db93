"""Where in a model's inputs the state before each token of some texts stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Positions", "positions_of", "rows_apart"]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Positions:
    """Model inputs of B finished texts, and where the state before each of their N tokens stands: one text after the other."""

    inputs: dict[str, Tensor]
    rows: Tensor  # (N,)
    columns: Tensor  # (N,)
    steps: Tensor  # (N,) index of the token within its text
    actions: Tensor  # (N,) the tokens
    begins: Ids  # (B, 2) row and column where each text begins, with its prompt

    def last(self) -> Positions:
        """The last token of each text alone."""
        ends = torch.cat([self.steps[1:] == 0, self.steps.new_ones(1, dtype=torch.bool)])
        return replace(self, rows=self.rows[ends], columns=self.columns[ends], steps=self.steps[ends], actions=self.actions[ends])


def rows_apart(n: int) -> Ids:
    """In which row and column texts begin that have a row each, (n, 2)."""
    return np.stack([np.arange(n), np.zeros(n, np.int64)], 1)


def positions_of(
    inputs: dict[str, Tensor], texts: Sequence[Ids], firsts: Sequence[int], begins: Ids | None = None
) -> Positions:
    """The positions of texts in inputs.

    Args:
        inputs: of a model.
        texts: B arrays (T_b,).
        firsts: from where a text begins with its prompt, how far on is the state before its first token, B.
        begins: (B, 2); None: text b stands alone in row b.
    """
    lengths = [len(text) for text in texts]
    begins = rows_apart(len(texts)) if begins is None else begins
    steps = np.concatenate([np.arange(n) for n in lengths])
    rows, columns = np.repeat(begins[:, 0], lengths), steps + np.repeat(begins[:, 1] + np.array(firsts), lengths)
    arrays = (rows, columns, steps, np.concatenate(texts).astype(np.int64))
    where = [torch.from_numpy(array).to(inputs["input_ids"].device) for array in arrays]
    return Positions(inputs, where[0], where[1], where[2], where[3], begins)
