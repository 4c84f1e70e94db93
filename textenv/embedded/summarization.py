"""Notices and their summaries: documents with key and side facts, written by rule, so that every word's truth is known.

    Here is a note about the wooden hotel near the beach. The hotel will move to London. Anna photographed the balcony.
    It will open on Monday. The pillow was painted blue.
    Summary: The hotel moves to London and opens on Monday.

What will happen to the subject is key ("will move to", "will open on", …: two or three facts a document), what has been is not
("was painted", "photographed", "last week": two to four). The wording tells them apart, not the place. A city, a name or a
number may be the value of a key fact and of a side fact of one document.

The truth about a summary is read off by scanning it and the document; any text can be scanned:

    key fact     +1    the value of a key fact as the document has it, the first time
    unsupported  −1    a value that the document does not give to this relation; or, outside any statement, a noun, name,
                       place or number that the document does not hold at all (another subject, for instance)
    side fact    −0.5  a side fact as the document has it, from its cue to its value
    repeated     −0.5  a key fact that was stated before

    quality = (1 + Σ reward / number of key facts) / 2, cut to [0, 1]

1 is a summary with every key fact and no mistake, ½ says nothing or as much that is wrong as is right, 0 is wrong throughout; a
mistake lowers it at its own place, wherever it stands. Grammar is not judged, and a relation is attributed to the subject
whatever noun stands before it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from textenv.embedded import facts, lexicon
from textenv.embedded.domains import DOMAINS
from textenv.embedded.examples import Example
from textenv.embedded.facts import Relation, Statement
from textenv.embedded.notices import KEY, NOUNS, OPENINGS, SIDE, SIZES
from textenv.episode import Prompt, Span
from textenv.segments import sentences

__all__ = ["coverage", "is_embedded", "quality", "sample", "sentence_verdicts", "truth_spans", "vocabulary"]

REWARDS = {"key fact": 1.0, "unsupported": -1.0, "side fact": -0.5, "repeated": -0.5}
_RELATIONS = (*KEY, *SIDE)
_KEY_NAMES = frozenset(relation.name for relation in KEY)
_LISTED = frozenset[str]().union(*NOUNS.values(), *(relation.values for relation in _RELATIONS))
_SUBJECT = re.compile(
    r"^(?:Here is a note|There is news|This note is) about the (?:[a-z]+ )?(" + "|".join(sorted(NOUNS["thing"])) + r")\b"
)


# ------------------------------------------------------------------------------------------------------------- the truth


@dataclass(frozen=True)
class _Known:
    """What a document says: (relation, entity) → value, and its words."""

    stated: dict[tuple[str, str], str]
    words: frozenset[str]
    key: int  # number of key facts


@lru_cache(maxsize=20_000)
def _read(document: str) -> _Known | None:
    """The facts of a document; None where it is not of this world."""
    if not _SUBJECT.match(document):
        return None
    stated = {(s.relation, s.entity): s.value for s in facts.statements(document, _RELATIONS)}
    key = sum(relation in _KEY_NAMES for relation, _ in stated)
    return _Known(stated, facts.words_of(document), key) if key else None


def is_embedded(prompt: Prompt) -> bool:
    """Whether the prompt's text is a document of this world, so that the truth about its summaries is known."""
    return _read(prompt.text) is not None


def _known(prompt: Prompt) -> _Known:
    known = _read(prompt.text)
    if known is None:
        raise ValueError(f"nothing is known about {prompt.text[:80]!r}: it is no document of the embedded world")
    return known


