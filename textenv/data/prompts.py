"""Prompts from wherever they are: a file, a list, a `datasets.Dataset` or the name of one on the hub.

>>> load_prompts(["The waiter was", Prompt("Nobody thought that", metadata={"toxicity": 0.1})])[1].metadata["toxicity"]
0.1
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from textenv.data.records import EXTENSIONS, Record, checked_text, column_names, lookup, read_records, text_at, texts_at
from textenv.episode import Prompt

__all__ = ["load_prompts", "split_prompts"]

FIELDS = ("text", "references", "context")
DEFAULT_TEXT = ("text", "prompt", "prompt.text")
MOST_TEST_PROMPTS = 500


def load_prompts(source: Any, columns: Mapping[str, str] | None = None, split: str | None = None) -> list[Prompt]:
    """Read prompts.

    Args:
        source: a path (.txt with a prompt a line, .jsonl, .csv, each also .gz, .parquet), a list or tuple of strings
            and `Prompt`s, or of dictionaries (rows, as of a .jsonl), a `datasets.Dataset` or `DatasetDict`, or a dataset's
            name on the hub (needs `textenv[data]`). A string that is an existing path is a path.
        columns: where the fields of a `Prompt` are, e.g. `{"text": "prompt.text", "references": "refs", "context":
            "document"}`; dots reach into nested columns. By default `text` is the first of "text", "prompt" and
            "prompt.text" that holds a string in the first row; `references` and `context` are the columns of that
            name, if the first row holds a string or a list of strings there. What no field takes lands in `metadata`.
        split: "test" is the last eighth of the rows (at least one, at most 500), "train" is the rest; None and "all"
            are everything. A `DatasetDict` of several splits is asked for its own by name instead.

    Returns:
        At least one prompt, in the order of the source, none blank.

    Raises:
        FileNotFoundError: no such file or dataset.
        ValueError: nothing in it, a missing column, a blank or non-text prompt, a broken row, an unknown split; the
            message holds the line and the way out.
        TypeError: a source of another kind.
        ImportError: a .parquet file or hub dataset without `textenv[data]`.
    """
    unknown = set(columns or ()) - set(FIELDS)
    if unknown:
        raise ValueError(f"columns= has unknown fields {sorted(unknown)}; a Prompt has {', '.join(FIELDS)}")
    if isinstance(source, list | tuple) and not (source and all(isinstance(item, Mapping) for item in source)):
        if columns:
            raise ValueError(f"columns={dict(columns)} says where the fields of rows are; a list holds strings or Prompts, or rows")
        prompts, name = [_prompt(item, f"prompts[{index}]") for index, item in enumerate(source)], "the list"
    else:
        records, name, split = _records(source, split)
        prompts = list(_prompts(records, columns or {}))
    if not prompts:
        raise ValueError(f"{name} holds no prompt; give at least one text that is not blank")
    return split_prompts(prompts, split)


def split_prompts(prompts: list[Prompt], split: str | None) -> list[Prompt]:
    """The prompts of one split: "test" is the last eighth (at least one, at most 500), "train" the rest.

    >>> len(split_prompts([Prompt("a")] * 80, "test")), len(split_prompts([Prompt("a")] * 80, "train"))
    (10, 70)
    """
    if split is None or split == "all":
        return prompts
    if split not in ("train", "test"):
        raise ValueError(f'unknown split {split!r}; one of "train", "test", "all"')
    if len(prompts) < 2:
        raise ValueError(
            f"{len(prompts)} prompt cannot be split; split={split!r} needs two, split='all' takes everything"
        )
    test = min(max(len(prompts) // 8, 1), MOST_TEST_PROMPTS)
    return prompts[-test:] if split == "test" else prompts[:-test]


def _prompt(item: object, where: str) -> Prompt:
    """An item of a list as a Prompt."""
    prompt = Prompt(item) if isinstance(item, str) else item
    if not isinstance(prompt, Prompt) or not isinstance(prompt.text, str):
        raise TypeError(f"{where} is {type(item).__name__} {item!r:.60}; give strings or Prompts, or rows alone")
    checked_text(prompt.text, where)
    return prompt


def _records(source: Any, split: str | None) -> tuple[Iterable[Record], str, str | None]:
    """The rows of a file, list or dataset, what to call it in a message, and the split that is still to be taken."""
    if isinstance(source, list | tuple):
        return (Record(row, "prompts", number, "row") for number, row in enumerate(source, start=1)), "the list", split
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if isinstance(source, os.PathLike):
            return read_records(name), repr(name), split
        if not _may_be_hub_name(name):
            try:
                return read_records(name), repr(name), split
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}; a prompt itself is given in a list: [{name!r:.60}]") from None
        source = _load_hub_dataset(name)
    if isinstance(source, Mapping) and source and all(hasattr(part, "column_names") for part in source.values()):
        parts, split = _dataset_parts(source, split)
    elif hasattr(source, "column_names") and hasattr(source, "__len__"):
        parts = {"": source}
    else:
        raise TypeError(
            f"prompts cannot be read from {type(source).__name__} {source!r:.60}; give a path "
            f"({', '.join(EXTENSIONS)}), a list of strings or Prompts, or a datasets.Dataset "
            "(of a stream, take the rows you want first)"
        )
    return _dataset_records(parts), "the dataset", split


def _dataset_parts(parts: Mapping[str, Any], split: str | None) -> tuple[Mapping[str, Any], str | None]:
    """The splits of a DatasetDict that are wanted. A lone split is cut in train and test like a file's rows."""
    if split is None or split == "all" or (len(parts) == 1 and split in ("train", "test")):
        return parts, split
    if split not in parts:
        raise ValueError(f"the dataset has no split {split!r}; it has {', '.join(map(repr, parts))}, and 'all'")
    return {split: parts[split]}, None


