"""Labelled text for a classifier: texts and classes from a data file, and how well predicted probabilities fit them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenv.data.records import Record, lookup, read_records, text_at

__all__ = ["area_under_curve", "balanced_weights", "calibration_error", "class_index", "read_labelled", "sentences"]

Example = tuple[str, int]


def read_labelled(path: str, text: str, label: str, classes: Sequence[str], by_sentence: bool = False) -> list[Example]:
    """Texts with their class, each different text once (the first row of it counts).

    Args:
        path: .jsonl, .csv (each also .gz) or .parquet.
        text, label: columns; dots reach into nested ones.
        classes: names of the classes 0, 1, ... A label is the number or the name of one, or true or false, or a list
            (of character offsets, say): class 1 unless it is empty.
        by_sentence: cut each text into sentences; `label` holds character offsets, and a sentence is of class 1 if one
            of them lies in it.

    Raises:
        FileNotFoundError, ValueError: as `read_records`; an unknown label; a class without texts.
    """
    examples: dict[str, int] = {}
    for record in read_records(path):
        words = text_at(record, text)
        value = lookup(record, label)
        if by_sentence:
            offsets = _offsets(value, record, label)
            for start, end in sentences(words):
                examples.setdefault(words[start:end], int(any(start <= offset < end for offset in offsets)))
        else:
            examples.setdefault(words, class_index(value, classes, record, label))
    found = set(examples.values())
    missing = [name for index, name in enumerate(classes) if index not in found]
    if missing:
        raise ValueError(f"{path!r} holds no text labelled {' or '.join(map(repr, missing))} in column {label!r}")
    return list(examples.items())


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each sentence: up to punctuation and the space after it, or to the end of a line.

    >>> text = "You fool! I said 3.50 dollars."
    >>> [text[start:end] for start, end in sentences(text)]
    ['You fool!', 'I said 3.50 dollars.']
    """
    for match in re.finditer(r"[^\s](?:[^.!?\n]|[.!?]+(?=[^\s.!?\"'”’)]))*[.!?]*[\"'”’)]*", text):
        if match.group().strip():
            yield match.span()


def class_index(value: Any, classes: Sequence[str], record: Record, label: str) -> int:
    """The class that a row's label names: by number or name; true or false, or a list that is empty or not, of two.

    Raises:
        ValueError: no such class.
    """
    if isinstance(value, list) and len(classes) == 2:
        return int(bool(value))
    if isinstance(value, str):
        if value in classes:
            return classes.index(value)
        value = int(value) if value.isascii() and value.isdigit() else value
    if isinstance(value, int | float) and value in range(len(classes)):
        return int(value)
    raise ValueError(
        f"{record.where}: column {label!r} holds {value!r:.60}; a label is one of {', '.join(classes)}, "
        f"or a whole number from 0 to {len(classes) - 1}" + (", or a list" if len(classes) == 2 else "")
    )


def _offsets(value: Any, record: Record, label: str) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(offset, int) for offset in value):
        raise ValueError(f"{record.where}: column {label!r} should hold a list of character offsets, not {value!r:.60}")
    return value


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """How often a positive example has the higher score than a negative one, ties counted half (Mann-Whitney).

    >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # mean rank, from 1, of each different score
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    rank_sum = float(rank[inverse][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def calibration_error(
    probability: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64], bins: int = 10
) -> float:
    """Expected calibration error: |mean probability − share of positives| in equal bins, averaged by weight.

    Guo et al. 2017 (arXiv 1706.04599); weighted, for classes that were balanced in training.
    """
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=weights * (probability - positive), minlength=bins)
    return float(np.abs(gaps).sum() / weights.sum())


def balanced_weights(classes: Iterable[int], count: int) -> NDArray[np.float64]:
    """Weight of each class, so that all weigh the same: total / (classes × examples of the class), (count,)."""
    sizes = np.bincount(list(classes), minlength=count)
    weights: NDArray[np.float64] = sizes.sum() / (count * np.maximum(sizes, 1))
    return weights
