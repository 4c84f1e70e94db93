"""Arguments of rewards, tasks and critics on the command line: JSON where it can be read, else a string.

    --reward 'redistributed:{"mix": 0.8}'    a name or an import string, a colon, an object of its arguments
    --set score=rouge1                       an argument of the task
    --critic-option on_error=retry_forever   an argument of the critic behind the URL of --critic

They are kept as they were written, so that a resumed run, which reads them from a file, has them too.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from textenv.cli.options import pairs

__all__ = ["READING", "asked_critic", "critic_options", "parsed_reward", "parsed_rewards", "task_settings"]

READING = ("score", "label", "output", "with_prompt")
"""Arguments of tasks that say how a scorer is made; one that is made goes without them."""

_NUMBERS = ("timeout", "retries", "backoff", "longest", "concurrency", "max_calls", "max_new_tokens", "max_text")
_EXAMPLES = {"set": "score=rouge1", "critic-option": "on_error=retry_forever"}
_OF_THE_LIBRARY = ("url", "form", "patience", "api_key")


def parsed_reward(option: str) -> str | tuple[str, dict[str, Any]]:
    """A reward as `gym.make` takes it.

    >>> parsed_reward("uniform"), parsed_reward("my_rewards:Shouts"), parsed_reward('my_rewards:Shouts:{"points": 2}')
    ('uniform', 'my_rewards:Shouts', ('my_rewards:Shouts', {'points': 2}))

    Raises:
        ValueError: what stands behind the name is no JSON object.
    """
    name, brace, rest = option.partition(":{")
    if not brace:
        if _has_arguments(option):
            raise ValueError(f'--reward {option!r}: arguments are a JSON object, {option.split(":")[0]}:{{"name": value}}')
        return option
    try:
        arguments = json.loads("{" + rest)
    except ValueError as error:
        raise ValueError(f'--reward {option!r}: no JSON behind the name ({error}); write {name}:{{"name": value}}') from None
    return name, arguments


def parsed_rewards(options: Sequence[str] | str) -> list[str | tuple[str, dict[str, Any]]] | str | tuple[str, dict[str, Any]]:
    """Several, innermost first; one alone as itself."""
    if isinstance(options, str):
        return parsed_reward(options)
    return [parsed_reward(option) if isinstance(option, str) else option for option in options]


def task_settings(env_id: str, options: Sequence[str] | None) -> dict[str, Any]:
    """Arguments of the task, from --set NAME=VALUE.

    Raises:
        ValueError: no such environment; no argument of its task (the message lists those).
    """
    import textenv
    from textenv.import_strings import load_object

    given = _values(options, "set")
    if not given:
        return {}
    if env_id not in textenv.ENVIRONMENTS:
        raise ValueError(f"unknown environment {env_id!r}; one of {', '.join(textenv.ENVIRONMENTS)}")
    takes = inspect.signature(load_object(textenv.ENVIRONMENTS[env_id]["task"])).parameters
    own = [name for name in takes if name not in ("prompts", "scorer", "split", "max_new_tokens")]
    _known("set", given, own, f"{env_id}'s own")
    return given


def critic_options(options: Sequence[str] | None) -> dict[str, Any]:
    """Arguments of a `ServerCritic` and of its `Patience`, from --critic-option NAME=VALUE.

    Raises:
        ValueError: no such argument (the message lists them), a number or a truth value that is none, a key.
    """
    from textenv.critics import ServerCritic
    from textenv.critics.connection import Patience

    given = _values(options, "critic-option")
    if "api_key" in given:
        raise ValueError("a key on a command line is read by others, and would be kept with the run; set OPENAI_API_KEY")
    takes = [*inspect.signature(ServerCritic).parameters, *(field.name for field in fields(Patience))]
    _known("critic-option", given, [name for name in takes if name not in _OF_THE_LIBRARY], "a server's critic has")
    for name, value in given.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in _NUMBERS and not (number or value is None):
            raise ValueError(f"--critic-option {name}={value!r} should be a number")
        if name == "chat" and not isinstance(value, bool):
            raise ValueError(f"--critic-option chat={value!r} should be true or false")
    return given


def asked_critic(source: Any, options: Mapping[str, Any] | None) -> Any:
    """The critic of --critic; with options, one behind a server. As with its URL alone, on_error is "skip" by default.

    Raises:
        ValueError: options, but no URL of a server.
    """
    if not options:
        return source
    if not (isinstance(source, str) and source.startswith(("http://", "https://"))):
        named = "none is named" if source is None else f"got {source!r}"
        raise ValueError(f"--critic-option is for a critic behind a server ({named}): --critic http://127.0.0.1:8000/v1")
    from textenv.critics import ServerCritic
    from textenv.critics.connection import Patience

    waits = {field.name: options[field.name] for field in fields(Patience) if field.name in options}
    others = {name: value for name, value in options.items() if name not in waits}
    return ServerCritic(source, **{"on_error": "skip", **others}, patience=Patience(**waits))


def _has_arguments(option: str) -> bool:
    """Whether something stands behind a name, or behind an import string, that is no part of it."""
    from textenv.registration import REWARDS

    name, colon, _ = option.partition(":")
    return bool(colon) and (name in REWARDS or option.count(":") > 1)


def _values(options: Sequence[str] | None, name: str) -> dict[str, Any]:
    """`["score=rouge1", "with_prompt=true"]` with JSON values read."""
    found: dict[str, Any] = {}
    for key, value in pairs(list(options or []), name, example=_EXAMPLES[name]).items():
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _known(option: str, given: Mapping[str, Any], valid: Sequence[str], whose: str) -> None:
    unknown = [name for name in given if name not in valid]
    if unknown:
        raise ValueError(f"--{option} {unknown[0]}=...: there is no such argument; {whose}: {', '.join(valid) or 'none'}")
