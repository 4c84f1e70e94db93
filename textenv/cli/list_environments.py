"""`textenv list`: what there is to make."""

from __future__ import annotations

import importlib

from rich.table import Table

from textenv.cli.console import Debug, console

__all__ = ["list_environments"]


def list_environments(debug: Debug = False) -> None:
    """List the environments and rewards.

    Example: textenv list
    """
    from textenv.registration import ENVIRONMENTS, REWARDS

    table = Table(title="Environments")
    for column in ("id", "task", "tokenizer", "prompt tokens", "new tokens"):
        table.add_column(column, no_wrap=column in ("id", "name"))
    for name, defaults in ENVIRONMENTS.items():
        budgets = (str(defaults["max_prompt_tokens"]), str(defaults["max_new_tokens"]))
        table.add_row(name, _what(defaults["task"]), str(defaults["tokenizer"]), *budgets)
    console.print(table)

    table = Table(title="Rewards")
    for column in ("name", "who deserves it"):
        table.add_column(column, no_wrap=column in ("id", "name"))
    for name, wrapper in REWARDS.items():
        table.add_row(name, "The last token: the task's score." if wrapper is None else _what(wrapper))
    console.print(table)


def _what(target: str) -> str:
    """The first line of a class's docstring."""
    module, _, name = target.partition(":")
    return (getattr(importlib.import_module(module), name).__doc__ or "").strip().split("\n")[0]
