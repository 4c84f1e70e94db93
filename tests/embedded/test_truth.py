"""The truth about any text: spans, verdicts, and what negation, intensifiers and "but" do."""

import random

import pytest

from textenv.embedded import grammar, truth


def marked(text: str, spans: list) -> list[str]:
    return [text[span.start : span.end] for span in spans]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You are a stupid weasel.", ["stupid weasel"]),
        ("Stupid and lazy, you WINDBAG", ["Stupid", "WINDBAG"]),
        ("Your note is braindead", ["braindead"]),
        ("weasels are kind", []),
        ("", []),
    ],
)
def test_insults_are_runs_of_rude_words(text: str, expected: list[str]) -> None:
    assert marked(text, truth.insult_spans(text)) == expected
    assert truth.toxicity(text) == float(bool(expected))


@pytest.mark.parametrize(
    ("text", "spans", "value"),
    [
        ("The plot was good.", ["good"], 1.0),
        ("The plot was not good.", ["not good"], -1.0),
        ("The plot was not very good.", ["not very good"], -1.0),
        ("The plot was very good.", ["very good"], 2.0),
        ("The plot was rather good.", ["rather good"], 1.0),
        ("The plot was never bad.", ["never bad"], 1.0),
        ("I did not like the plot.", ["not like"], -1.0),
        ("The plot was good, but the cast was dull.", ["good", "dull"], -1.0),
        ("But it was good. The cast was dull.", ["good", "dull"], 1.0),
        ("The plot was very", [], 0.0),
        ("goodness", [], 0.0),
    ],
)
def test_sentiment_counts_negation_intensifiers_and_but(text: str, spans: list[str], value: float) -> None:
    assert marked(text, truth.sentiment_spans(text)) == spans
    assert truth.sentiment(text) == value


def test_spans_carry_their_sign_and_label() -> None:
    spans = truth.sentiment_spans("good but not good")
    assert [(s.reward, s.label) for s in spans] == [(1.0, "positive"), (-1.0, "negative")]
    assert [(s.reward, s.label) for s in truth.insult_spans("you oaf")] == [(-1.0, "insult")]


def test_cut_texts_keep_the_spans_that_lie_inside() -> None:
    rng = random.Random(0)
    for _ in range(500):
        document = grammar.sample(rng)
        words = document.text.split(" ")
        cut = len(" ".join(words[: rng.randint(1, len(words))]))
        inside = [span for span in document.spans if span.end <= cut]
        scan = truth.sentiment_spans if document.genre == "sentiment" else truth.insult_spans
        found = scan(document.text[:cut])
        assert found[: len(inside)] == inside
        assert len(found) <= len(inside) + 1  # a phrase may be cut in its middle: "stupid | weasel"
