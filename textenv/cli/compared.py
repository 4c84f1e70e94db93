"""Two sets of texts to be compared: read from files, or written by policies on an environment's prompts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textenv.cli.console import progress
from textenv.data.records import EXTENSIONS, Record, column_names, lookup, read_records, texts_at
from textenv.episode import Prompt
from textenv.judges.pairwise import Pair

__all__ = ["compared", "read_texts"]

CHUNK = 128  # texts decoded together
PROMPTS = 100  # that policies answer, where nothing else is said


@dataclass(frozen=True)
class _Texts:
    """Texts, with the prompts that they answer (None: the file tells none), and where each was found."""

    texts: Sequence[str]
    prompts: Sequence[Prompt] | None
    where: Sequence[str]


def compared(
    a: str, b: str, *, env_id: str | None, n: int | None, columns: Mapping[str, str], seed: int, device: str, **arguments: Any
) -> list[Pair]:
    """The pairs of A and B: row i of one with row i of the other.

    Args:
        a, b: a file (`EXTENSIONS`), or the directory or name of a language model.
        env_id: on whose held-out prompts a policy writes; where the other side is a file with prompts, on those.
        n: at most so many pairs; default: all of the files, 100 of two policies.
        columns: where a file holds text, prompt and context; default: columns of these names.
        seed: of the sampling, the same for both.
        device: where policies write.
        **arguments: of the environment (`prompts`, `max_new_tokens`).

    Raises:
        FileNotFoundError, ValueError: files that cannot be read, or do not belong together; a policy without an environment.
    """
    if n is not None and n < 1:
        raise ValueError(f"-n {n}: at least one pair is needed")
    files = {side: read_texts(side, columns) for side in (a, b) if _is_file(side)}
    known = next((texts for texts in files.values() if texts.prompts is not None), None)
    if len(files) < len({a, b}):
        if env_id is None:
            policy = next(side for side in (a, b) if side not in files)
            raise ValueError(f"{policy!r} is no file ({', '.join(EXTENSIONS)}); a policy needs prompts to answer: --env ID")
        if files and known is None:
            raise ValueError(f"{next(iter(files))} tells no prompts, which the policy could answer; name them: --column prompt=…")
    prompts = None if known is None else known.prompts
    sides = []
    for side in (a, b):
        if side in files:
            sides.append(files[side])
            continue
        texts = _written(side, env_id or "", prompts, n, seed, device, arguments)
        prompts = texts.prompts
        sides.append(texts)
    return _pairs(sides[0], sides[1], names=(a, b), n=n)


def read_texts(path: str, columns: Mapping[str, str]) -> _Texts:
    """The texts of a file, empty ones too, and their prompts where it has them.

    Raises:
        FileNotFoundError, ValueError: as `read_records`; a field that is none, a column that is missing or holds no text.
    """
    unknown = set(columns) - {"text", "prompt", "context"}
    if unknown:
        raise ValueError(f"--column has unknown fields {sorted(unknown)}; the fields of a text are text, prompt, context")
    names = {"text": "text", "prompt": "prompt", "context": "context", **columns}
    records = list(read_records(path))
    if not records:
        raise ValueError(f"{path} holds no text")
    there = set(column_names(records[0].row)) | set(records[0].row)
    has = {field: field in columns or names[field] in there for field in ("prompt", "context")}
    prompts = None
    if has["prompt"]:
        contexts = [texts_at(record, names["context"]) if has["context"] else () for record in records]
        prompts = [Prompt(_text(r, names["prompt"]), context=c) for r, c in zip(records, contexts, strict=True)]
    return _Texts([_text(record, names["text"]) for record in records], prompts, [record.where for record in records])


def _is_file(source: str) -> bool:
    path = os.path.expanduser(source)
    return os.path.isfile(path) or (not os.path.isdir(path) and source.lower().endswith(EXTENSIONS))


def _text(record: Record, column: str) -> str:
    value = lookup(record, column)
    if not isinstance(value, str):
        raise ValueError(f"{record.where}: column {column!r} should hold a text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{record.where}: column {column!r} is not valid Unicode at character {error.start}") from None
    return value


def _written(
    source: str, env_id: str, prompts: Sequence[Prompt] | None, n: int | None, seed: int, device: str, arguments: Mapping[str, Any]
) -> _Texts:
    """What a policy writes: one text for each prompt, of the environment's held-out ones where none are given."""
    import gymnasium as gym
    import torch

    import textenv
    from textenv.agents import LMPolicy, rollout

    if env_id not in textenv.ENVIRONMENTS:
        raise ValueError(f"unknown environment {env_id!r}; one of {', '.join(textenv.ENVIRONMENTS)}")
    own = {} if "prompts" in arguments else {"split": "test"}
    given = own if prompts is None else {"prompts": list(prompts)[:n]}
    env = gym.make(env_id, **{"tokenizer": source, **arguments, **given}).unwrapped
    asked = env.get_wrapper_attr("task").prompts[: PROMPTS if n is None and prompts is None else n]
    if n is not None and len(asked) < n:
        raise ValueError(f"-n {n}: there are {len(asked)} prompts")
    policy, generator = LMPolicy(source, device=device), torch.Generator().manual_seed(seed)
    texts: list[str] = []
    with progress(Path(source).name, len(asked)) as meter:
        for at in range(0, len(asked), CHUNK):
            part = asked[at : at + CHUNK]
            texts += [episode.text for episode in rollout(env, policy, len(part), generator, prompts=part)]
            meter.update(len(texts))
    return _Texts(texts, asked, [f"{source}, text {i}" for i in range(1, len(texts) + 1)])


def _pairs(a: _Texts, b: _Texts, names: tuple[str, str], n: int | None) -> list[Pair]:
    if n is None and len(a.texts) != len(b.texts):
        held = f"{names[0]} holds {len(a.texts)} texts, {names[1]} {len(b.texts)}"
        raise ValueError(f"{held}: they are compared row by row; give -n to compare the first ones")
    count = min(len(a.texts), len(b.texts), n or len(a.texts))
    if n is not None and count < n:
        raise ValueError(f"-n {n}: there are {count} pairs")
    for i in range(count if a.prompts is not None and b.prompts is not None else 0):
        if a.prompts[i].text.strip() != b.prompts[i].text.strip():  # type: ignore[index]
            raise ValueError(f"{a.where[i]}, and {b.where[i]} answer different prompts; bring the files into the same order")
    prompts = a.prompts or b.prompts or [Prompt("")] * count
    return [Pair(prompts[i], a.texts[i], b.texts[i]) for i in range(count)]
