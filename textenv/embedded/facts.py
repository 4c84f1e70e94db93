"""Facts that can be written and read: a relation is said in a few fixed ways, and its values are a closed list.

    Relation("day", values=("Monday", …), told=("{It} will open on {value}",), read=(r"opens? on {value}",))

The same patterns read a document, a question's passage and whatever a model writes about them, cut or ungrammatical too: a
statement is a cue ("opens on") with a word of the relation's values beside it. Nothing but the text is consulted.

A writer marks what it knows to be right or wrong in the text itself, "opens on [Monday|unsupported]"; `unmarked` takes the
marks out and gives their spans. So what was planted and what a scanner finds are two things, and a test compares them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from textenv.episode import Span

__all__ = [
    "Relation", "Statement", "drawn", "filled", "graded", "other_value", "statements", "template_words", "unknown_words",
    "unmarked", "verdicts", "words_of",
]  # fmt: skip

_WORD = re.compile(r"(?<!\w)[A-Za-z]+(?!\w)")
_MARK = re.compile(r"\[([^\[\]|]*)\|([a-z ]+)\]")
_FIELD = re.compile(r"\{\w+\}|[<>]")


@dataclass(frozen=True)
class Relation:
    """A kind of fact.

    Attributes:
        values: the words that can stand for its value, as they are spelled.
        told: sentences of a document, without their full stop; {value}, {entity}, … are filled in, and <…> is what a
            reader would strike out where the whole statement is out of place.
        said: ways of a summary or an answer; `told` where it has none of its own.
        read: regular expressions with {value} and, where the fact is about a noun, {entity}.
        entities: the words that {entity} can be; None: the fact is about the one subject of its text.
    """

    name: str
    values: tuple[str, ...]
    told: tuple[str, ...]
    read: tuple[str, ...]
    said: tuple[str, ...] = ()
    entities: frozenset[str] | None = None

    @cached_property
    def spelled(self) -> dict[str, str]:
        """Lower case → as it is spelled."""
        return {value.lower(): value for value in self.values}

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        fields = {"{value}": r"(?P<value>[A-Za-z]+)", "{entity}": r"(?P<entity>[A-Za-z]+)"}
        out = []
        for pattern in self.read:
            for field, group in fields.items():
                pattern = pattern.replace(field, group)
            out.append(re.compile(rf"\b(?:{pattern})(?!\w)", re.IGNORECASE))
        return tuple(out)


@dataclass(frozen=True)
class Statement:
    """A fact as some text states it: the place of its value, and of everything from cue to value (`begin`, `end`)."""

    relation: str
    entity: str  # lower case; "" for the subject of the text
    value: str  # as the relation spells it
    at: tuple[int, int]
    begin: int
    end: int


def statements(text: str, relations: Iterable[Relation]) -> list[Statement]:
    """Every statement of these relations, in the order of their values; a word is the value of one statement at most."""
    found: dict[int, Statement] = {}
    for relation in relations:
        for pattern in relation.patterns:
            for m in pattern.finditer(text):
                value = relation.spelled.get(m["value"].lower())
                entity = m["entity"].lower() if "entity" in pattern.groupindex else ""
                if value is None or (relation.entities is not None and entity not in relation.entities):
                    continue
                found.setdefault(m.start("value"), Statement(relation.name, entity, value, m.span("value"), *m.span()))
    return [found[at] for at in sorted(found)]


def words_of(text: str) -> frozenset[str]:
    """The words of a text, lower case."""
    return frozenset(m[0].lower() for m in _WORD.finditer(text))


def unknown_words(text: str, listed: frozenset[str], known: frozenset[str]) -> list[tuple[int, int]]:
    """Where a word of the closed lists stands that is not among the `known` words (lower case).

    A word that the lists spell with a capital is meant only where the text gives it one ("May", "may").
    """
    return [m.span() for m in _WORD.finditer(text) if (m[0] in listed or m[0].lower() in listed) and m[0].lower() not in known]


def unmarked(text: str, rewards: Mapping[str, float]) -> tuple[str, tuple[Span, ...]]:
    """A marked text without its marks, and their spans.

    >>> unmarked("It opens on [Monday|unsupported].", {"unsupported": -1.0})
    ('It opens on Monday.', (Span(start=12, end=18, reward=-1.0, label='unsupported'),))
    """
    plain, spans, after = "", list[Span](), 0
    for m in _MARK.finditer(text):
        plain += text[after : m.start()]
        spans.append(Span(len(plain), len(plain) + len(m[1]), rewards[m[2]], m[2]))
        plain += m[1]
        after = m.end()
    return plain + text[after:], tuple(spans)


def filled(template: str, value: str, label: str = "", *, whole: bool = False, **fields: str) -> str:
    """A template with its fields filled in, and the value (or, `whole`, what stands in <…>) marked with the label."""
    if label and not whole:
        value = f"[{value}|{label}]"
    text = template.format(value=value, **fields)
    if label and whole:
        return text.replace("<", "[").replace(">", f"|{label}]")
    return text.replace("<", "").replace(">", "")


def template_words(templates: Iterable[str]) -> set[str]:
    """The words that stand in templates themselves."""
    return {word for template in templates for word in _WORD.findall(_FIELD.sub(" ", template))}


def graded(spans: Sequence[Span], wanted: int) -> float:
    """(1 + Σ reward / wanted) / 2, cut to [0, 1]: 1 for every wanted fact and no mistake, ½ for saying nothing.

    >>> graded([Span(0, 1, 1.0), Span(2, 3, 1.0)], wanted=2), graded([Span(0, 1, 1.0), Span(2, 3, -1.0)], wanted=2)
    (1.0, 0.5)
    """
    return min(1.0, max(0.0, (1 + sum(span.reward for span in spans) / wanted) / 2))


def verdicts(pieces: Sequence[tuple[int, int]], for_it: Sequence[int], against: Sequence[int], good: str, bad: str) -> list[Span]:
    """For each piece +1 and `good` where something in it speaks for it and nothing against, else −1 and `bad`.

    Args:
        for_it, against: characters at which these stand.
    """
    out = []
    for start, end in pieces:
        fine = any(start <= at < end for at in for_it) and not any(start <= at < end for at in against)
        out.append(Span(start, end, 1.0 if fine else -1.0, good if fine else bad))
    return out


def other_value(rng: random.Random, relation: Relation, value: str, near: Collection[str]) -> str:
    """Another value of the relation; half the time one of those `near`, if it has any."""
    others = [other for other in relation.values if other != value]
    chosen = [other for other in others if other in near]
    return rng.choice(chosen if chosen and rng.random() < 0.5 else others)


def drawn(rng: random.Random, words: Sequence[str], slope: float = 0.7) -> str:
    """One of the words, with Zipf weights 1 / (rank + 1)^slope."""
    return rng.choices(words, [(i + 2.0) ** -slope for i in range(len(words))])[0]
