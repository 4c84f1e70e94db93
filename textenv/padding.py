"""Sequences of ids as one rectangle, with padding on the left or on the right. Padding is id 0 under mask 0: never read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["left_pad", "right_pad"]

Ids = NDArray[np.int64]


def left_pad(sequences: Sequence[Ids], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Ids and mask, (B, P) int64 each, every sequence flush right. Padding is id 0 under mask 0: never read."""
    width = max(map(len, sequences))
    return _placed(sequences, [width - len(sequence) for sequence in sequences], width, device)


def right_pad(sequences: Sequence[Ids], device: torch.device | str = "cpu", width: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask, (B, P) int64 each, every sequence flush left; P is at least `width`."""
    return _placed(sequences, [0] * len(sequences), max(width, *map(len, sequences)), device)


def _placed(sequences: Sequence[Ids], begins: Sequence[int], width: int, device: Any) -> tuple[Tensor, Tensor]:
    ids, mask = np.zeros((2, len(sequences), width), np.int64)
    for row, (sequence, begin) in enumerate(zip(sequences, begins, strict=True)):
        ids[row, begin : begin + len(sequence)] = sequence
        mask[row, begin : begin + len(sequence)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
