"""The composition root: from names to an environment.

The only place in `textenv` that knows the wrappers, and only by import string: `reward="critic_span"` becomes a class
when an environment is made.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium as gym
import torch

from textenv.env import TextEnv
from textenv.prompts import load_prompts
from textenv.reward import check_pay_every
from textenv.shared import unwrap
from textenv.tokenization import load_tokenizer

__all__ = ["ENVIRONMENTS", "REWARDS", "make", "register_all"]

Reward = str | tuple[str, dict[str, Any]] | Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]

REWARDS: dict[str, str | None] = {
    "sparse": None,
    "critic_span": "textenv.wrappers.critic:CriticReward",
}
"""Reward name → wrapper class by import string (None: the score on the last token, no wrapper)."""

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "textenv/CountLetter-v0": {
        "task": "textenv.tasks.count_letter:CountLetter", "tokenizer": "bytes", "max_prompt_tokens": 16, "max_new_tokens": 16,
    },
    "textenv/Detox-v0": {
        "task": "textenv.tasks.detox:Detox", "tokenizer": "textenv/tiny", "max_prompt_tokens": 32, "max_new_tokens": 28,
        "min_new_tokens": "max",
    },
    "textenv/Sentiment-v0": {
        "task": "textenv.tasks.sentiment:Sentiment", "tokenizer": "textenv/tiny", "max_prompt_tokens": 32,
        "max_new_tokens": 28, "min_new_tokens": "max",
    },
}  # fmt: skip
"""Environment id → its defaults."""


def register_all() -> None:
    """Register every id with Gymnasium (importing `textenv` does it)."""
    for name, defaults in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(name, entry_point="textenv.registration:make", kwargs=dict(defaults))


def make(
    *,
    task: str,
    tokenizer: Any,
    max_prompt_tokens: int,
    max_new_tokens: int,
    min_new_tokens: int | Literal["max"] = 0,
    reward: Reward | Sequence[Reward] = "sparse",
    payment: Literal["online", "end"] = "online",
    pay_every: Literal["segment", "token"] | int = "segment",
    prompts: Any = None,
    columns: dict[str, str] | None = None,
    split: str | None = None,
    scorer: Any = None,
    critic: Any = None,
    on_long_prompt: Literal["truncate", "error"] = "truncate",
    render_mode: str | None = None,
    **task_arguments: Any,
) -> gym.Env[Any, Any]:
    """What `gym.make` calls: the task's environment inside the rewards that were named.

    Args:
        task: import string of the `Task` (set by the id).
        tokenizer: "bytes", "textenv/tiny", a directory, a hub name, or a transformers tokenizer.
        max_prompt_tokens, max_new_tokens: budgets, in tokens.
        min_new_tokens: policies do not sample EOS before; "max": every text uses its budget.
        reward: a name (`REWARDS`), a pair (name, arguments), a callable env → env, or a list of these, innermost first.
        payment: when `step` pays a dense reward: "online" while the text is written, "end" on its last step.
        pay_every: how often a critic reads the text so far: at "segment" ends, each "token", or each so many tokens.
        prompts: path (.txt, .jsonl, .csv, .parquet; .gz), list of strings or `Prompt`s, or `datasets.Dataset`;
            default: embedded.
        columns: where the fields of a prompt stand in the file, {"text": "prompt.text"}.
        split: "train", "test" or "all". Default: "train" of the embedded prompts, all of one's own. The test split of
            one's own prompts is their last eighth, at most 500.
        scorer, critic: a callable, a directory or hub name, "lexicon:FILE" (critic); default: embedded.
        on_long_prompt: "truncate" (left end, one warning) or "error".
        render_mode: None or "ansi".
        **task_arguments: the task's own (`letter`, `target`).

    Raises:
        ValueError, TypeError, FileNotFoundError: bad arguments, with the value and the way out.
    """
    arguments = unwrap({"tokenizer": tokenizer, "reward": reward, "prompts": prompts, "columns": columns, "scorer": scorer,
                        "critic": critic, **task_arguments})  # fmt: skip
    reward, critic, prompts = arguments.pop("reward"), arguments.pop("critic"), arguments.pop("prompts")
    if payment not in ("online", "end"):
        raise ValueError(f'payment must be "online" or "end", got {payment!r}')
    check_pay_every(pay_every)
    for name, given, way_out in (
        ("scorer", arguments["scorer"], "SequenceClassifierScorer(model, tokenizer=..., label=...)"),
        ("critic", critic, "LanguageModelCritic(model, form, tokenizer=...)"),
    ):
        if isinstance(given, torch.nn.Module):
            raise TypeError(f"{name}= got a model ({type(given).__name__}); say how it is to be asked: {name}={way_out}")
    rewards = _rewards(reward, critic)
    env: gym.Env[Any, Any] = TextEnv(
        _task(task, prompts, arguments.pop("columns"), split, max_new_tokens, tokenizer_free(arguments)),
        load_tokenizer(arguments["tokenizer"]),
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        min_new_tokens=max_new_tokens if min_new_tokens == "max" else min_new_tokens,
        on_long_prompt=on_long_prompt,
        render_mode=render_mode,
    )
    for wrap in rewards:
        env = wrap(env)
    if rewards and payment == "online":
        env = _load("textenv.wrappers.online:OnlineReward")(env, pay_every=pay_every)
    return env


def tokenizer_free(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "tokenizer"}


def _task(
    name: str,
    prompts: Any,
    columns: dict[str, str] | None,
    split: str | None,
    max_new_tokens: int,
    arguments: dict[str, Any],
) -> Any:
    cls = _load(name)
    takes = inspect.signature(cls).parameters
    own = {"prompts", "scorer", "split", "max_new_tokens"}
    unknown = set(arguments) - set(takes)
    if unknown:
        valid = sorted(set(takes) - own)
        raise TypeError(f"{cls.__name__} takes no argument {sorted(unknown)}; its own are {valid}, beside those of every id")
    if columns is not None and prompts is None:
        raise ValueError(f"columns={columns} without prompts=: they name the fields of one's own prompts")
    if "split" in takes and prompts is None:
        arguments["split"] = split or "train"
    if prompts is not None:
        arguments["prompts"] = load_prompts(prompts, columns=columns, split=split)
    if "max_new_tokens" in takes:
        arguments["max_new_tokens"] = max_new_tokens
    return cls(**arguments)


def _rewards(reward: Reward | Sequence[Reward], critic: Any) -> list[Callable[[Any], Any]]:
    """The wrappers to apply, innermost first."""
    listed = reward if isinstance(reward, list) else [reward]
    out: list[Callable[[Any], Any]] = []
    used = False
    for item in listed:
        if callable(item):
            out.append(item)
            continue
        name, arguments = item if isinstance(item, tuple) else (item, {})
        if name not in REWARDS:
            raise ValueError(f"unknown reward {name!r}; valid names: {', '.join(sorted(REWARDS))}, or a callable env -> env")
        target = REWARDS[name]
        if target is None:
            continue
        cls = _load(target)
        if "critic" in inspect.signature(cls).parameters:
            arguments, used = {"critic": critic, **arguments}, True
        out.append(_partial(cls, arguments))
    if critic is not None and not used:
        raise ValueError(f"critic={critic!r} is given, but reward={reward!r} asks no critic; pass reward='critic_span'")
    return out


def _partial(cls: Any, arguments: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda env: cls(env, **arguments)


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
