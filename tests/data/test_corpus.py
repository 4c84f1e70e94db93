"""Documents and blocks for pretraining."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from textenv.data.corpus import block_batches, encode, pack, read_documents
from textenv.tokenization import byte_tokenizer


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("line", ["a", "b", "c"]), ("paragraph", ["a\nb", "c"]), ("file", ["a\nb\nc"])],
)
def test_a_document_is_a_line_a_paragraph_or_the_file(tmp_path: Path, unit: str, expected: list[str]) -> None:
    path = tmp_path / "t.txt"
    path.write_text("\n\na\nb\n\n\nc\n")
    assert read_documents(str(path), unit=unit) == expected  # type: ignore[arg-type]


def test_a_row_of_a_data_file_is_a_document_whatever_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"body": "one\\n\\ntwo"}\n{"body": "three"}\n')
    assert read_documents(str(path), {"text": "body"}, unit="file") == ["one\n\ntwo", "three"]


def test_an_unknown_unit_and_an_empty_file_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("\n")
    with pytest.raises(ValueError, match="unknown unit 'page' of a document; one of line, paragraph, file"):
        read_documents(str(path), unit="page")  # type: ignore[arg-type]
    for unit in ("line", "paragraph", "file"):
        with pytest.raises(ValueError, match="holds no text"):
            read_documents(str(path), unit=unit)  # type: ignore[arg-type]


def test_documents_end_with_eos_and_blocks_hold_them_without_loss_or_padding() -> None:
    tokenizer = byte_tokenizer()
    rows = list(encode(tokenizer, ["ab", "é"], batch_size=1))
    eos = tokenizer.eos_token_id
    assert rows == [[97, 98, eos], [195, 169, eos]]
    assert pack(rows, 3).tolist() == rows
    assert pack(rows, 4).tolist() == [[97, 98, eos, 195]]


def test_a_tokenizer_without_eos_cannot_separate_documents() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        list(encode(tokenizer, ["ab"]))


def test_every_block_comes_once_an_epoch_and_the_order_follows_the_generator() -> None:
    blocks = torch.arange(8)[:, None]
    drawn = [block_batches(blocks, 4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    first, again, other = [torch.cat([next(batches) for _ in range(4)]).flatten().tolist() for batches in drawn]
    assert first == again != other
    assert sorted(first[:8]) == sorted(first[8:]) == list(range(8))
    assert first[:8] != first[8:]


def test_fewer_blocks_than_a_batch_fill_it_by_coming_twice() -> None:
    (batch,) = [next(block_batches(torch.arange(3)[:, None], 7, torch.Generator()))]
    assert sorted(set(batch.flatten().tolist())) == [0, 1, 2]
    assert batch.shape == (7, 1)
