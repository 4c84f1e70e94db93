"""Passages about people, questions about one of them, and long answers whose every sentence is supported or not.

    Anna works as a pilot. She lives in Rome. Ben was born in May. Anna plays the cello. He lives in Oslo. …
    Question: Where does Anna live and what does she play?
    Answer: Anna lives in Rome. She plays the cello.

A passage has six to nine sentences about two or three people; a question asks for all that it says of one of them or for two
or three of those facts. The truth about an answer is read off by scanning it, the passage and the question:

    supported    +1    the value of a fact that was asked for, as the passage has it, the first time
    unsupported  −1    a value that the passage does not give; or, outside any statement, a name, place, … that neither the
                       passage nor the question holds
    irrelevant   −0.5  a true statement about somebody else or that was not asked for, from its subject to its value;
                       a sentence that states nothing
    repeated     −0.5  the value of an asked fact that was stated before

    quality = (1 + Σ reward / number of facts asked for) / 2, cut to [0, 1]

as in `textenv.embedded.summarization`. The three aspects of Fine-Grained RLHF (Wu et al. 2023, arXiv 2306.01693) follow from the
same reading: `sentence_verdicts` (factuality; a sentence that states nothing is unverifiable, and counts as its errors do),
`relevance_verdicts` (by sub-sentence: irrelevant, repetitive or empty ones), `completeness`. A verdict is a span of its segment.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from textenv.embedded import facts
from textenv.embedded.biographies import (
    EVERYTHING,
    NAMES,
    OFF_TOPIC,
    QUESTIONS,
    RELATIONS,
    Life,
    pronoun,
    with_article,
    write_passage,
    write_question,
)  # fmt: skip
from textenv.embedded.examples import Example
from textenv.embedded.facts import Statement
from textenv.episode import Prompt, Span
from textenv.segments import sentences, sub_sentences

__all__ = [
    "completeness", "is_embedded", "quality", "relevance_verdicts", "sample", "sentence_verdicts", "truth_spans", "vocabulary",
]  # fmt: skip

LONGEST = 5
REWARDS = {"supported": 1.0, "unsupported": -1.0, "irrelevant": -0.5, "repeated": -0.5}

_LISTED = frozenset[str](NAMES).union(*(relation.values for relation in RELATIONS))
_NAME = re.compile(rf"\b(?:{'|'.join(NAMES)})\b")
_SUBJECT = re.compile(rf"\b({'|'.join(NAMES)}|[Ss]he|[Hh]e) \Z")
_QUESTION_WORDS = (
    facts.words_of(" ".join([*(question.asked for question in QUESTIONS.values()), *EVERYTHING, "and she he her him"]))
    - {"who", "whom", "name"}
) | {"who"} | {name.lower() for name in NAMES}  # fmt: skip
_SEEN = re.compile(r"\w")


# ------------------------------------------------------------------------------------------------------------- the truth


@dataclass(frozen=True)
class _Known:
    """What passage and question say: (name, relation) → value; who and what is asked; all their words."""

    stated: dict[tuple[str, str], str]
    name: str
    asked: frozenset[str]
    words: frozenset[str]


@dataclass(frozen=True)
class _Judged:
    statement: Statement
    label: str
    asked: bool  # it is about what was asked for, right or wrong, and new


def _people(text: str, first: str) -> list[tuple[Statement, str]]:
    """The statements of a text with the person that each is about; `first` is meant before anybody is named.

    It is the one named last before the value; behind "she" or "he" the last one, if any, who is called so.
    """
    names = [(m.start(), m[0]) for m in _NAME.finditer(text)]
    out = []
    for statement in facts.statements(text, RELATIONS):
        before = [first, *(name for at, name in names if at < statement.at[0])]
        subject = _SUBJECT.search(text, 0, statement.begin)
        called = [name for name in before if subject and name and pronoun(name) == subject[1].lower()]
        out.append((statement, (called or before)[-1]))
    return out


@lru_cache(maxsize=20_000)
def _read(question: str, passage: str) -> _Known | None:
    """The facts of a passage and what is asked; None where they are not of this world."""
    name = _NAME.search(question)
    if name is None or not facts.words_of(question) <= _QUESTION_WORDS:
        return None
    stated = {(person, s.relation): s.value for s, person in _people(passage, "")}
    own = {relation for person, relation in stated if person == name[0]}
    everything = re.search(r"\bknown? about\b", question)
    asked = own if everything else {r for r, q in QUESTIONS.items() if re.search(rf"\b{q.cue}\b", question)}
    if not asked or not asked <= own:
        return None
    return _Known(stated, name[0], frozenset(asked), facts.words_of(question) | facts.words_of(passage))


def is_embedded(prompt: Prompt) -> bool:
    """Whether passage and question are of this world, so that the truth about the answers is known."""
    return _read(prompt.text, "\n".join(prompt.context)) is not None


def _known(prompt: Prompt) -> _Known:
    known = _read(prompt.text, "\n".join(prompt.context))
    if known is None:
        raise ValueError(f"nothing is known about {prompt.text[:80]!r}: passage and question are not of the embedded world")
    return known


def _judged(known: _Known, text: str) -> list[_Judged]:
    out, seen = list[_Judged](), set[str]()
    for statement, person in _people(text, known.name):
        relation = statement.relation
        wanted = person == known.name and relation in known.asked
        if known.stated.get((person, relation)) != statement.value:
            out.append(_Judged(statement, "unsupported", wanted))
        elif not wanted:
            out.append(_Judged(statement, "irrelevant", False))
        else:
            out.append(_Judged(statement, "repeated" if relation in seen else "supported", relation not in seen))
            seen.add(relation)
    return out


def truth_spans(prompt: Prompt, text: str) -> list[Span]:
    """What is right and wrong in an answer, in order; see the module's head.

    Raises:
        ValueError: passage and question are not of this world.

    >>> prompt = Prompt("Where does Anna live?", context=("Anna lives in Rome. She was born in May. Ben lives in Oslo.",))
    >>> text = " Anna lives in Oslo. She was born in May."
    >>> [(text[s.start : s.end], s.label) for s in truth_spans(prompt, text)]
    [('Oslo', 'unsupported'), ('She was born in May', 'irrelevant')]
    """
    known = _known(prompt)
    judged, spans = _judged(known, text), list[Span]()
    for item in judged:
        start, end = item.statement.at
        if item.label == "irrelevant":
            subject = _SUBJECT.search(text, 0, item.statement.begin)
            start, end = subject.start() if subject else item.statement.begin, item.statement.end
        spans.append(Span(start, end, REWARDS[item.label], item.label))
    for start, end in sentences(text):
        if not any(start <= item.statement.at[0] < end for item in judged) and _complete(text, end):
            first = next((m.start() for m in _SEEN.finditer(text, start, end)), None)
            if first is not None:
                spans.append(Span(first, len(text[:end].rstrip()), REWARDS["irrelevant"], "irrelevant"))
    for start, end in facts.unknown_words(text, _LISTED, known.words):
        if not any(start < span.end and span.start < end for span in spans):
            spans.append(Span(start, end, REWARDS["unsupported"], "unsupported"))
    return sorted(spans, key=lambda span: span.start)


def _complete(text: str, end: int) -> bool:
    """Whether the sentence that ends there is over: a cut last one may still come to state something."""
    return end < len(text) or text.rstrip()[-1:] in (".", "!", "?")


def quality(prompt: Prompt, text: str) -> float:
    """How good an answer is, in [0, 1]: (1 + the sum of `truth_spans` over the number of facts asked for) / 2, cut to [0, 1]."""
    return facts.graded(truth_spans(prompt, text), len(_known(prompt).asked))


def completeness(prompt: Prompt, text: str) -> float:
    """The share of the facts asked for that the answer states as the passage has them."""
    known = _known(prompt)
    return sum(item.label == "supported" for item in _judged(known, text)) / len(known.asked)


def sentence_verdicts(prompt: Prompt, text: str) -> list[Span]:
    """For each sentence +1, "supported": it states something and nothing that is wrong; else −1, "unsupported"."""
    spans = truth_spans(prompt, text)
    stating = [item.statement.at[0] for item in _judged(_known(prompt), text)]
    wrong = [span.start for span in spans if span.label == "unsupported"]
    return facts.verdicts(sentences(text), stating, wrong, "supported", "unsupported")


def relevance_verdicts(prompt: Prompt, text: str) -> list[Span]:
    """For each sub-sentence +1, "relevant": it says, right or wrong, what was asked for and nothing else; else −1, "irrelevant"."""
    judged = _judged(_known(prompt), text)
    relevant = [item.statement.at[0] for item in judged if item.asked]
    beside = [item.statement.at[0] for item in judged if not item.asked]
    return facts.verdicts(sub_sentences(text), relevant, beside, "relevant", "irrelevant")


# --------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Care:
    """How a writer errs: chances for each asked fact (missed, wrong) and for each answer (beside the point, …)."""

    missed: float
    wrong: float
    beside: float
    repeated: float


_CARES = ((0.20, _Care(0.02, 0.03, 0.03, 0.01)), (0.45, _Care(0.18, 0.28, 0.45, 0.08)), (0.35, _Care(0.30, 0.55, 0.80, 0.15)))


def sample(rng: random.Random) -> Example:
    """A passage, a question and an answer by a writer of hidden care: every fifth is a careful one."""
    told, passage = write_passage(rng)
    name = rng.choice(sorted({fact.name for fact in told}))
    own = [fact for fact in told if fact.name == name]
    if rng.random() < 0.4:
        asked, question = own, rng.choice(EVERYTHING).format(name=name)
    else:
        asked = rng.sample(own, min(len(own), rng.randint(2, 3)))
        question = write_question(name, [fact.relation.name for fact in asked])
    text, spans = facts.unmarked(" " + with_article(_answer(rng, asked, told)), REWARDS)
    full = [with_article(" ".join(_sentences(way, [(fact, "", "") for fact in asked]))) for way in (None, rng)]
    return Example(Prompt(question, references=tuple(dict.fromkeys(full)), context=(passage,)), text, spans)


def _answer(rng: random.Random, asked: list[Life], told: list[Life]) -> str:
    """An answer with its marks: at most five statements, and perhaps a sentence that states nothing."""
    care = rng.choices([care for _, care in _CARES], [share for share, _ in _CARES])[0]
    near, others = {fact.value for fact in told}, [fact for fact in told if fact not in asked]
    plan = [(fact, "supported") for fact in asked if rng.random() >= care.missed] or [(rng.choice(asked), "supported")]
    lines = rng.randint(1, 2) if rng.random() < care.beside else 0
    plan += [(fact, "irrelevant") for fact in rng.sample(others, min(lines, len(others), LONGEST - len(plan)))]
    said = list[tuple[Life, str, str]]()
    for fact, label in plan:
        wrong = rng.random() < care.wrong
        value = facts.other_value(rng, fact.relation, fact.value, near) if wrong else ""
        said.append((fact, "unsupported" if wrong else label, value))
    right = [fact for fact, label, _ in said if label == "supported"]
    if right and len(said) < LONGEST and rng.random() < care.repeated:
        said.append((rng.choice(right), "repeated", ""))
    text = _sentences(rng, said)
    if len(said) < LONGEST and rng.random() < care.beside / 3:
        text.insert(rng.randint(1, len(text)), f"[{rng.choice(OFF_TOPIC)}|irrelevant]")
    return " ".join(text)


def _sentences(rng: random.Random | None, said: list[tuple[Life, str, str]]) -> list[str]:
    """Facts with their labels and values as sentences, now and then two in one; without `rng` plainly, in the first ways."""
    out, last, joined = list[str](), "", True
    for fact, label, value in said:
        same = fact.name == last
        join = same and not joined and rng is not None and rng.random() < 0.3
        she = same and (join or rng is None or rng.random() < 0.7)
        ways = fact.relation.told[:1] if join or rng is None or rng.random() < 0.6 else fact.relation.told
        way = ways[0] if rng is None else rng.choice(ways)
        who = (pronoun(fact.name) if join else pronoun(fact.name).capitalize()) if she else fact.name
        clause = fact.told(way, label, value, who=who, whole=label == "irrelevant")
        if join:
            out[-1] = f"{out[-1][:-1]}, and {clause}."
        else:
            out.append(f"{clause}.")
        last, joined = fact.name, join
    return out


# --------------------------------------------------------------------------------------------------------------- wording


def vocabulary() -> list[str]:
    """Every word form that a passage, a question or an answer can hold, as it begins a sentence too, sorted."""
    asked = [question.asked for question in QUESTIONS.values()]
    words = facts.template_words([*(way for relation in RELATIONS for way in relation.told), *asked, *EVERYTHING, *OFF_TOPIC])
    words |= {word[0].upper() + word[1:] for word in facts.template_words(question.split()[0] for question in asked)}
    words |= {"She", "He", "she", "he", "her", "him", "and", "an", *NAMES}
    return sorted(words.union(*(relation.values for relation in RELATIONS)))