def _dataset_records(parts: Mapping[str, Any]) -> Iterator[Record]:
    for name, part in parts.items():
        for number, row in enumerate(part, start=1):
            yield Record(row, f"dataset split {name!r}" if name else "dataset", number, "row")


def _may_be_hub_name(name: str) -> bool:
    """Whether a string that is no existing path could be "name" or "owner/name" on the hub."""
    known = name.lower().endswith((*EXTENSIONS, ".gz", ".json", ".tsv", ".zip"))
    return (
        not os.path.exists(os.path.expanduser(name))
        and not known
        and bool(re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name))
    )


def _load_hub_dataset(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise FileNotFoundError(
            f"no such file: {name!r}; if it is a dataset on the hub: pip install 'textenv[data]'; "
            f"a prompt itself is given in a list: [{name!r}]"
        ) from None
    try:
        return datasets.load_dataset(name)
    except Exception as error:  # the hub has a dozen ways to say no, offline among them
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"{name!r} is neither a file nor a dataset that could be loaded ({type(error).__name__}: {reason}); "
            f"a prompt itself is given in a list: [{name!r}]"
        ) from error


def _prompts(records: Iterable[Record], columns: Mapping[str, str]) -> Iterator[Prompt]:
    fields: dict[str, str] = {}
    for record in records:
        fields = fields or _fields(record, columns)
        values = {field: texts_at(record, column) for field, column in fields.items() if field != "text"}
        yield Prompt(text_at(record, fields["text"]), metadata=_without(record.row, fields.values()), **values)


def _fields(first: Record, columns: Mapping[str, str]) -> dict[str, str]:
    """Column of each field, settled by the first row."""
    fields = dict(columns)
    if "text" not in fields:
        fields["text"] = _default_text(first)
    for field in ("references", "context"):
        if field not in fields and field != fields["text"] and field in first.row and _are_texts(first.row[field]):
            fields[field] = field
    return fields


def _default_text(first: Record) -> str:
    names = column_names(first.row)
    for column in DEFAULT_TEXT:
        if column in names and isinstance(lookup(first, column), str):
            return column
    raise ValueError(
        f"{first.where}: no text in a column {' or '.join(map(repr, DEFAULT_TEXT))}; the columns that exist: "
        f"{', '.join(map(repr, names)) or 'none'}; choose one with columns={{'text': ...}} (on the command "
        "line: --column text=NAME)"
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _without(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """A row less the columns that became fields; an object that lost its last entry goes too."""
    rest = dict(row)
    for column in columns:
        head, _, tail = column.partition(".")
        if column in rest:
            del rest[column]
        elif tail and isinstance(rest.get(head), Mapping):
            rest[head] = _without(rest[head], [tail])
            if not rest[head]:
                del rest[head]
    return rest
