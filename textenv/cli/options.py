"""Options that several commands read the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["free_directory", "given", "pairs"]

EnvId = Annotated[str, typer.Argument(help="Id of an environment (textenv list). Example: textenv/Detox-v0")]


def _agent_of_run(policy: str | None) -> str | None:
    """The agent in the directory of a run of `textenv train`; any other name as it is."""
    agent = Path(policy or "").expanduser() / "agent"
    return str(agent) if policy and (agent / "agent.json").is_file() else policy


Policy = Annotated[
    str | None,
    typer.Option(
        callback=_agent_of_run,
        help="Language model: a directory or name, or the directory of a run; default: embedded. Example: --policy models/lm",
    ),
]
Tokenizer = Annotated[str | None, typer.Option(help="Tokenizer, if it is not the policy's own. Example: --tokenizer models/lm")]
ScorerOption = Annotated[
    str | None,
    typer.Option(help="Classifier that gives the score, or module:function; default: embedded. Example: --scorer models/toxicity"),
]
Prompts = Annotated[
    str | None, typer.Option(help="Prompts: a file or dataset; default: embedded. Example: --prompts prompts.jsonl.gz")
]
Column = Annotated[
    list[str] | None, typer.Option(help="Where a file holds a field of a prompt. Example: --column text=prompt.text")
]
MaxPromptTokens = Annotated[
    int | None, typer.Option(help="Longest prompt; longer ones lose their left end. Example: --max-prompt-tokens 48")
]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest text in tokens. Example: --max-new-tokens 40")]
Reward = Annotated[
    list[str] | None,
    typer.Option(
        help="Reward: a name (textenv list) or module:Class, then its arguments as JSON; several stack, innermost first. "
        "Example: --reward critic_span. Example: --reward 'redistributed:{\"mix\": 0.8}' --reward length_penalty"
    ),
]
Critic = Annotated[
    str | None,
    typer.Option(
        help="Critic of the rewards that ask one: lexicon:FILE, a language model, or the URL of a server. "
        "Example: --critic lexicon:words.txt"
    ),
]
CriticOption = Annotated[
    list[str] | None,
    typer.Option(
        "--critic-option",
        help="An argument of the critic behind a URL: on_error (raise, skip, retry_forever), max_calls, cache, timeout, retries, "
        "concurrency, ...; may be repeated. Example: --critic-option on_error=retry_forever",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An argument of the task, JSON where it can be read, else a string; may be repeated. Example: --set score=rouge1",
    ),
]
Chat = Annotated[bool, typer.Option("--chat", help="Render prompts with the tokenizer's chat template. Example: --chat")]
System = Annotated[str | None, typer.Option(help="System message, with --chat. Example: --system 'Answer in one sentence.'")]
MinNewTokens = Annotated[int | None, typer.Option(help="No end of text before so many tokens. Example: --min-new-tokens 10")]
Judge = Annotated[
    list[str] | None,
    typer.Option(
        help="Measure with this classifier or module:function too, which gave no reward; may be repeated. Example: --judge models/b"
    ),
]
K = Annotated[int, typer.Option(help="Texts a prompt when measuring. Example: --k 5")]
EvalPrompts = Annotated[
    int | None, typer.Option(help="Measure on so many held-out prompts; default: all. Example: --eval-prompts 100")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every draw. Example: --seed 1")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ... Example: --device cuda")]
Precision = Annotated[
    str | None, typer.Option(help="How the policy computes: auto, fp32, bf16 or medium; default: auto. Example: --precision bf16")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds. Example: --overwrite")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: the others stay what the environment, or a resumed run, says."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def pairs(options: list[str] | None, name: str = "column", example: str = "text=prompt.text") -> dict[str, str]:
    """`["text=prompt.text"]` as a dictionary.

    Raises:
        ValueError: an option without "=".
    """
    found = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not (key and equals and value):
            raise ValueError(f"--{name} {option!r} should be NAME=VALUE, e.g. --{name} {example}")
        found[key] = value
    return found


def free_directory(path: Path, overwrite: bool = False) -> Path:
    """The path, if a directory may be written there; asked before training, not after.

    Raises:
        FileExistsError: something is there already (with `overwrite`, only a file is refused).
        NotADirectoryError: a part of the path is a file.
    """
    target = path.expanduser()
    if target.is_file():
        raise FileExistsError(f"{target} is a file; choose another name for a directory")
    if target.is_dir() and not overwrite and any(target.iterdir()):
        raise FileExistsError(f"{target} holds something already; choose another directory, or --overwrite")
    for parent in target.parents:
        if parent.is_file():
            raise NotADirectoryError(f"{target} cannot be written: {parent} is a file")
    return target
