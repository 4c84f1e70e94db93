"""Types of command-line arguments that benchmarks share: what cannot be meant is an error of argparse, before any work."""

from __future__ import annotations

import argparse
import shutil

__all__ = ["count", "counts", "device", "interpreter"]


def count(text: str) -> int:
    """A whole number from 1 on.

    >>> count("3")
    3
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, got {text!r}")
    return int(text)


def counts(text: str) -> list[int]:
    """Several of them, separated by commas.

    >>> counts("1,4")
    [1, 4]
    """
    return [count(part) for part in text.split(",")]


def device(text: str) -> str:
    """A device that is there."""
    import torch

    try:
        torch.empty(1, device=text)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"no device {text!r} here: {str(error).splitlines()[0]}") from None
    return text


def interpreter(text: str) -> str:
    """A program that can be run."""
    if shutil.which(text) is None:
        raise argparse.ArgumentTypeError(f"no program at {text!r}; name a Python interpreter")
    return text
