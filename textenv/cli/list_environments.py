"""`textenv list`: what there is to make."""

from __future__ import annotations

import importlib
from typing import Any

from rich.table import Table

from textenv.cli.console import Debug, console

__all__ = ["list_environments"]


def list_environments(debug: Debug = False) -> None:
    """List the environments and rewards.

    A reward keeps the return if an episode's credit sums to the score; it is causal if the credit of a token rests on the
    tokens up to it, and not on the finished text. Of those that take the score from the last token a stack holds one at most.

    Example: textenv list
    """
    from textenv.registration import ENVIRONMENTS, REWARDS

    table = Table(title="Environments")
    for column in ("id", "task", "tokenizer", "prompt tokens", "new tokens"):
        table.add_column(column, no_wrap=column == "id")
    for name, defaults in ENVIRONMENTS.items():
        budgets = (str(defaults["max_prompt_tokens"]), str(defaults["max_new_tokens"]))
        table.add_row(name, _what(_load(defaults["task"])), str(defaults["tokenizer"]), *budgets)
    console.print(table)

    table = Table(title="Rewards", caption="a reward of your own: --reward my_module:MyReward")
    for column in ("name", "who deserves it", "keeps the return", "causal", "takes the score"):
        table.add_column(column, no_wrap=column == "name")
    for name, wrapper in REWARDS.items():
        if wrapper is None:
            table.add_row(name, "The last token: the task's score.", "yes", "yes", "no")
        else:
            cls = _load(wrapper)
            facts = (cls.keeps_return, cls.causal, cls.takes_score)
            table.add_row(name, _what(cls), *("yes" if fact else "no" for fact in facts))
    console.print(table)


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _what(cls: Any) -> str:
    """The first line of a class's docstring."""
    return (cls.__doc__ or "").strip().split("\n")[0]
