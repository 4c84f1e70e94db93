"""From text files to blocks of tokens for pretraining: documents, an end-of-text token after each, cut to equal length.

Nothing is padded and no token is lost but the last incomplete block; a block may begin within a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from textenv.data.prompts import load_prompts
from textenv.data.records import file_format, read_records

__all__ = ["Unit", "block_batches", "encode", "pack", "read_documents"]

Unit = Literal["line", "paragraph", "file"]


def read_documents(path: str, columns: Mapping[str, str] | None = None, unit: Unit = "line") -> list[str]:
    """The documents of a text or data file.

    Args:
        path: .txt, .jsonl or .csv (each also .gz), or .parquet. A row of a data file is a document; its text column is
            found as in `load_prompts`.
        columns: e.g. `{"text": "prompt.text"}`.
        unit: what a document is in a .txt: a line, a paragraph (lines up to a blank one), or all of it.

    Raises:
        FileNotFoundError, ValueError: as `load_prompts`; an unknown unit.
    """
    if unit not in get_args(Unit):
        raise ValueError(f"unknown unit {unit!r} of a document; one of {', '.join(get_args(Unit))}")
    if next(read_records(path), None) is None:
        raise ValueError(f"{path!r} holds no text")
    if unit == "line" or not file_format(path).startswith(".txt"):
        return [prompt.text for prompt in load_prompts(Path(path), columns)]
    documents: list[list[str]] = [[]]
    last = 0
    for record in read_records(path):
        if unit == "paragraph" and documents[-1] and record.number > last + 1:  # blank lines are no records
            documents.append([])
        documents[-1].append(record.row["text"])
        last = record.number
    return ["\n".join(lines) for lines in documents]


def encode(tokenizer: Any, documents: Sequence[str], batch_size: int = 1000) -> Iterator[list[int]]:
    """Ids of each document, then EOS.

    Raises:
        ValueError: the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token, so that no document could end; set tokenizer.eos_token")
    for first in range(0, len(documents), batch_size):
        texts = list(documents[first : first + batch_size])
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            yield [*ids, tokenizer.eos_token_id]


def pack(rows: Iterator[list[int]] | Sequence[list[int]], length: int) -> Tensor:
    """Token lists one after the other, cut into blocks: (blocks, length) int64.

    >>> pack([[1, 2, 0], [3, 0], [4, 5, 0]], length=3).tolist()
    [[1, 2, 0], [3, 0, 4]]
    """
    flat = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return flat[: len(flat) // length * length].reshape(-1, length)


def block_batches(blocks: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches (batch_size, length) without end: every block once, in a new order each time round."""
    while True:
        order = torch.randperm(len(blocks), generator=generator)
        order = order.repeat(-(-batch_size // len(blocks)))  # fewer blocks than a batch: some come twice
        for first in range(0, len(order) - batch_size + 1, batch_size):
            yield blocks[order[first : first + batch_size]]
