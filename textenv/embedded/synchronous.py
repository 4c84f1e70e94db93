"""The synchronous grammar: one tree, written in English here and in German in `german_writing`.

A `Sentence` is one clause, or two joined by a conjunction. A `Clause` holds what both languages say; its verb says what stands with
it. English shows the tense by "is ...-ing", "did not", "wants to"; German makes one present and the Perfekt of them.

    english(sentence)    'Yesterday the man did not buy a car.'
    german(sentence)     the words of 'Gestern hat der Mann kein Auto gekauft.', each with what it is

Departures from the full languages: a noun phrase is never fronted, objects are no pronouns, "sie" is singular.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from textenv.embedded import german_forms as forms
from textenv.embedded.german_words import ADVERBIALS, NOUNS, VERBS

__all__ = ["Clause", "NounPhrase", "Sentence", "english", "put"]


@dataclass(frozen=True)
class NounPhrase:
    """ "my old dogs": every field an English key. `pronoun` alone for "he"."""

    article: str = ""
    adjective: str = ""
    noun: str = ""
    plural: bool = False
    pronoun: str = ""

    @property
    def person(self) -> int:
        return forms.PRONOUNS[self.pronoun][1] if self.pronoun else 4 if self.plural else 2


@dataclass(frozen=True)
class Clause:
    """Attributes:
    tense: "simple", "progressive" (both are the German present), "past", or a modal verb's key.
    place: preposition and noun phrase, e.g. ("into", ...).
    time: an adverbial's key.
    fronted: whether the adverbial begins the clause.
    """

    subject: NounPhrase
    verb: str
    tense: str = "simple"
    negated: bool = False
    dative: NounPhrase | None = None
    accusative: NounPhrase | None = None
    quality: str = ""  # the adjective after "to be"
    preposition: str = ""
    place: NounPhrase | None = None
    time: str = ""
    fronted: bool = False


@dataclass(frozen=True)
class Sentence:
    """A clause, or two: "main because other", "When other, main", "main but other"."""

    main: Clause
    conjunction: str = ""
    other: Clause | None = None
    other_first: bool = False


def put(tree: Any, slot: tuple[str, ...], value: Any) -> Any:
    """The tree with another value in a field.

    >>> put(Sentence(Clause(NounPhrase(pronoun="I"), "sleep")), ("main", "subject", "pronoun"), "we").main.subject.pronoun
    'we'
    """
    head, *rest = slot
    return replace(tree, **{head: put(getattr(tree, head), tuple(rest), value) if rest else value})


def english(sentence: Sentence) -> str:
    """The English sentence, with its capital and its full stop."""
    main = _english_clause(sentence.main)
    if sentence.other is None:
        text = main
    else:
        other = _english_clause(sentence.other)
        if sentence.other_first:
            text = f"{sentence.conjunction} {other}, {main}"
        else:
            text = f"{main}{',' if sentence.conjunction == 'but' else ''} {sentence.conjunction} {other}"
    return text[0].upper() + text[1:] + "."


def _english_clause(clause: Clause) -> str:
    time = ADVERBIALS[clause.time] if clause.time else None
    words = [_english_phrase(clause.subject), _english_verb(clause, clause.time if time and time.place == "verb" else "")]
    words += [_english_phrase(phrase) for phrase in (clause.dative, clause.accusative) if phrase]
    if clause.place:
        words += [clause.preposition, _english_phrase(clause.place)]
    if time and time.place == "end":
        words.insert(0 if clause.fronted else len(words), time.english)
    return " ".join(words)


def _english_phrase(phrase: NounPhrase) -> str:
    if phrase.pronoun:
        return phrase.pronoun
    noun = NOUNS[phrase.noun]
    rest = f"{phrase.adjective} {noun.english_plural if phrase.plural else noun.english}".strip()
    article = {"this": "these", "a": ""}.get(phrase.article, phrase.article) if phrase.plural else phrase.article
    if article == "a" and rest[0] in "aeiou":
        article = "an"
    return f"{article} {rest}".strip()


_BE, _WAS = ("am", "are", "is", "are", "are"), ("was", "were", "was", "were", "were")


def _english_verb(clause: Clause, adverb: str) -> str:
    verb, person = VERBS[clause.verb], clause.subject.person
    third, negated = person == 2, " not" if clause.negated else ""
    adverb = f" {adverb}" if adverb else ""
    if clause.verb == "be":
        be = (_WAS if clause.tense == "past" else _BE)[person]
        return f"{be}{negated}{adverb} {clause.quality}"
    if clause.tense == "progressive":
        return f"{_BE[person]}{negated} {verb.progressive}"
    if clause.tense == "past":
        return f"did not {verb.english}" if clause.negated else verb.past
    if clause.tense == "want":
        return (f"do{'es' if third else ''} not want" if clause.negated else f"want{'s' if third else ''}") + f" to {verb.english}"
    if clause.tense in forms.MODALS:
        modal = ("cannot" if clause.tense == "can" else f"{clause.tense} not") if clause.negated else clause.tense
        return f"{modal} {verb.english}"
    if clause.negated:
        return f"do{'es' if third else ''} not {verb.english}"
    return f"{adverb} {forms.third_person(verb.english) if third else verb.english}".strip()
