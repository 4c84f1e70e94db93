"""Checks of settings: the message holds the value and the way out. None is left out everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

__all__ = ["above", "at_first", "at_least", "finite", "one_of", "truncation", "within"]


def at_least(least: int, **counts: Any) -> None:
    """Refuse a count that is below `least`, or no whole number.

    >>> at_least(1, n_epochs=0)
    Traceback (most recent call last):
    ValueError: n_epochs must be at least 1, got 0

    Raises:
        ValueError: too few. TypeError: no whole number.
    """
    for name, count in counts.items():
        if count is None:
            continue
        if not isinstance(count, Integral):
            raise TypeError(f"{name} must be a whole number, got {count!r}")
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")


def within(low: float, high: float, **settings: Any) -> None:
    """Refuse a number outside low ≤ x ≤ high.

    >>> within(0, 1, gamma=1.1)
    Traceback (most recent call last):
    ValueError: gamma must lie in 0..1, got 1.1

    Raises:
        ValueError: outside. TypeError: no number.
    """
    for name, value in _numbers(settings):
        if not low <= value <= high:
            allowed = f"be at least {low}" if high == float("inf") else f"lie in {low}..{high}"
            raise ValueError(f"{name} must {allowed}, got {value}")


def above(bound: float, **settings: Any) -> None:
    """Refuse a number that is not above `bound`.

    >>> above(0, max_grad_norm=-1.0)
    Traceback (most recent call last):
    ValueError: max_grad_norm must be above 0, got -1.0

    Raises:
        ValueError: not above. TypeError: no number.
    """
    for name, value in _numbers(settings):
        if not value > bound:
            raise ValueError(f"{name} must be above {bound}, got {value}")


def finite(**settings: Any) -> None:
    """Refuse what is no finite number.

    >>> finite(ent_coef=float("nan"))
    Traceback (most recent call last):
    ValueError: ent_coef must be a finite number, got nan

    Raises:
        ValueError: infinite, or none at all. TypeError: no number.
    """
    for name, value in _numbers(settings):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")


def at_first(setting: Any) -> Any:
    """What a schedule of the remaining share of a run (1 → 0) begins with, to be checked; anything else as it is.

    >>> at_first(lambda left: -0.1 * left), at_first(0.2)
    (-0.1, 0.2)
    """
    return setting(1.0) if callable(setting) else setting


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


def truncation(top_k: int, top_p: float) -> None:
    """Refuse a truncation of a distribution that keeps nothing, or more than all.

    >>> truncation(0, 1.5)
    Traceback (most recent call last):
    ValueError: top_p must lie in 0..1, got 1.5

    Raises:
        ValueError: outside. TypeError: no number.
    """
    at_least(0, top_k=top_k)
    above(0, top_p=top_p)
    within(0, 1, top_p=top_p)


def _numbers(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if value is None:
            continue
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be {'a number, not a schedule' if callable(value) else 'a number'}, got {value!r}")
        found.append((name, value))
    return found
