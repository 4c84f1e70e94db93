"""What people preferred, from a data file: pairs of texts, of which one was chosen, and texts with a class or a score.

A column of texts may hold a list (ParaDetox: one rude text, several polite ones, or none): every combination is a pair. All
rows that share a prompt, or (without a prompt) all pairs of a row, are of one *source*; training and held-out data share none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from textenv.data.labelled import class_index
from textenv.data.records import Record, checked_text, lookup, read_records, text_at, texts_at
from textenv.episode import Prompt

__all__ = ["PreferencePair", "RatedText", "read_pairs", "read_rated", "split_by_source"]


@dataclass(frozen=True)
class PreferencePair:
    """Two texts after one prompt; `chosen` is the better one."""

    prompt: Prompt
    chosen: str
    rejected: str
    source: str


@dataclass(frozen=True)
class RatedText:
    """A text after a prompt, and its class (an index) or its score."""

    prompt: Prompt
    text: str
    value: float
    source: str


def read_pairs(
    path: str | os.PathLike[str] | Iterable[Record],
    columns: Mapping[str, str] | None = None,
    equal: Literal["error", "skip"] = "error",
) -> tuple[list[PreferencePair], int]:
    """The pairs of a .jsonl, .csv (each also .gz) or .parquet, and how many were skipped because both texts are the same.

    Args:
        path: the file, or its rows.
        columns: where prompt, context, chosen and rejected are; default: columns of these names. Files without a prompt (context)
            have none. chosen and rejected may hold a text, or a list of texts.
        equal: what to do with a pair of two equal texts, of which none can be better.

    Raises:
        FileNotFoundError, ValueError: as `read_records`; an unknown field, a missing column, a pair of equal texts, no pair at all.
    """
    names = _columns(columns, ("prompt", "context", "chosen", "rejected"))
    pairs, skipped = [], 0
    for record in read_records(path) if isinstance(path, str | os.PathLike) else path:
        prompt, source = _prompt(record, names, columns or {})
        for chosen in _texts(record, names["chosen"]):
            for rejected in _texts(record, names["rejected"]):
                if chosen.strip() != rejected.strip():
                    pairs.append(PreferencePair(prompt, chosen, rejected, source))
                elif equal == "skip":
                    skipped += 1
                else:
                    raise ValueError(
                        f"{record.where}: chosen and rejected are the same text ({chosen[:60]!r}), so none is better; remove the "
                        "row, or skip such pairs (--skip-equal)"
                    )
    if not pairs:
        name = repr(os.fspath(path)) if isinstance(path, str | os.PathLike) else "the data"
        raise ValueError(f"{name} holds no pair of different texts")
    return pairs, skipped


def read_rated(
    path: str | os.PathLike[str], columns: Mapping[str, str] | None = None, classes: Sequence[str] | None = None
) -> list[RatedText]:
    """The rated texts of a file.

    Args:
        path: .jsonl, .csv (each also .gz) or .parquet.
        columns: where prompt, context, text and value are; default: "prompt" and "context", if there are such columns, "text", and
            "label" (with `classes`) or "score".
        classes: names of the classes 0, 1, ...; the value is then a number or name of one, as in `read_labelled`. None: a score.

    Raises:
        FileNotFoundError, ValueError: as `read_records`; an unknown field, a missing column, an unknown class, a score that is no
            finite number, a class without texts, scores that are all the same, no text at all.
    """
    names = _columns(columns, ("prompt", "context", "text", "value"))
    column = (columns or {}).get("value", "score" if classes is None else "label")
    rated = []
    for record in read_records(path):
        prompt, source = _prompt(record, names, columns or {})
        found = lookup(record, column)
        value = _score(found, record, column) if classes is None else class_index(found, classes, record, column)
        rated.append(RatedText(prompt, text_at(record, names["text"]), float(value), source))
    if not rated:
        raise ValueError(f"{os.fspath(path)!r} holds no text")
    values = {row.value for row in rated}
    missing = [name for index, name in enumerate(classes or ()) if index not in values]
    if missing:
        raise ValueError(f"{os.fspath(path)!r} holds no text labelled {' or '.join(map(repr, missing))} in column {column!r}")
    if len(values) == 1:
        raise ValueError(f"{os.fspath(path)!r}: all scores in column {column!r} are {values.pop():g}; there is nothing to learn")
    return rated


Item = TypeVar("Item", PreferencePair, RatedText)


def split_by_source(
    items: Sequence[Item], held_out: float, generator: torch.Generator, most: int = 1000
) -> tuple[list[Item], list[Item]]:
    """Training and held-out items; a source is in one of them. Held out are that share of the sources, `most` at most.

    Raises:
        ValueError: a single source cannot be split.
    """
    sources = list(dict.fromkeys(item.source for item in items))
    if len(sources) < 2:
        raise ValueError("all rows have one prompt, so none can be held out for the test; give rows with other prompts")
    order = torch.randperm(len(sources), generator=generator).tolist()
    count = min(max(1, round(held_out * len(sources))), len(sources) - 1, most)
    test = {sources[index] for index in order[:count]}
    return [item for item in items if item.source not in test], [item for item in items if item.source in test]


def _columns(columns: Mapping[str, str] | None, fields: tuple[str, ...]) -> dict[str, str]:
    unknown = set(columns or ()) - set(fields)
    if unknown:
        raise ValueError(f"columns= has unknown fields {sorted(unknown)}; there are {', '.join(fields)}")
    return {**{field: field for field in fields}, **(columns or {})}


def _prompt(record: Record, names: Mapping[str, str], given: Mapping[str, str]) -> tuple[Prompt, str]:
    """The prompt of a row (none, where the file has none and none was asked for), and the row's source."""
    text = text_at(record, names["prompt"]) if "prompt" in given or names["prompt"] in record.row else ""
    context = texts_at(record, names["context"]) if "context" in given or names["context"] in record.row else ()
    prompt = Prompt(text, context=context)
    return prompt, "\n".join([text, *context]) if text or context else record.where


def _texts(record: Record, column: str) -> tuple[str, ...]:
    """One text, or those of a list.

    Raises:
        ValueError: null, or a blank text.
    """
    texts = texts_at(record, column)
    if lookup(record, column) is None:
        raise ValueError(f"{record.where}: column {column!r} holds null; give it a text, or a list (which may be empty)")
    return tuple(checked_text(text, f"{record.where}: column {column!r}") for text in texts)


def _score(value: Any, record: Record, column: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{record.where}: column {column!r} should hold a finite number, not {value!r:.60}")
    return number
