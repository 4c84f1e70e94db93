"""How lives are told and asked about: the relations of the embedded passages, their questions, their people.

Every name has one pronoun, and a pronoun means the last person named who is called so.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from textenv.embedded import facts, lexicon
from textenv.embedded.facts import Relation

__all__ = [
    "EVERYTHING", "NAMES", "OFF_TOPIC", "QUESTIONS", "RELATIONS", "SHE", "Life", "Question", "pronoun", "with_article",
    "write_passage", "write_question",
]  # fmt: skip

JOB = (
    "actor writer editor waiter cook baker engineer tester manager porter author translator poet mechanic driver singer "
    "drummer pianist teacher student gardener florist pilot sailor"
)
INSTRUMENT = "guitar violin bass drum trumpet flute cello organ piano"
_SHE = (
    "Anna Clara Emma Grace Iris Karen Maria Nina Paula Rosa Uma Wendy Yara Zoe Bella Diana Fiona Hannah Julia Laura Nora "
    "Rachel Tara Alice Daisy Frida"
)
SHE = frozenset(_SHE.split())
NAMES = tuple(lexicon.NAME.split())

RELATIONS = (
    Relation(
        "job",
        tuple(JOB.split()),
        told=("<{who} works as a {value}>", "<{who} is a {value}>", "<{who} became a {value}>"),
        read=(r"(?:works as|is|became) an? {value}",),
    ),
    Relation(
        "city",
        tuple(lexicon.CITY.split()),
        told=("<{who} lives in {value}>", "<{who} moved to {value}>", "<{who} has a flat in {value}>"),
        read=(r"(?:lives in|moved to|has a flat in) {value}",),
    ),
    Relation(
        "birth",
        tuple(lexicon.MONTH.split()),
        told=("<{who} was born in {value}>", "The <birthday of {name} is in {value}>"),
        read=(r"(?:was born|birthday of \w+ is) in {value}",),
    ),
    Relation(
        "instrument",
        tuple(INSTRUMENT.split()),
        told=("<{who} plays the {value}>", "<{who} practises the {value}>"),
        read=(r"(?:plays|practises) the {value}",),
    ),
    Relation(
        "day",
        tuple(lexicon.DAY.split()),
        told=("<{who} is free on {value}>", "<{who} never works on {value}>"),
        read=(r"(?:is free|never works) on {value}",),
    ),
    Relation(
        "relative",
        tuple(lexicon.RELATIVE.split()),
        told=("<{who} travels with a {value}>", "<{who} shares a flat with a {value}>"),
        read=(r"(?:travels|shares a flat) with an? {value}",),
    ),
    Relation(
        "languages",
        tuple(lexicon.NUMBER.split()),
        told=("<{who} speaks {value} languages>", "<{who} knows {value} languages>"),
        read=(r"(?:speaks|knows) {value}(?: languages)?",),
    ),
)
"""`told` in the order of what an answer says first; {who} is a name or a pronoun, {name} a name."""


@dataclass(frozen=True)
class Question:
    """How one fact is asked for, and the words by which a question of several is understood."""

    asked: str  # {who}: name or "she"/"he"; {whom}: name or "her"/"him"
    cue: str


QUESTIONS = {
    "job": Question("what does {who} work as", "work as"),
    "city": Question("where does {who} live", "live"),
    "birth": Question("when was {who} born", "born"),
    "instrument": Question("what does {who} play", "play"),
    "day": Question("when is {who} free", "free"),
    "relative": Question("who travels with {whom}", "travels with"),
    "languages": Question("how many languages does {who} speak", "languages"),
}
EVERYTHING = ("What do we know about {name}?", "What is known about {name}?")

OFF_TOPIC = (
    "The report is quite short.",
    "That was a long time ago.",
    "You could ask again later.",
    "The weather was grey and quiet.",
    "Nobody has checked the list.",
    "It is a good question.",
)


@dataclass(frozen=True)
class Life:
    """One fact of somebody's life."""

    name: str
    relation: Relation
    value: str

    def told(self, way: str, label: str = "", value: str = "", *, who: str = "", whole: bool = False) -> str:
        """A clause, its subject a name or a pronoun."""
        return facts.filled(way, value or self.value, label, whole=whole, name=self.name, who=who or self.name)


def write_passage(rng: random.Random) -> tuple[list[Life], str]:
    """The facts in the order of the text, and the text."""
    people = 2 if rng.random() < 0.6 else 3
    names, told = rng.sample(NAMES, people), list[Life]()
    values = {relation.name: rng.sample(relation.values, people) for relation in RELATIONS}
    for n, name in enumerate(names):
        relations = rng.sample(RELATIONS, rng.randint(3, 4) if people == 2 else rng.randint(2, 3))
        told += [Life(name, relation, values[relation.name][n]) for relation in relations]
    if rng.random() < 0.3:
        rng.shuffle(told)
    text, last = list[str](), ""
    for fact in told:
        who = pronoun(fact.name).capitalize() if fact.name == last and rng.random() < 0.6 else fact.name
        text.append(fact.told(rng.choice(fact.relation.told), who=who) + ".")
        last = fact.name
    return told, with_article(" ".join(text))


def write_question(name: str, relations: Sequence[str]) -> str:
    """A question for these facts about somebody; the first one names them."""
    she = pronoun(name)
    parts = [QUESTIONS[relations[0]].asked.format(who=name, whom=name)]
    parts += [QUESTIONS[r].asked.format(who=she, whom="her" if she == "she" else "him") for r in relations[1:]]
    text = ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1]
    return text[0].upper() + text[1:] + "?"


def pronoun(name: str) -> str:
    """The pronoun of a name, lower case."""
    return "she" if name in SHE else "he"


def with_article(text: str) -> str:
    """The text with "an" for "a" where it has to be, before a mark too."""
    return re.sub(r"\ba (?=\[?[aeiou])", "an ", text)
