"""Marks of every documented shape are read as spans, and wrong ones are refused by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from textenv import Span
from textenv.data.marked_texts import read_marked_texts


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("marks", "spans"),
    [
        ([4, 5, 6, 10], [(4, 7), (10, 11)]),
        ([6, 4, 5, 5], [(4, 7)]),
        ([[4, 10], [0, 3]], [(4, 10), (0, 3)]),
        ([{"start": 4, "end": 10, "label": "insult"}], [(4, 10)]),
        (["OK", "BAD", "ok", "OK"], [(4, 10)]),
        ([], []),
        (None, []),
    ],
)
def test_marks_of_every_shape_are_spans(tmp_path: Path, marks: Any, spans: list[tuple[int, int]]) -> None:
    (found,) = read_marked_texts(written(tmp_path / "a.jsonl", {"text": "you weasél , old", "spans": marks}))
    assert found.spans is not None
    assert [(span.start, span.end) for span in found.spans] == spans
    assert all(span.reward == -1.0 for span in found.spans)


def test_a_file_without_marks_says_nothing(tmp_path: Path) -> None:
    (found,) = read_marked_texts(written(tmp_path / "a.jsonl", {"text": "you"}))
    assert found.spans is None


def test_columns_name_every_field_and_passages_are_joined(tmp_path: Path) -> None:
    row = {
        "question": "Who?", "prediction 1": "He did it.", "passages": [["Title", "One.", "Two."], ["Other"]], "gold": "She did.",
        "feedback": {"errors": [{"error type": "Wrong-Grounding", "start": 0, "end": 2}]},
    }  # fmt: skip
    columns = {"text": "prediction 1", "spans": "feedback.errors", "prompt": "question", "context": "passages"}
    columns |= {"references": "gold"}
    (found,) = read_marked_texts(written(tmp_path / "a.jsonl", row), columns)
    assert (found.prompt.text, found.prompt.context, found.prompt.references) == (
        "Who?", ("Title One. Two.", "Other"), ("She did.",),
    )  # fmt: skip
    assert found.spans == (Span(0, 2, -1.0, "Wrong-Grounding"),)


def test_a_csv_holds_marks_as_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,spans\nyou weasel,"[4, 5]"\nfine,[]\n')
    assert [found.spans for found in read_marked_texts(path)] == [(Span(4, 6, -1.0),), ()]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "you", "spans": [2, 3]}, "line 1: column 'spans' marks characters 2 to 4 of a text of 3"),
        ({"text": "you two", "spans": ["OK"]}, "holds 1 tags for a text of 2 words"),
        ({"text": "you", "spans": ["GOOD"]}, "should hold character offsets"),
        ({"text": "you", "spans": [[2, 1]]}, "with begin < end"),
        ({"text": "you", "spans": [[1, 2, 3]]}, "should hold character offsets"),
        ({"text": "you", "spans": [True]}, "should hold character offsets"),
        ({"text": "you", "spans": 3}, "should hold character offsets"),
        ({"text": "you", "spans": "oops"}, "should hold marks as JSON"),
        ({"spans": []}, "no column 'text'"),
    ],
)
def test_wrong_marks_are_refused_by_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="line 1") as caught:
        read_marked_texts(written(tmp_path / "a.jsonl", row))
    assert message in str(caught.value)


def test_an_empty_file_and_an_unknown_field_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no text"):
        read_marked_texts(written(tmp_path / "a.jsonl"))
    with pytest.raises(ValueError, match=r"unknown fields \['label'\]"):
        read_marked_texts(written(tmp_path / "a.jsonl"), {"label": "x"})