def truth_spans(prompt: Prompt, text: str) -> list[Span]:
    """What is right and wrong in a summary, in order; see the module's head.

    Raises:
        ValueError: the prompt is no document of this world.

    >>> document = "There is news about the hotel near the beach. It will move to Rome. The pillow was painted blue."
    >>> text = " The hotel moves to Paris. The pillow was painted blue."
    >>> [(text[s.start : s.end], s.label) for s in truth_spans(Prompt(document), text)]
    [('Paris', 'unsupported'), ('pillow was painted blue', 'side fact')]
    """
    known, spans, seen = _known(prompt), list[Span](), set[str]()
    for statement in facts.statements(text, _RELATIONS):
        label, (start, end) = _verdict(statement, known, seen), statement.at
        if label == "side fact":
            start, end = statement.begin, statement.end
        spans.append(Span(start, end, REWARDS[label], label))
    for start, end in facts.unknown_words(text, _LISTED, known.words):
        if not any(start < span.end and span.start < end for span in spans):
            spans.append(Span(start, end, REWARDS["unsupported"], "unsupported"))
    return sorted(spans, key=lambda span: span.start)


def _verdict(statement: Statement, known: _Known, seen: set[str]) -> str:
    if known.stated.get((statement.relation, statement.entity)) != statement.value:
        return "unsupported"
    if statement.relation not in _KEY_NAMES:
        return "side fact"
    if statement.relation in seen:
        return "repeated"
    seen.add(statement.relation)
    return "key fact"


def quality(prompt: Prompt, text: str) -> float:
    """How good a summary is, in [0, 1]: (1 + the sum of `truth_spans` over the number of key facts) / 2, cut to [0, 1]."""
    return facts.graded(truth_spans(prompt, text), _known(prompt).key)


def coverage(prompt: Prompt, text: str) -> float:
    """The share of the document's key facts that the text states."""
    return sum(span.label == "key fact" for span in truth_spans(prompt, text)) / _known(prompt).key


def sentence_verdicts(prompt: Prompt, text: str) -> list[Span]:
    """For each sentence +1, "supported": it states something and nothing that is wrong; else −1, "unsupported"."""
    spans = truth_spans(prompt, text)
    wrong = [span.start for span in spans if span.label == "unsupported"]
    return facts.verdicts(sentences(text), [span.start for span in spans], wrong, "supported", "unsupported")


# --------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Fact:
    relation: Relation
    value: str
    way: str  # the template by which the document tells it
    fields: dict[str, str]  # entity, role, did, thing

    def told(self, label: str = "", value: str = "", *, whole: bool = False, subject: str = "") -> str:
        """A sentence of a document, without its full stop."""
        return facts.filled(self.way, value or self.value, label, whole=whole, Subject=subject, **self.fields)

    def said(self, rng: random.Random | None, label: str = "", value: str = "") -> str:
        """What a summary says of the subject; without `rng` in the first way."""
        template = rng.choice(self.relation.said) if rng else self.relation.said[0]
        return facts.filled(template, value or self.value, label)


@dataclass(frozen=True)
class _Care:
    """How a writer errs: chances for each key fact (missed, wrong) and for each summary (a side fact, …)."""

    missed: float
    wrong: float
    side: float
    repeated: float
    subject: float


_CARES = ((0.20, _Care(0.02, 0.03, 0.03, 0.01, 0.0)), (0.45, _Care(0.20, 0.30, 0.40, 0.10, 0.03)),
          (0.35, _Care(0.35, 0.60, 0.70, 0.15, 0.10)))  # fmt: skip


def sample(rng: random.Random) -> Example:
    """A document and a summary by a writer of hidden care: every fifth is a careful one."""
    key, side, document = _document(rng)
    things = _domain_of(key[0].fields["thing"])["thing"].split()
    text, spans = facts.unmarked(" " + _summary(rng, key, side, things), REWARDS)
    return Example(Prompt(document, references=_references(rng, key)), text, spans)


def _domain_of(thing: str) -> dict[str, str]:
    return next(slots for slots in DOMAINS.values() if thing in slots["thing"].split())


