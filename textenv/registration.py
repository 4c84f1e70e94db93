"""The composition root: from names to an environment.

The only place in `textenv` that knows the wrappers, and only by import string: `reward="critic_span"` becomes a class
when an environment is made. What needs torch is imported then, too: `import textenv` registers the ids and is quick.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from textenv.data.prompts import load_prompts
from textenv.import_strings import load_object
from textenv.reward_arguments import check_arguments, parameters
from textenv.shared import unwrap

if TYPE_CHECKING:
    from textenv.vector import TextVectorEnv

__all__ = ["ENVIRONMENTS", "REWARDS", "make", "make_vec", "named_scorer", "register_all"]

Wrap = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
Reward = str | Wrap | tuple[str | Callable[..., gym.Env[Any, Any]], dict[str, Any]]

_IMPORT_STRING = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

REWARDS: dict[str, str | None] = {
    "sparse": None,
    "critic_span": "textenv.wrappers.critic:CriticReward",
    "critic_token": "textenv.wrappers.critic:CriticTokenReward",
    "self_critique": "textenv.wrappers.self_critique:SelfCritiqueReward",
    "redistributed": "textenv.wrappers.redistributed:RedistributedReward",
    "attention": "textenv.wrappers.attention:AttentionReward",
    "uniform": "textenv.wrappers.controls:UniformReward",
    "noise": "textenv.wrappers.controls:NoiseReward",
    "implicit": "textenv.wrappers.log_ratio:ImplicitReward",
    "contrastive": "textenv.wrappers.contrastive:ContrastiveReward",
    "hierarchical": "textenv.wrappers.hierarchical:HierarchicalReward",
    "weighted_sum": "textenv.wrappers.hierarchical:WeightedSumReward",
    "scalarized": "textenv.wrappers.scalarized:ScalarizedReward",
    "fine_grained": "textenv.wrappers.fine_grained:FineGrainedReward",
    "delta": "textenv.wrappers.delta:DeltaReward",
    "process": "textenv.wrappers.process:ProcessReward",
    "principles": "textenv.wrappers.principles:PrinciplesReward",
    "length_penalty": "textenv.wrappers.length:LengthPenalty",
    "length_bonus": "textenv.wrappers.stopping:LengthBonus",
    "no_stop_penalty": "textenv.wrappers.stopping:NoStopPenalty",
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
    "textenv/LongFormQA-v0": {
        "task": "textenv.tasks.long_form_qa:LongFormQA", "tokenizer": "textenv/tiny", "max_prompt_tokens": 160,
        "max_new_tokens": 64, "min_new_tokens": 1,
    },
    "textenv/Sentiment-v0": {
        "task": "textenv.tasks.sentiment:Sentiment", "tokenizer": "textenv/tiny", "max_prompt_tokens": 32,
        "max_new_tokens": 28, "min_new_tokens": "max",
    },
    "textenv/Summarization-v0": {
        "task": "textenv.tasks.summarization:Summarization", "tokenizer": "textenv/tiny", "max_prompt_tokens": 128,
        "max_new_tokens": 32, "min_new_tokens": 1,
    },
    "textenv/Translation-v0": {
        "task": "textenv.tasks.translation:Translation", "tokenizer": "textenv/tiny-translation", "max_prompt_tokens": 48,
        "max_new_tokens": 48, "min_new_tokens": 1,
    },
}  # fmt: skip
"""Environment id → its defaults."""


def register_all() -> None:
    """Register every id with Gymnasium (importing `textenv` does it)."""
    for name, defaults in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(
                name, entry_point="textenv.registration:make", vector_entry_point="textenv.registration:make_vec",
                kwargs=dict(defaults),
            )  # fmt: skip


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
    chat: bool = False,
    system: str | None = None,
    render_mode: str | None = None,
    **task_arguments: Any,
) -> gym.Env[Any, Any]:
    """What `gym.make` calls: the task's environment inside the rewards that were named.

    Args:
        task: import string of the `Task` (set by the id).
        tokenizer: "bytes", "textenv/tiny", a directory, a hub name, or a transformers tokenizer.
        max_prompt_tokens, max_new_tokens: budgets, in tokens.
        min_new_tokens: policies do not sample EOS before; "max": every text uses its budget.
        reward: a name (`REWARDS`), an import string "my_module:MyReward" of a reward wrapper or of a function of an episode
            (`RewardFromFunction`) or of an environment, a callable env → env, a pair (one of these, arguments; in JSON a list of
            two), or a list, innermost first, in which one reward at most takes the score from the last token.
        payment: when `step` pays a dense reward: "online" while the text is written, "end" on its last step.
        pay_every: how often a critic reads the text so far: at "segment" ends, each "token", or each so many tokens.
        prompts: path (.txt, .jsonl, .csv, .parquet; .gz), list of strings or `Prompt`s or of
            dictionaries, or `datasets.Dataset`; default: embedded.
        columns: where the fields of a prompt stand in the rows, {"text": "prompt.text"}.
        split: "train", "test" or "all". Default: "train" of the embedded prompts, all of one's own. The test split of
            one's own prompts is their last eighth, at most 500.
        scorer, critic: a callable, a directory or hub name, "lexicon:FILE" or the URL of a server (critic), an import string
            "my_module:my_scorer" of a callable or of a class to be called without arguments (scorer); default: embedded.
        on_long_prompt: "truncate" (left end, one warning) or "error".
        chat, system: render prompts with the tokenizer's chat template, with this system message.
        render_mode: None or "ansi".
        **task_arguments: the task's own (`letter`, `target`).

    Raises:
        ValueError, TypeError, FileNotFoundError: bad arguments, with the value and the way out.
    """
    from textenv.env import TextEnv
    from textenv.models import refuse_model
    from textenv.reward import check_score_taken_once
    from textenv.tokenization import load_tokenizer

    arguments = unwrap({"tokenizer": tokenizer, "reward": reward, "prompts": prompts, "columns": columns, "scorer": scorer,
                        "critic": critic, **task_arguments})  # fmt: skip
    arguments["scorer"] = named_scorer(arguments["scorer"])
    reward, critic, prompts = arguments.pop("reward"), arguments.pop("critic"), arguments.pop("prompts")
    _check_payment(payment, pay_every)
    _check_budgets(max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens)
    refuse_model("scorer", arguments["scorer"])
    refuse_model("critic", critic)
    rewards = _rewards(reward, critic)
    env: gym.Env[Any, Any] = TextEnv(
        _task(task, prompts, arguments.pop("columns"), split, max_new_tokens, tokenizer_free(arguments)),
        load_tokenizer(arguments["tokenizer"]),
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        min_new_tokens=max_new_tokens if min_new_tokens == "max" else min_new_tokens,
        on_long_prompt=on_long_prompt,
        chat=chat,
        system=system,
        render_mode=render_mode,
    )
    for wrap in rewards:
        env = wrap(env)
        if not isinstance(env, gym.Env):
            raise TypeError(f"reward={reward!r}: a callable env -> env returned {env!r}; see RewardFromFunction for others")
    check_score_taken_once(env)
    if rewards and payment == "online":
        env = _load("textenv.wrappers.online:OnlineReward")(env, pay_every=pay_every)
    return env


def make_vec(
    *,
    num_envs: int = 1,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    payment: Literal["online", "end"] = "online",
    pay_every: Literal["segment", "token"] | int = "segment",
    disable_env_checker: bool | None = None,
    **arguments: Any,
) -> TextVectorEnv:
    """What `gym.make_vec` calls: many texts at a time, by one environment.

    Args:
        num_envs: texts at a time.
        autoreset_mode: when the next text of a row begins: "NextStep", "SameStep" or "Disabled" (`TextVectorEnv`).
        payment, pay_every: as in `make`.
        disable_env_checker: taken as `gym.make` takes it; there is no checker around a vector environment.
        **arguments: those of `make`.

    Raises:
        ValueError, TypeError, FileNotFoundError: as `make`; a reward that cannot serve many texts at once.
    """
    from textenv.vector import TextVectorEnv

    mode = unwrap({"mode": autoreset_mode})["mode"]
    _check_payment(payment, pay_every)
    stack = make(payment="end", **arguments)
    return TextVectorEnv(stack, num_envs, payment=payment, pay_every=pay_every, autoreset_mode=mode)


def named_scorer(given: Any) -> Any:
    """The scorer that an import string names; anything else as it is.

    Raises:
        ImportError, TypeError: nothing there; neither a function nor a class of scorers.
    """
    if not (isinstance(given, str) and _IMPORT_STRING.fullmatch(given)):
        return given
    found = load_object(given)
    found = found() if isinstance(found, type) else found
    if not callable(found):
        raise TypeError(f"scorer={given!r} is a {type(found).__name__}; it should name a function of episodes, or a class of such")
    return found


def _check_payment(payment: object, pay_every: object) -> None:
    from textenv.reward import check_pay_every

    if payment not in ("online", "end"):
        raise ValueError(f'payment must be "online" or "end", got {payment!r}')
    check_pay_every(pay_every)


def _check_budgets(**budgets: object) -> None:
    for name, value in budgets.items():
        if name == "min_new_tokens" and value == "max":
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            also = ' or "max"' if name == "min_new_tokens" else ""
            raise ValueError(f"{name} must be a whole number of tokens{also}, got {value!r}")


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
        raise ValueError(_unknown(cls.__name__, sorted(unknown), sorted(set(takes) - own)))
    if columns is not None and prompts is None:
        raise ValueError(f"columns={columns} without prompts=: they name the fields of one's own prompts")
    if "split" in takes and prompts is None:
        arguments["split"] = split or "train"
    elif prompts is None and split not in (None, "train", "test", "all"):
        raise ValueError(f'unknown split {split!r}; one of "train", "test", "all"')
    if prompts is not None:
        arguments["prompts"] = load_prompts(prompts, columns=columns, split=split)
    if "max_new_tokens" in takes:
        arguments["max_new_tokens"] = max_new_tokens
    return cls(**arguments)


def _unknown(task: str, unknown: list[str], own: list[str]) -> str:
    """What is said of arguments that nobody takes. (Gymnasium adds all arguments to a TypeError.)"""
    common = [name for name, parameter in parameters(make).items() if name != "task" and parameter.kind is parameter.KEYWORD_ONLY]
    near = [match for name in unknown for match in difflib.get_close_matches(name, [*own, *common], 1)]
    meant = f" (did you mean {', '.join(near)}?)" if near else ""
    return f"{task} takes no argument {unknown}{meant}; its own are {own}, those of every id {', '.join(common)}"


def _rewards(reward: Reward | Sequence[Reward], critic: Any) -> list[Callable[[Any], Any]]:
    """The wrappers to apply, innermost first."""
    reward = _pair(reward)
    listed = reward if isinstance(reward, list) else [reward]
    out: list[Callable[[Any], Any]] = []
    used = False
    for item in listed:
        item = _pair(item)
        if isinstance(item, tuple) and not (len(item) == 2 and isinstance(item[1], Mapping)):
            raise ValueError(f"reward={item!r}: a tuple is one reward and its arguments, (name, {{...}}); use a list for several")
        name, arguments = item if isinstance(item, tuple) else (item, {})
        wrap = name if callable(name) else _named(name)
        if wrap is None:
            if arguments:
                raise ValueError(f"the reward {name} takes no argument {sorted(arguments)}; it is the score on the last token")
            continue
        if isinstance(wrap, type) and "critic" in inspect.signature(wrap).parameters and not callable(name):
            arguments, used = {"critic": critic, **arguments}, True
        check_arguments(wrap, arguments, name if isinstance(name, str) else getattr(name, "__name__", repr(name)))
        out.append(_partial(wrap, arguments))
    if critic is not None and not used:
        raise ValueError(f"critic={critic!r} is given, but reward={reward!r} asks no critic; pass reward='critic_span'")
    return out


def _pair(item: Any) -> Any:
    """One reward and its arguments as a tuple, which JSON can write as a list alone; anything else as it is."""
    return tuple(item) if isinstance(item, list) and len(item) == 2 and isinstance(item[1], Mapping) else item


def _named(name: object) -> Callable[..., Any] | None:
    """What wraps an environment for a name or an import string; None: nothing does."""
    if isinstance(name, str) and name in REWARDS:
        target = REWARDS[name]
        return None if target is None else _load(target)
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(
            f"unknown reward {name!r}; valid names: {', '.join(sorted(REWARDS))}, an import string module:attribute, or a "
            "callable env -> env; with arguments, a pair of one of these and a dictionary: ('critic_span', {'negative': -1.0})"
        )
    found = load_object(name)
    from_function = _load("textenv.wrappers.function:RewardFromFunction")
    if isinstance(found, from_function) or (isinstance(found, type) and issubclass(found, gym.Wrapper)):
        return found
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"{name!r} is {found!r}; a reward is a subclass of RewardWrapper, a function of an episode, or one of env")
    function: Callable[..., Any] = found
    if _wraps_environments(function):
        return function

    def placed(env: Any, *, keeps_return: bool = False, causal: bool = False) -> Any:
        return from_function(function, keeps_return=keeps_return, causal=causal)(env)

    return placed


def _wraps_environments(function: Callable[..., Any]) -> bool:
    """Whether a function takes an environment, by the name or the annotation of its first parameter, not an episode."""
    first = next(iter(parameters(function).values()), None)
    return first is not None and (first.name in ("env", "environment") or re.search(r"\bEnv\b", str(first.annotation)) is not None)


def _partial(cls: Any, arguments: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda env: cls(env, **arguments)


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
