"""Checks of settings: the message holds the value and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["at_least", "one_of"]


def at_least(least: float, **settings: float | None) -> None:
    """Refuse a setting below `least`; None is left out.

    >>> at_least(1, n_epochs=0)
    Traceback (most recent call last):
    ValueError: n_epochs must be at least 1, got 0

    Raises:
        ValueError: with its name and value.
    """
    for name, value in settings.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def one_of(choices: Iterable[str], **settings: Any) -> None:
    """Refuse a setting that is none of the choices.

    >>> one_of(("reward", "loss"), kl_in="both")
    Traceback (most recent call last):
    ValueError: kl_in must be one of reward, loss, got 'both'

    Raises:
        ValueError: with its name, its value and the choices.
    """
    known = list(choices)
    for name, value in settings.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
