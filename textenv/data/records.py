"""Rows of a data file, one after the other: .txt, .jsonl and .csv (each also .gz) and .parquet.

A file is UTF-8, or UTF-16 where it begins with its byte order mark; the fields of a .csv stand between commas, or between the
semicolons or tabs that some spreadsheets write, as its header has them.

A file is read as a stream and trusted in nothing: not its size, its encoding, its compression or the shape of its
rows. Whatever is wrong is a `ValueError` that names the file, the line (counted from 1) and the way out.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import re
import reprlib
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "EXTENSIONS",
    "Record",
    "checked_text",
    "column_names",
    "file_format",
    "lookup",
    "read_records",
    "text_at",
    "texts_at",
]

EXTENSIONS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
LONGEST_LINE = 64 * 2**20  # bytes; a .gz of a few KiB can hold one line without an end


@dataclass(frozen=True)
class Record:
    """One row, and where it was found, for the messages of whoever reads it."""

    row: Mapping[str, Any]
    source: str
    number: int
    kind: str = "line"

    @property
    def where(self) -> str:
        """E.g. "prompts.jsonl, line 3"."""
        return f"{self.source}, {self.kind} {self.number}"


def file_format(path: str | os.PathLike[str]) -> str:
    """The extension among `EXTENSIONS` that the file's name ends with.

    Raises:
        ValueError: the name ends with none of them.
    """
    name = os.fspath(path)
    for extension in EXTENSIONS:
        if name.lower().endswith(extension):
            return extension
    raise ValueError(
        f"{name!r} has an extension that is not known: {Path(name).suffix or 'none'!r}; one of {', '.join(EXTENSIONS)}"
    )


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The rows of a file, in order. A line of a .txt is the row `{"text": line}`; blank lines are skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown extension, a directory, corrupt gzip or parquet, bad UTF-8, a broken JSON line, a JSON line
            that is no object, a .csv row with more or fewer fields than its header.
        ImportError: a .parquet without pyarrow.
    """
    name = os.path.expanduser(os.fspath(path))
    if not os.path.exists(name):
        raise FileNotFoundError(f"no such file: {name!r}")
    if os.path.isdir(name):
        raise ValueError(f"{name!r} is a directory; give one file ({', '.join(EXTENSIONS)})")
    extension = file_format(name)
    if extension == ".parquet":
        return _parquet_records(name)
    kind = extension.removesuffix(".gz")
    return {".txt": _text_records, ".jsonl": _json_records, ".csv": _csv_records}[kind](name, _lines(name))


def lookup(record: Record, column: str) -> Any:
    """The value of a column; dots reach into nested objects ("prompt.text"), unless a column has that very name.

    Raises:
        ValueError: no such column; the message names those that exist.
    """
    value: Any = record.row
    if column in value:
        return value[column]
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            names = ", ".join(repr(name) for name in column_names(record.row)) or "none"
            cell = "" if not isinstance(value, str) else f"; dots do not look into a cell of text, which stands before {part!r}"
            raise ValueError(f"{record.where}: no column {column!r}; the columns that exist: {names}{cell}")
        value = value[part]
    return value


