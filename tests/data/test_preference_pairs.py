"""Preferences and ratings from files: columns, lists, sources, and every kind of bad row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from textenv.data.preference_pairs import read_pairs, read_rated, split_by_source


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_have_a_prompt_and_two_texts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"prompt": "Who?", "context": ["A.", "B."], "chosen": " He.", "rejected": " It."})
    (pair,), skipped = read_pairs(path)
    assert (pair.prompt.text, pair.prompt.context, pair.chosen, pair.rejected) == ("Who?", ("A.", "B."), " He.", " It.")
    assert skipped == 0


def test_lists_of_texts_are_combined_and_the_pairs_of_a_row_are_one_source(tmp_path: Path) -> None:
    rows = [{"toxic": "fool", "neutral": ["friend", "person"]}, {"toxic": "liar", "neutral": ["friend"]}]
    rows += [{"toxic": "x", "neutral": []}]
    pairs, _ = read_pairs(written(tmp_path / "a.jsonl", *rows), {"chosen": "neutral", "rejected": "toxic"})
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("friend", "fool"), ("person", "fool"), ("friend", "liar")]
    assert pairs[0].source == pairs[1].source != pairs[2].source
    assert pairs[0].prompt.text == ""


def test_a_pair_of_equal_texts_is_an_error_or_skipped(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"chosen": "a", "rejected": "b"}, {"chosen": "same", "rejected": "same "})
    with pytest.raises(ValueError, match=r"line 2: chosen and rejected are the same text \('same'\)"):
        read_pairs(path)
    pairs, skipped = read_pairs(path, equal="skip")
    assert (len(pairs), skipped) == (1, 1)


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"chosen": "a"}, {}, "no column 'rejected'; the columns that exist: 'chosen'"),
        ({"chosen": "a", "rejected": " "}, {}, "is blank"),
        ({"chosen": None, "rejected": "b"}, {}, "column 'chosen' holds null"),
        ({"chosen": [], "rejected": "b"}, {}, "holds no pair of different texts"),
        ({"chosen": 3, "rejected": "b"}, {}, "should hold a text or a list of texts"),
        ({"chosen": "a", "rejected": "b"}, {"prompt": "question"}, "no column 'question'"),
        ({"chosen": "a", "rejected": "b"}, {"better": "chosen"}, r"unknown fields ['better']"),
        ({"chosen": [{"role": "user", "content": "a"}], "rejected": "b"}, {}, "should hold a text or a list of texts"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_pairs(written(tmp_path / "a.jsonl", row), columns)
    assert message in str(caught.value)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no pair"):
        read_pairs(written(tmp_path / "a.jsonl"))
    with pytest.raises(ValueError, match="holds no text"):
        read_rated(written(tmp_path / "a.jsonl"))


def test_scores_and_classes_are_values(tmp_path: Path) -> None:
    rows = [{"text": "a", "score": 1, "label": "toxic"}, {"text": "b", "score": "2.5", "label": 0}]
    path = written(tmp_path / "a.jsonl", *rows)
    assert [row.value for row in read_rated(path)] == [1.0, 2.5]
    assert [row.value for row in read_rated(path, classes=["civil", "toxic"])] == [1.0, 0.0]
    assert [row.value for row in read_rated(path, {"value": "label"}, classes=["civil", "toxic"])] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        ([{"text": "a", "label": 1}, {"text": "b", "label": 1}], ["civil", "toxic"], "holds no text labelled 'civil'"),
        ([{"text": "a", "label": "rude"}], ["civil", "toxic"], "a label is one of civil, toxic"),
        ([{"text": "a", "score": "many"}], None, "should hold a finite number, not 'many'"),
        ([{"text": "a", "score": True}], None, "should hold a finite number, not True"),
        ([{"text": "a", "score": 1e400}], None, "should hold a finite number"),
        ([{"text": "a", "score": 2}, {"text": "b", "score": 2}], None, "all scores in column 'score' are 2"),
    ],
)
def test_bad_ratings_are_named(tmp_path: Path, rows: list[dict[str, Any]], classes: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_rated(written(tmp_path / "a.jsonl", *rows), classes=classes)
    assert message in str(caught.value)


def test_no_source_is_on_both_sides_of_the_split(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i % 10}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(50)]
    pairs, _ = read_pairs(written(tmp_path / "a.jsonl", *rows))
    train, test = split_by_source(pairs, 0.2, torch.Generator().manual_seed(0))
    assert len(train) == 40
    assert len(test) == 10
    assert not {pair.prompt.text for pair in train} & {pair.prompt.text for pair in test}
    assert len(split_by_source(pairs, 0.9, torch.Generator().manual_seed(0), most=2)[1]) == 10


def test_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(5)]
    pairs, _ = read_pairs(written(tmp_path / "a.jsonl", *rows))
    with pytest.raises(ValueError, match="all rows have one prompt"):
        split_by_source(pairs, 0.2, torch.Generator())
