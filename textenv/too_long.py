"""The error of a text that a model cannot read whole: those who have many texts may go on without that one."""

from __future__ import annotations

__all__ = ["TextTooLong"]


class TextTooLong(ValueError):
    """A text, or a question about it, beyond a model's positions or its judge's `max_tokens`."""
