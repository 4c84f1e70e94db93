"""Grown data on disk: .jsonl, .jsonl.gz or .parquet, a text a row, which any tool reads.

    prompt, references, context       what was asked
    prompt_tokens, tokens             ids that the model saw and wrote, EOS included
    text, finish_reason               for people; checked against the ids when read
    score, rewards                    the task's verdict, and the credit of each token
    original                          whether it is of the original data

Nothing is tokenized, sampled or judged again when such a file is read, and nothing in it is trusted: ids in range and within the
budget, ids that spell the text and the prompt under the environment's own tokenizer, numbers that are finite.

1. A file from elsewhere may hold texts without ids. They are tokenized by the policy's tokenizer, EOS is put behind them, a
   warning says so; and where the file has no scores, the environment judges them.
2. Where there are ids and a score but no `rewards`, the score stands on the last token, as a sparse environment places it.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.agents.policy import LMPolicy
from textenv.agents.rest.grown import GrownData, credited, reference_episodes
from textenv.agents.targets import target_ids
from textenv.data.records import Record, lookup, read_records, text_at, texts_at
from textenv.episode import Episode, Prompt

__all__ = ["load_grown", "original_data", "save_grown"]

COLUMNS = ("prompt", "references", "context", "prompt_tokens", "tokens", "text", "finish_reason", "score", "rewards", "original")
WRITTEN = (".jsonl", ".jsonl.gz", ".parquet")
MOST_SAMPLES = 5_000_000


def save_grown(data: GrownData, path: str | os.PathLike[str]) -> Path:
    """Write grown data, whole or not at all.

    Raises:
        ValueError: the name ends neither with .jsonl, .jsonl.gz nor .parquet; a text that was not judged.
        ImportError: a .parquet without pyarrow.
    """
    target = Path(path).expanduser()
    if not target.name.lower().endswith(WRITTEN):
        raise ValueError(f"grown data are written as {', '.join(WRITTEN)}, got {str(path)!r}")
    for i, episode in enumerate(data.episodes):
        if not np.isfinite(episode.score):
            raise ValueError(f"text {i} has the score {episode.score}; judge the texts first: env.credit(episodes)")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        _write(data, target.name.lower(), scratch)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(scratch, 0o666 & ~umask)
        os.replace(scratch, target)
    finally:
        Path(scratch).unlink(missing_ok=True)
    return target


def _write(data: GrownData, name: str, scratch: str) -> None:
    rows = (_row(episode, bool(original)) for episode, original in zip(data.episodes, data.original, strict=True))
    if name.endswith(".parquet"):
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise ImportError("writing a .parquet needs pyarrow: pip install 'textenv[data]', or write a .jsonl") from None
        listed = {"references": pyarrow.string(), "context": pyarrow.string(), "prompt_tokens": pyarrow.int64(),
                  "tokens": pyarrow.int64(), "rewards": pyarrow.float64()}  # fmt: skip
        single = {"score": pyarrow.float64(), "original": pyarrow.bool_()}
        types = {**single, **{column: pyarrow.list_(type) for column, type in listed.items()}}
        schema = pyarrow.schema([(column, types.get(column, pyarrow.string())) for column in COLUMNS])
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), scratch)
        return
    with gzip.open(scratch, "wt", encoding="utf-8") if name.endswith(".gz") else open(scratch, "w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _row(episode: Episode, original: bool) -> dict[str, Any]:
    return {
        "prompt": episode.prompt.text, "references": list(episode.prompt.references), "context": list(episode.prompt.context),
        "prompt_tokens": episode.prompt_tokens.tolist(), "tokens": episode.tokens.tolist(), "text": episode.text,
        "finish_reason": episode.finish_reason, "score": float(episode.score), "rewards": episode.rewards.tolist(),
        "original": original,
    }  # fmt: skip


def load_grown(
    path: str | os.PathLike[str],
    env: gym.Env[Any, Any],
    policy: LMPolicy,
    columns: Mapping[str, str] | None = None,
    *,
    limit: int = MOST_SAMPLES,
    texts: bool = False,
) -> GrownData:
    """Read grown data.

    Args:
        path: .jsonl, .csv (texts alone; each also .gz) or .parquet.
        env: the environment in which they are learned: what its prompts look like in ids, what a text may hold.
        policy: who tokenizes texts that come without ids.
        columns: where the fields are, by name; default: columns of these names.
        limit: more rows are an error.
        texts: texts without ids are expected (no warning), and are the original data unless the file says otherwise.

    Raises:
        FileNotFoundError, ValueError: as `textenv.data.records.read_records`; an unknown field; ids that do not spell the text or
            the prompt, too many of them; a number that is not finite. The message names the file and the line.
    """
    unknown = set(columns or ()) - set(COLUMNS)
    if unknown:
        raise ValueError(f"columns= has unknown fields {sorted(unknown)}; grown data have {', '.join(COLUMNS)}")
    names = {**{name: name for name in COLUMNS}, **(columns or {})}
    known = {(p.text, p.context, p.references): p for p in env.get_wrapper_attr("task").prompts}
    rows = list(_episodes(path, env, policy, names, known, limit, texts))
    bare = [i for i, (episode, _, _) in enumerate(rows) if np.isnan(episode.score)]
    episodes = [episode for episode, _, _ in rows]
    for i, judged in zip(bare, credited(env, [episodes[i] for i in bare]), strict=True):
        episodes[i] = judged
    encoded = sum(was_text for _, _, was_text in rows)
    if not rows:
        raise ValueError(f"{os.fspath(path)!r} holds no text that fits into max_new_tokens")
    if encoded and not texts:
        warnings.warn(
            f"{os.fspath(path)}: {encoded:,} of {len(rows):,} texts come without token ids; the policy's tokenizer made ids of "
            "them, which need not be those that were sampled",
            stacklevel=2,
        )
    return GrownData(tuple(episodes), np.array([original for _, original, _ in rows], np.bool_))


def original_data(source: Any, env: gym.Env[Any, Any], policy: LMPolicy) -> tuple[Episode, ...]:
    """D, credited: the pairs that were there before anything was sampled.

    Args:
        source: a file (`load_grown`: texts with their prompts), `Prompt`s with references, `GrownData`; None: the references of
            the environment's prompts, where there are any.

    Raises:
        ValueError: a file or prompts that hold no text. TypeError: a source of another kind.
    """
    if isinstance(source, GrownData):
        return source.episodes
    if isinstance(source, str | os.PathLike):
        return load_grown(source, env, policy, texts=True).episodes
    prompts = env.get_wrapper_attr("task").prompts if source is None else list(source)
    if not all(isinstance(prompt, Prompt) for prompt in prompts):
        raise TypeError(f"data= takes a file, Prompts with references, or GrownData, got {source!r:.80}")
    episodes, longer = reference_episodes(env, policy, prompts)
    if longer:
        warnings.warn(f"{longer:,} of {longer + len(episodes):,} references exceed max_new_tokens and are left out", stacklevel=2)
    if source is not None and not episodes:
        raise ValueError(f"data= holds {len(prompts)} prompts without a reference: Prompt(text, references=(...,))")
    return tuple(episodes)


def _episodes(
    path: str | os.PathLike[str],
    env: gym.Env[Any, Any],
    policy: LMPolicy,
    names: dict[str, str],
    known: Mapping[Any, Prompt],
    limit: int,
    texts: bool,
) -> Iterator[tuple[Episode, bool, bool]]:
    """Episode, whether it is of the original data, whether its ids were made here."""
    longer, budget = 0, env.get_wrapper_attr("action_rule").max_new_tokens
    for number, record in enumerate(read_records(path), 1):
        if number > limit:
            raise ValueError(f"{os.fspath(path)!r} holds more than {limit:,} rows; raise limit=, or give a part of it")
        given = {name for name, column in names.items() if column in record.row or "." in column}
        context = texts_at(record, names["context"]) if "context" in given else ()
        references = texts_at(record, names["references"]) if "references" in given else ()
        prompt = Prompt(text_at(record, names["prompt"]), references, context)
        prompt = known.get((prompt.text, prompt.context, prompt.references), prompt)
        original = lookup(record, names["original"]) in (True, "true", "True", "1") if "original" in given else texts
        if "tokens" in given:
            yield _sampled(record, names, given, prompt, env), original, False
            continue
        ids = target_ids(policy.tokenizer, policy.model, text_at(record, names["text"]))
        if len(ids) > budget:
            longer += 1
            continue
        episode = _checked(record, env, prompt, ids)
        yield (_scored(record, names, given, episode) if "score" in given else episode), original, True
    if longer:
        warnings.warn(f"{os.fspath(path)}: {longer:,} texts exceed max_new_tokens={budget} and are left out", stacklevel=2)


def _sampled(record: Record, names: dict[str, str], given: set[str], prompt: Prompt, env: gym.Env[Any, Any]) -> Episode:
    """The episode of a row that holds ids."""
    episode = _checked(record, env, prompt, _integers(record, names["tokens"]))
    text = lookup(record, names["text"]) if "text" in given else episode.text
    if text != episode.text:
        raise ValueError(
            f"{record.where}: the ids spell {episode.text[:60]!r}, the text is {str(text)[:60]!r}: they are of another tokenizer; "
            "make the environment with that one (tokenizer=...), or leave the ids out"
        )
    if "prompt_tokens" in given and _integers(record, names["prompt_tokens"]) != episode.prompt_tokens.tolist():
        raise ValueError(
            f"{record.where}: the model saw other ids of the prompt than this environment gives it; make the environment as it was "
            "(tokenizer, template, chat, max_prompt_tokens), or leave the column prompt_tokens out"
        )
    if not episode.finished:  # sampled under a smaller budget, and cut there
        episode = replace(episode, finish_reason="length")
    return _scored(record, names, given, episode) if "score" in given else episode


def _scored(record: Record, names: dict[str, str], given: set[str], episode: Episode) -> Episode:
    """With the score and the credit of the row."""
    (score,) = _numbers(record, names["score"], [lookup(record, names["score"])])
    rewards = np.zeros(len(episode))
    rewards[-1:] = score
    if "rewards" in given and "tokens" in given:
        rewards = _numbers(record, names["rewards"], lookup(record, names["rewards"]))
        if len(rewards) != len(episode):
            raise ValueError(f"{record.where}: {len(rewards)} rewards for {len(episode)} tokens; there is one for each")
    return replace(episode, score=float(score), rewards=rewards)


def _checked(record: Record, env: gym.Env[Any, Any], prompt: Prompt, ids: list[int]) -> Episode:
    if not ids:
        raise ValueError(f"{record.where}: a text of no tokens")
    try:
        episode: Episode = env.get_wrapper_attr("episode")(prompt, ids)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{record.where}: {error}") from None
    return episode


def _integers(record: Record, column: str) -> list[int]:
    value = lookup(record, column)
    if not isinstance(value, list) or not all(type(item) is int and abs(item) < 2**31 for item in value):
        raise ValueError(f"{record.where}: column {column!r} should hold a list of token ids, not {str(value)[:60]!r}")
    return value


def _numbers(record: Record, column: str, values: Any) -> NDArray[np.float64]:
    """Finite numbers. A .csv has them as text."""
    try:
        numbers = np.array([float(value) for value in values], np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        raise ValueError(f"{record.where}: column {column!r} should hold finite numbers, not {str(values)[:60]!r}")
    return numbers
