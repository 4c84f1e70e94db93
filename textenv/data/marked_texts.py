"""Texts in which somebody marked what is wrong: the truth that credit is compared with on real text.

What a column of marks may hold, told apart by its shape:

1. a list of character offsets, `[8, 9, 10]` (SemEval-2021 toxic spans): neighbours are one span;
2. a list of pairs [begin, end], half-open, or of objects with "start" and "end" (a "label" or "error type", too);
3. a list of OK and BAD, one a word of the text, words standing between white space (word-level quality estimation);
4. an empty list or null: nothing is wrong. In a .csv, each of these as JSON.

Offsets count Unicode characters of the text as it stands in the file.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textenv.data.records import Record, column_names, lookup, read_records, text_at
from textenv.episode import Prompt, Span

__all__ = ["MarkedText", "read_marked_texts"]

FIELDS = ("text", "spans", "prompt", "context", "references")
DEFAULT_SPANS = ("spans", "offsets")


@dataclass(frozen=True)
class MarkedText:
    """A text, what it answers, and its spans: reward −1 each. None: the file does not say."""

    prompt: Prompt
    text: str
    spans: tuple[Span, ...] | None


def read_marked_texts(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> list[MarkedText]:
    """The rows of a .jsonl, .csv (each also .gz) or .parquet.

    Args:
        path: the file.
        columns: where the fields are: text (default "text"), spans (default "spans" or "offsets", where there is one), prompt,
            context, references (default: none); dots reach into nested columns. A list within the context (a passage in
            sentences) is joined by spaces.

    Raises:
        FileNotFoundError, ValueError: as `read_records`; an unknown field, a missing column, a mark beyond its text, marks of
            another shape; the message names the line.
    """
    given = dict(columns or {})
    unknown = set(given) - set(FIELDS)
    if unknown:
        raise ValueError(f"columns= has unknown fields {sorted(unknown)}; a marked text has {', '.join(FIELDS)}")
    texts: list[MarkedText] = []
    for record in read_records(path):
        if "spans" not in given and not texts:
            found = next((name for name in DEFAULT_SPANS if name in column_names(record.row)), None)
            given |= {} if found is None else {"spans": found}
        texts.append(_marked(record, given))
    if not texts:
        raise ValueError(f"{os.fspath(path)!r} holds no text")
    return texts


def _marked(record: Record, columns: Mapping[str, str]) -> MarkedText:
    text = text_at(record, columns.get("text", "text"))
    prompt = Prompt(
        text_at(record, columns["prompt"]) if "prompt" in columns else "",
        references=_texts(record, columns["references"]) if "references" in columns else (),
        context=_texts(record, columns["context"]) if "context" in columns else (),
    )
    if "spans" not in columns:
        return MarkedText(prompt, text, None)
    where = f"{record.where}: column {columns['spans']!r}"
    spans = tuple(_spans(_from_json(lookup(record, columns["spans"]), where), text, where))
    for span in spans:
        if span.end > len(text):
            raise ValueError(f"{where} marks characters {span.start} to {span.end} of a text of {len(text)}: {text[:60]!r}")
    return MarkedText(prompt, text, spans)


def _texts(record: Record, column: str) -> tuple[str, ...]:
    value = lookup(record, column)
    parts = [value] if isinstance(value, str) else value or []
    joined = [" ".join(part) if isinstance(part, list) and all(isinstance(s, str) for s in part) else part for part in parts]
    if not all(isinstance(part, str) for part in joined):
        raise ValueError(f"{record.where}: column {column!r} should hold a text, a list of texts or a list of lists of texts")
    return tuple(joined)


def _from_json(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else []
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} should hold marks as JSON, e.g. [[8, 14]]; {value[:60]!r} is not ({error.msg})") from None


def _spans(marks: Any, text: str, where: str) -> Iterable[Span]:
    if not marks and (marks is None or isinstance(marks, list)):
        return []
    if isinstance(marks, list):
        if all(_is_offset(mark) for mark in marks):
            return _of_offsets(sorted(set(marks)))
        if all(isinstance(mark, str) and mark.upper() in ("OK", "BAD") for mark in marks):
            return _of_tags(marks, text, where)
        pairs = [_pair(mark) for mark in marks]
        if all(pair is not None and pair[0] < pair[1] for pair in pairs):
            return [Span(pair[0], pair[1], -1.0, pair[2]) for pair in pairs if pair is not None]
    raise ValueError(
        f"{where} should hold character offsets [8, 9], pairs [[8, 14]] with begin < end, objects with start and end, or OK and "
        f"BAD for each word; got {str(marks)[:60]!r}"
    )


def _is_offset(mark: Any) -> bool:
    return isinstance(mark, int) and not isinstance(mark, bool) and mark >= 0


def _of_offsets(offsets: Sequence[int]) -> list[Span]:
    """Runs of neighbours."""
    runs = itertools.groupby(enumerate(offsets), key=lambda pair: pair[1] - pair[0])
    whole = [[offset for _, offset in run] for _, run in runs]
    return [Span(run[0], run[-1] + 1, -1.0) for run in whole]


def _of_tags(tags: Sequence[str], text: str, where: str) -> list[Span]:
    words = list(re.finditer(r"\S+", text))
    if len(words) != len(tags):
        raise ValueError(f"{where} holds {len(tags)} tags for a text of {len(words)} words: {text[:60]!r}")
    return [Span(*word.span(), -1.0, "BAD") for word, tag in zip(words, tags, strict=True) if tag.upper() == "BAD"]


def _pair(mark: Any) -> tuple[int, int, str] | None:
    """Begin, end, label."""
    if isinstance(mark, Mapping):
        label = str(mark.get("label", mark.get("error type", "")) or "")
        mark = [mark.get("start"), mark.get("end")]
    else:
        label = ""
    if isinstance(mark, list) and len(mark) == 2 and all(_is_offset(each) for each in mark):
        return mark[0], mark[1], label
    return None
