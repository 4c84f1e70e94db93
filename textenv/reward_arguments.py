"""Arguments of rewards by name, before any model is loaded: is there one of that name, and is a number a number?

They come from dictionaries and, as JSON, from command lines, so nothing but this stands between a typing error and a message from
deep within. Whether a number makes sense is the wrapper's own matter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["check_arguments", "parameters"]

Parameters = Mapping[str, inspect.Parameter]


def check_arguments(wrap: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> None:
    """Raise where a reward has no argument of that name, or a number, or a truth value, is none.

    >>> from textenv.wrappers import UniformReward
    >>> check_arguments(UniformReward, {"mix": "0.5"}, "uniform")
    Traceback (most recent call last):
    ...
    ValueError: the reward uniform takes mix=float, got '0.5'

    Args:
        wrap: what wraps an environment. One that hands on options to another (`**options`) checks their names itself.

    Raises:
        ValueError: with the names that it has, or what the argument takes.
    """
    takes = parameters(wrap)
    unknown = sorted(set(arguments) - set(takes))
    if unknown and takes and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        valid = ", ".join(list(takes)[1:]) or "none"
        raise ValueError(f"the reward {name} takes no argument {unknown}; its own are {valid}")
    inherited: dict[str, inspect.Parameter] = {}
    for cls in reversed(wrap.__mro__[1:] if isinstance(wrap, type) else ()):
        inherited |= parameters(cls)
    for argument, value in arguments.items():
        wanted = str({**inherited, **takes}[argument].annotation) if argument in inherited or argument in takes else ""
        if not _fits(value, wanted):
            raise ValueError(f"the reward {name} takes {argument}={wanted}, got {value!r}")


def parameters(function: Callable[..., Any]) -> Parameters:
    """By name; none where a callable does not tell."""
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value is one of the plain kinds that an annotation names; true where it names another kind, too."""
    kinds = {kind.strip() for kind in annotation.split("|")}
    if not kinds or not kinds <= {"float", "int", "bool", "None"}:
        return True
    if value is None:
        return "None" in kinds
    if isinstance(value, (bool, np.bool_)):
        return "bool" in kinds
    if isinstance(value, Integral):
        return bool(kinds & {"int", "float"})
    return "float" in kinds and isinstance(value, Real)
