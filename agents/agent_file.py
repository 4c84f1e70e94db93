"""`agent.json`: what a saved agent says of itself. `textenv.agents.checkpoint` writes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["AGENT_FILE", "agent_content", "load_agent_file", "saved_temperature"]

AGENT_FILE = "agent.json"


def agent_content(path: str | os.PathLike[str], kind: str = "an agent") -> dict[str, Any]:
    """Settings and counters of a saved agent; `kind`: of what class it should be.

    Raises:
        FileNotFoundError: no agent there.
        ValueError: a file that is not what an agent wrote.
    """
    file = Path(path) / AGENT_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no saved agent (no {AGENT_FILE}); {kind}.save(path) writes one")
    try:
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        state["agent"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not what {kind}.save wrote: {error}") from error
    return state


def load_agent_file(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Settings and counters of a saved agent of this class.

    Raises:
        FileNotFoundError: no agent there.
        ValueError: an agent of another class, or a file that is not what an agent wrote.
    """
    state = agent_content(path, kind)
    if (found := state["agent"]) != kind:
        raise ValueError(f"{path} holds a {found}, not a {kind}; load it with {found}.load")
    return state


def saved_temperature(model: Any) -> float:
    """The temperature of the agent that was saved in a directory; 1 for any other model."""
    if not isinstance(model, (str, os.PathLike)) or not (Path(model) / AGENT_FILE).is_file():
        return 1.0
    return float(agent_content(model).get("temperature", 1.0))
