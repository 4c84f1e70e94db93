"""The policy's own model, where a reward asks it: the one that an agent trains, or the one that its tokenizer came with.

Wrappers know no agents: whoever wants the moving policy asked hands it over, and the model is taken as it is found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textenv.critics.loading import embedded_name
from textenv.reward import NotApplicable

__all__ = ["base_of", "held_model", "moving_model"]


def held_model(policy: Any) -> Any:
    """The transformers model that a policy is, or holds as `.model` (`LMPolicy`): the very object, not a copy.

    Raises:
        TypeError: neither.
    """
    held: Any = policy if hasattr(policy, "generate") and hasattr(policy, "config") else getattr(policy, "model", None)
    if getattr(held, "config", None) is None:
        raise TypeError(f"policy must be a name, a directory, a transformers model, or hold one as .model: got {policy!r}")
    return held


def moving_model(policy: Any) -> Any:
    """The same as it is at the moment: an adapter around it (PEFT) stands in it.

    Raises:
        TypeError: no policy.
    """
    held = held_model(policy)
    return held.get_base_model() if hasattr(held, "get_base_model") else held


def base_of(tokenizer: Any, way_out: str) -> str:
    """The name of the model that a tokenizer was saved with.

    Raises:
        NotApplicable: it was saved with none; the message ends with the way out.
    """
    name = str(getattr(tokenizer, "name_or_path", "") or "")
    own = embedded_name(name)
    if own is not None:
        return own
    directory = Path(name)
    if not name or (directory.is_dir() and not (directory / "config.json").is_file()):
        raise NotApplicable(
            f"the environment's tokenizer ({name or type(tokenizer).__name__}) came with no language model; {way_out}"
        )
    return name
