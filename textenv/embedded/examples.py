"""One answer to one prompt with its truth, as the embedded worlds of the conditional tasks write it."""

from __future__ import annotations

from dataclasses import dataclass

from textenv.episode import Prompt, Span

__all__ = ["Example"]


@dataclass(frozen=True)
class Example:
    """What a writer of some care makes of a prompt.

    Attributes:
        prompt: what was asked.
        text: the answer, its mistakes included; it begins with a space, as generated text does.
        spans: the truth about it, in order: reward > 0 for what is right, < 0 for a mistake, `label` says which.
    """

    prompt: Prompt
    text: str
    spans: tuple[Span, ...]
