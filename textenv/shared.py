"""Arguments that are shared, never copied.

Gymnasium deep-copies the arguments of `gym.make` whenever `env.spec` is read through a wrapper. Numbers and names may
be copied; a model, a data set or a callable with weights inside must not be. `share_arguments` puts such values into
a holder that copies as itself; `unwrap` takes them out again when an environment is made from such a spec.
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any

from gymnasium.envs.registration import EnvSpec

__all__ = ["Shared", "share_arguments", "unwrap"]

_PLAIN = (str, bytes, int, float, bool, type(None), PathLike)


class Shared:
    """Holds a value that `copy.deepcopy` must not follow."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self

    def __repr__(self) -> str:
        return f"Shared({type(self.value).__name__})"


def share_arguments(spec: EnvSpec | None) -> EnvSpec | None:
    """The spec with every argument that is not plain data behind a `Shared`."""
    if spec is None:
        return None
    return replace(spec, kwargs={name: _share(value) for name, value in spec.kwargs.items()})


def unwrap(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the user gave them."""
    return {name: value.value if isinstance(value, Shared) else value for name, value in arguments.items()}


def _share(value: Any) -> Any:
    return value if isinstance(value, (*_PLAIN, Shared)) else Shared(value)