def column_names(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The columns of a row, nested ones by dots: `{"prompt": {"text": ""}, "n": 1}` has "prompt.text" and "n"."""
    names: list[str] = []
    for key, value in row.items():
        nested = isinstance(value, Mapping) and value and prefix.count(".") < 8  # deeper is noise in a message
        names += column_names(value, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
    return names


def text_at(record: Record, column: str) -> str:
    """The text of a column.

    Raises:
        ValueError: no such column, not a string, blank, or half a surrogate pair, which no tokenizer takes.
    """
    value = lookup(record, column)
    if not isinstance(value, str):
        raise ValueError(f"{record.where}: column {column!r} should hold a text, not {_shown(value)}")
    return checked_text(value, f"{record.where}: column {column!r}")


def texts_at(record: Record, column: str) -> tuple[str, ...]:
    """The texts of a column that holds a list of strings, one string, or null (no text).

    A text may itself be a list of strings, as passages come in sentences; they are joined by spaces.

    Raises:
        ValueError: no such column, or something else in it.
    """
    value = lookup(record, column)
    if value is None:
        return ()
    items = (value,) if isinstance(value, str) else value
    texts = [_joined(item) for item in items] if isinstance(items, Sequence) else [None]
    if any(text is None for text in texts):
        raise ValueError(
            f"{record.where}: column {column!r} should hold a text or a list of texts, not {_shown(value)}"
        )
    return tuple(text for text in texts if text is not None)


def _joined(item: object) -> str | None:
    """A text, or the pieces of one, as one text; None where it is neither."""
    pieces = [item] if isinstance(item, str) else item
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        return None
    return " ".join(pieces)


def checked_text(text: str, where: str) -> str:
    """The text, if it is one that a tokenizer takes: not blank, and no half surrogate pairs."""
    if not text.strip():
        raise ValueError(f"{where} is blank ({text!r}); remove the row or give it a text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} is not valid Unicode at character {error.start}: {_shown(text)}") from None
    return text


def _text_records(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
    for number, line in lines:
        if line.strip():
            yield Record({"text": line.rstrip("\r\n")}, name, number)


def _json_records(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"broken JSON ({error.msg} at character {error.colno})"
            raise ValueError(f"{name}, line {number}: {problem}: {_shown(line.strip())}") from None
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, objects nested a thousand deep
            raise ValueError(f"{name}, line {number}: JSON that cannot be read ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f'{name}, line {number}: should be an object like {{"text": "..."}}, not {_shown(row)}')
        yield Record(row, name, number)


def _csv_records(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
    texts = (line for _, line in lines)
    first = list(itertools.islice(texts, 1))
    limit = csv.field_size_limit(min(sys.maxsize, LONGEST_LINE))  # the default, 131,072, is shorter than many documents
    reader = csv.reader(itertools.chain(first, texts), strict=True, delimiter=_delimiter("".join(first)))
    try:
        header: list[str] = next(reader, [])
        if len(set(header)) < len(header):
            raise ValueError(f"{name}, line 1: two columns have the same name: {', '.join(map(repr, header))}")
        start = reader.line_num + 1
        for fields in reader:
            number, start = start, reader.line_num + 1
            if not fields:
                continue
            if len(fields) != len(header):
                raise ValueError(
                    f"{name}, line {number}: {len(fields)} fields, but the header has {len(header)}: {_shown(fields)}"
                )
            yield Record(dict(zip(header, fields, strict=True)), name, number)
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: broken CSV ({error})") from None
    finally:
        csv.field_size_limit(limit)


def _delimiter(header: str) -> str:
    """What parts the fields of a header: a comma, or where it has none outside of quotes, a semicolon or a tab."""
    unquoted = re.sub('"[^"]*"', "", header)
    return next((mark for mark in ",;\t" if mark in unquoted), ",")


def _parquet_records(name: str) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            f"reading {name!r} needs pyarrow: pip install 'textenv[data]', or save it as .jsonl"
        ) from None
    try:
        number = 0
        with pyarrow.parquet.ParquetFile(name) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(row, name, number, "row")
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{name!r} is not a whole parquet file ({error}); write it again") from None


def _lines(name: str) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line. Only "\\n" ends a line: a text may hold U+2028 or U+0085."""
    opened = gzip.open if name.lower().endswith(".gz") else open
    with opened(name, "rb") as stream:
        if opened is open and stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            yield from _wide_lines(name, stream)
            return
        number = 0
        while True:
            number += 1
            try:
                line = stream.readline(LONGEST_LINE + 1)
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise ValueError(
                    f"{name!r} is not a whole gzip file, line {number} ({error}); write it again"
                ) from None
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise ValueError(f"{name}, line {number}: longer than {LONGEST_LINE} bytes; one row a line is expected")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                hint = "it is gzip: name it .gz" if line[:2] == b"\x1f\x8b" else "save the file as UTF-8"
                byte = line[error.start]
                raise ValueError(
                    f"{name}, line {number}: byte {error.start} (0x{byte:02x}) is not UTF-8; {hint}"
                ) from None
            yield number, text


def _wide_lines(name: str, stream: Any) -> Iterator[tuple[int, str]]:
    """The same of UTF-16."""
    with io.TextIOWrapper(stream, "utf-16", newline="\n") as text:
        for number in itertools.count(1):
            try:
                line = text.readline(LONGEST_LINE + 1)
            except UnicodeError as error:
                raise ValueError(f"{name}, line {number}: not whole UTF-16 ({error}); save the file as UTF-8") from None
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise ValueError(f"{name}, line {number}: longer than {LONGEST_LINE} characters; one row a line is expected")
            yield number, line


_repr = reprlib.Repr()  # bounded in depth and length: the value is whatever a file held
_repr.maxstring = _repr.maxother = 60
_repr.maxlevel = _repr.maxlist = _repr.maxdict = 2


def _shown(value: object) -> str:
    """A value for a message: its type where the value does not tell, and not the whole of it."""
    shown = _repr.repr(value)
    return shown if isinstance(value, str) or value is None else f"{type(value).__name__} {shown}"