def _document(rng: random.Random) -> tuple[list[_Fact], list[_Fact], str]:
    """The key facts in the document's order, the side facts, and the text."""
    slots = {kind: words.split() for kind, words in DOMAINS[facts.drawn(rng, list(DOMAINS))].items()}
    common = {kind: facts.drawn(rng, slots[kind], 0.9) for kind in ("thing", "place", "did")}
    neutral = facts.drawn(rng, lexicon.NEUTRAL.split())
    wanted = rng.sample(KEY, rng.randint(*SIZES["key"]))
    key = [_Fact(relation, rng.choice(relation.values), rng.choice(relation.told), common) for relation in wanted]
    side, parts = list[_Fact](), set[str]()
    for relation in rng.sample(SIDE, rng.randint(*SIZES["side"])):
        entity = facts.drawn(rng, [part for part in slots["part"] if part not in parts])
        parts.add(entity)
        value = rng.choice([v for v in relation.values if v not in {f.value for f in key}])
        fields = {**common, "entity": entity, "role": facts.drawn(rng, slots["role"])}
        side.append(_Fact(relation, value, rng.choice(relation.told), fields))
    order = [*key, *side]
    rng.shuffle(order)
    lines, clear = [rng.choice(OPENINGS).format(neutral=neutral, **common)], True
    for fact in order:
        subject = "It" if clear and rng.random() < 0.6 else f"The {fact.fields['thing']}"
        lines.append(fact.told(subject=subject) + ".")
        clear = fact.relation.name in _KEY_NAMES  # "It" after a side fact would be the balcony
    return [fact for fact in order if fact in key], side, " ".join(lines)


def _joined(subject: str, clauses: list[str], cut: int) -> str:
    """Clauses about the subject in one sentence, or in two, cut before clause `cut`."""
    lines = []
    for start, part in ((subject, clauses[:cut]), ("It", clauses[cut:])):
        if part:
            lines.append(f"{start} " + (", ".join(part[:-1]) + " and " if part[1:] else "") + part[-1] + ".")
    return " ".join(lines)


def _references(rng: random.Random, key: list[_Fact]) -> tuple[str, ...]:
    """The key facts in the document's order in the first ways, and two paraphrases."""
    subject, turned = f"The {key[0].fields['thing']}", key[::-1]
    return (
        _joined(subject, [fact.said(None) for fact in key], len(key)),
        _joined(subject, [fact.said(rng) for fact in key], 1),
        _joined(subject, [fact.said(rng) for fact in turned], len(key)),
    )


def _summary(rng: random.Random, key: list[_Fact], side: list[_Fact], things: list[str]) -> str:
    """A summary with its marks."""
    care = rng.choices([care for _, care in _CARES], [share for share, _ in _CARES])[0]
    subject = f"The {key[0].fields['thing']}"
    if rng.random() < care.subject:
        subject = f"The [{rng.choice([t for t in things if t != key[0].fields['thing']])}|unsupported]"
    near = {fact.value for fact in (*key, *side)}
    right, clauses = list[_Fact](), list[str]()
    kept = [fact for fact in key if rng.random() >= care.missed] or [rng.choice(key)]
    if rng.random() < 0.25:
        rng.shuffle(kept)
    for fact in kept:
        if rng.random() < care.wrong:
            clauses.append(fact.said(rng, "unsupported", facts.other_value(rng, fact.relation, fact.value, near)))
        else:
            clauses.append(fact.said(rng, "key fact"))
            right.append(fact)
    text = _joined(subject, clauses, rng.choice([1, len(clauses), len(clauses)]))
    if rng.random() < care.side:
        fact = rng.choice(side)
        wrong = rng.random() < care.wrong
        value = facts.other_value(rng, fact.relation, fact.value, near) if wrong else ""
        text += " " + fact.told("unsupported" if wrong else "side fact", value, whole=not wrong) + "."
    elif right and rng.random() < care.repeated:
        text += f" The {key[0].fields['thing']} " + rng.choice(right).said(rng, "repeated") + "."
    return text


# --------------------------------------------------------------------------------------------------------------- wording


def vocabulary() -> list[str]:
    """Every word form that a document or a summary can hold, as it begins a sentence too, sorted."""
    templates = [*OPENINGS, *(t for relation in _RELATIONS for t in (*relation.told, *relation.said))]
    words = facts.template_words(templates) | {"It", "The", "and"} | set(lexicon.NEUTRAL.split())
    words |= {w for relation in _RELATIONS for w in relation.values}
    words |= {w for slots in DOMAINS.values() for kind in slots for w in slots[kind].split()}
    return sorted(words)
