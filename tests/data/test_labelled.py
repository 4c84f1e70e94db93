"""Labels in the shapes that data comes in, sentences, and two measures against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from textenv.data.labelled import area_under_curve, balanced_weights, calibration_error, read_labelled, sentences

CIVIL_TOXIC = ("civil", "toxic")


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("civil", "toxic"), [(0, 1), (0.0, 1.0), (False, True), ("0", "1"), ("civil", "toxic"), ([], [3, 4])])
def test_a_label_is_a_number_a_name_a_truth_or_a_list(tmp_path: Path, civil: object, toxic: object) -> None:
    path = write(tmp_path / "d.jsonl", {"text": "a", "y": civil}, {"text": "b", "y": toxic}, {"text": "a", "y": toxic})
    assert read_labelled(path, "text", "y", CIVIL_TOXIC) == [("a", 0), ("b", 1)]  # a text once, as it came first


@pytest.mark.parametrize("label", [2, -1, 0.5, "rude", None, {}])
def test_an_unknown_label_is_an_error_with_its_line(tmp_path: Path, label: object) -> None:
    path = write(tmp_path / "d.jsonl", {"text": "a", "y": 0}, {"text": "b", "y": label})
    message = r"line 2: column 'y' holds .*; a label is one of civil, toxic, or a whole number from 0 to 1, or a list"
    with pytest.raises(ValueError, match=message):
        read_labelled(path, "text", "y", CIVIL_TOXIC)


def test_a_class_without_texts_cannot_be_learned(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"text": "a", "y": 0})
    with pytest.raises(ValueError, match="holds no text labelled 'toxic' in column 'y'"):
        read_labelled(path, "text", "y", CIVIL_TOXIC)


def test_offsets_label_the_sentences_they_lie_in(tmp_path: Path) -> None:
    text = "Good morning. You fool! Bye."
    path = write(tmp_path / "d.jsonl", {"text": text, "y": [18, 19, 20, 21]})
    expected = [("Good morning.", 0), ("You fool!", 1), ("Bye.", 0)]
    assert read_labelled(path, "text", "y", CIVIL_TOXIC, by_sentence=True) == expected
    with pytest.raises(ValueError, match="line 1: column 'y' should hold a list of character offsets, not 1"):
        read_labelled(write(tmp_path / "e.jsonl", {"text": text, "y": 1}), "text", "y", CIVIL_TOXIC, by_sentence=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two", ["One.", "Two"]),
        ("What?! No...\nYes", ["What?!", "No...", "Yes"]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("3.50 is not www.example.com", ["3.50 is not www.example.com"]),
        ("  spaced  ", ["spaced"]),
        ("...", ["..."]),
        ("", []),
    ],
)
def test_sentences_end_with_punctuation_or_the_line(text: str, expected: list[str]) -> None:
    assert [text[start:end].strip() for start, end in sentences(text)] == expected


def test_a_text_of_punctuation_is_cut_in_linear_time() -> None:
    assert len(list(sentences("a." * 50_000 + "!" * 50_000))) <= 2


def test_the_area_under_the_curve_counts_pairs_and_halves_ties() -> None:
    positive = np.array([True, True, False, False])
    assert area_under_curve(np.array([0.9, 0.8, 0.2, 0.1]), positive) == 1.0
    assert area_under_curve(np.array([0.5, 0.5, 0.5, 0.5]), positive) == 0.5
    assert area_under_curve(np.array([0.9, 0.2, 0.2, 0.1]), positive) == (1 + 1 + 0.5 + 1) / 4
    assert np.isnan(area_under_curve(np.array([0.5]), np.array([True])))


def test_calibration_compares_the_mean_probability_with_the_share_in_each_bin() -> None:
    probability, positive = np.array([0.05, 0.05, 0.95, 0.95]), np.array([False, False, True, False])
    weights = np.ones(4)
    assert calibration_error(probability, positive, weights) == pytest.approx((0.1 + 0.9) / 4)
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True]), np.ones(2)) == 0.0


def test_balanced_weights_give_each_class_the_same_sum() -> None:
    weights = balanced_weights([0, 1, 1, 1], 2)
    assert weights.tolist() == [2.0, pytest.approx(2 / 3)]
