"""Marks and statements: what is taken out of a text, and what is read in it."""

import random

import pytest

from textenv.embedded import facts
from textenv.embedded.facts import Relation
from textenv.episode import Span

CITY = Relation("place", ("Rome", "Oslo"), told=("It <moves to {value}>",), read=(r"moves to {value}", r"it moves to {value}"))
COLOUR = Relation(
    "colour", ("red", "blue"), told=("The <{entity} is {value}>",), read=(r"{entity} is {value}",), entities=frozenset({"bed"})
)


def test_marks_are_taken_out_and_say_where_they_were() -> None:
    text, spans = facts.unmarked("A [bed|bad] in [Rome|good].", {"bad": -1.0, "good": 1.0})
    assert text == "A bed in Rome."
    assert spans == (Span(2, 5, -1.0, "bad"), Span(9, 13, 1.0, "good"))


def test_a_template_is_marked_at_its_value_or_as_a_whole() -> None:
    template = "The <{entity} is {value}>"
    assert facts.filled(template, "red", entity="bed") == "The bed is red"
    assert facts.filled(template, "red", "bad", entity="bed") == "The bed is [red|bad]"
    assert facts.filled(template, "red", "bad", whole=True, entity="bed") == "The [bed is red|bad]"


def test_a_statement_is_a_cue_with_a_value_of_its_relation() -> None:
    text = "It moves to ROME, the bed is blue, the pillow is red, it moves to Paris."
    found = facts.statements(text, (CITY, COLOUR))
    assert [(s.relation, s.entity, s.value, text[slice(*s.at)], text[s.begin : s.end]) for s in found] == [
        ("place", "", "Rome", "ROME", "moves to ROME"),
        ("colour", "bed", "blue", "blue", "bed is blue"),
    ]


@pytest.mark.parametrize("text", ["moves to Romes", "removes to", "moves to", "bedis blue", "", "moves\ufffdto Rome"])
def test_half_words_and_missing_values_state_nothing(text: str) -> None:
    assert not facts.statements(text, (CITY, COLOUR))


def test_a_listed_word_is_unknown_where_it_is_not_among_the_known_ones() -> None:
    text = "May may stay in Rome, Bed and bed"
    listed = frozenset({"May", "Rome", "bed"})
    assert [text[a:b] for a, b in facts.unknown_words(text, listed, frozenset({"rome"}))] == ["May", "Bed", "bed"]


def test_a_wrong_value_is_another_one_and_near_ones_come_more_often() -> None:
    rng = random.Random(0)
    relation = Relation("n", tuple("abcdefghij"), told=(), read=())
    drawn = [facts.other_value(rng, relation, "a", {"a", "b"}) for _ in range(400)]
    assert "a" not in drawn
    assert 0.4 < drawn.count("b") / 400 < 0.7
    assert len(set(drawn)) == 9
