"""Few shapes, where each has its price: products of bfloat16 on a CPU.

oneDNN, which computes them, makes a kernel for every shape that it meets and keeps a thousand of them: texts that end anywhere
give every batch a shape of its own, and the time and memory go into kernels. So there the rows of a pass come in fours,
its columns in sixteens, the positions that the head reads in sixty-fours, and decoding goes on with 1, 2, 3, 4, 6, 8, 12, … rows;
what fills them up is read and counted nowhere. Elsewhere every shape is taken as it comes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

__all__ = ["COARSE", "FINE", "Grain", "few", "grain", "halved", "rounded"]


class Grain(NamedTuple):
    """Shapes are multiples of these: texts of a pass, its columns, and positions that the head reads."""

    rows: int = 1
    columns: int = 1
    places: int = 1


FINE, COARSE = Grain(), Grain(4, 16, 64)


def grain(model: Any) -> Grain:
    """Of the passes over a model, as autocast stands now."""
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    return COARSE if halved(model.device.type, dtype) else FINE


def halved(device: str, dtype: torch.dtype) -> bool:
    """Whether what is of this dtype is multiplied in bfloat16, on a CPU, as autocast stands now."""
    if device != "cpu":
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return dtype == torch.bfloat16


def rounded(n: int, multiple: int) -> int:
    """The next multiple from n on.

    >>> rounded(17, 16), rounded(16, 16), rounded(5, 1)
    (32, 16, 5)
    """
    return -(-n // multiple) * multiple


def few(n: int) -> int:
    """The next number from n ≥ 1 on that is a power of two, or one and a half times one.

    >>> [few(n) for n in (1, 3, 5, 7, 33, 49)]
    [1, 3, 6, 8, 48, 64]
    """
    power = 1 << (n - 1).bit_length()
    return power * 3 // 4 if power >= 4 and n <= power * 3 // 4 else power
