"""Reads English sentences of the synchronous grammar: text → tree, the one whose English is the text, or None.

The grammar's words say what they are, so one pass from left to right finds the tree; writing it again proves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, lru_cache

from textenv.embedded import german_forms as forms
from textenv.embedded.german_words import ADJECTIVES, ADVERBIALS, CONJUNCTIONS, NOUNS, VERBS
from textenv.embedded.synchronous import Clause, NounPhrase, Sentence, english

__all__ = ["read_english"]


@lru_cache(maxsize=1 << 14)
def read_english(text: str) -> Sentence | None:
    """The tree of an English sentence, None where the grammar cannot have written it.

    >>> read_english("I am reading my old book.").main.accusative
    NounPhrase(article='my', adjective='old', noun='book', plural=False, pronoun='')
    >>> read_english("Colourless green ideas sleep furiously.") is None
    True
    """
    if not text.endswith("."):
        return None
    words = text[:-1].replace(",", " ,").split()
    if not words:
        return None
    for first in {words[0], words[0][0].lower() + words[0][1:]}:
        try:
            tree = _sentence([first, *words[1:]])
        except _UnreadableError:
            continue
        if english(tree) == text:
            return tree
    return None


class _UnreadableError(Exception):
    """The words are not of the grammar."""


@cache
def _verb_forms() -> dict[tuple[str, ...], tuple[str, str]]:
    """Words of a form → (verb, "base" | "third" | "past" | "progressive")."""
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for key, verb in VERBS.items():
        if key != "be":
            for name, form in (
                ("progressive", verb.progressive), ("third", forms.third_person(key)), ("past", verb.past), ("base", key),
            ):  # fmt: skip
                if form:
                    found[tuple(form.split())] = (key, name)
    return found


def _sentence(words: list[str]) -> Sentence:
    if words[0] in CONJUNCTIONS and words[0] not in ("and", "but", "that"):
        comma = words.index(",") if "," in words else len(words)
        other, main = _Clauses(words[1:comma]).clause(), _Clauses(words[comma + 1 :]).clause()
        return Sentence(main, words[0], other, other_first=True)
    at = next((i for i, word in enumerate(words) if word in CONJUNCTIONS), len(words))
    main = _Clauses([word for word in words[:at] if word != ","]).clause()
    return Sentence(main, words[at], _Clauses(words[at + 1 :]).clause()) if at < len(words) else Sentence(main)


class _Clauses:
    """A cursor over the words of one clause."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.at = words, 0

    def clause(self) -> Clause:
        time = self._time()
        fronted = bool(time)
        subject = self._phrase()
        clause = self._verb(subject)
        frame = VERBS[clause.verb].frame
        if frame == "copula":
            clause = replace(clause, quality=self._one_of(ADJECTIVES))
        if frame in ("dative", "ditransitive"):
            clause = replace(clause, dative=self._phrase())
        if frame in ("accusative", "ditransitive", "put"):
            clause = replace(clause, accusative=self._phrase())
        time = time or self._time()
        if self.at < len(self.words):
            clause = replace(clause, preposition=self._one_of(forms.PREPOSITIONS), place=self._phrase())
            time = time or self._time()
        if self.at < len(self.words):
            raise _UnreadableError
        return replace(clause, time=time or clause.time, fronted=fronted)

    def _next(self, count: int = 1) -> tuple[str, ...]:
        return tuple(self.words[self.at : self.at + count])

    def _take(self, *words: str) -> bool:
        found = self._next(len(words)) == words
        self.at += len(words) if found else 0
        return found

    def _one_of(self, keys: Iterable[str]) -> str:
        for key in sorted(keys, key=lambda key: -len(key.split())):
            if self._take(*key.split()):
                return key
        raise _UnreadableError

    def _time(self) -> str:
        return next((key for key in ADVERBIALS if self._take(*key.split())), "")

    def _phrase(self) -> NounPhrase:
        for key in forms.PRONOUNS:
            if self._take(key):
                return NounPhrase(pronoun=key)
        article = next((key for key in ("the", "an", "a", "my", "our", "his", "this", "these") if self._take(key)), "")
        adjective = next((key for key in ADJECTIVES if self._take(key)), "")
        for key, noun in NOUNS.items():
            for plural, form in enumerate((noun.english, noun.english_plural)):
                if self._take(form):
                    singular = {"an": "a", "these": "this"}.get(article, article)
                    return NounPhrase(singular, adjective, key, bool(plural))
        raise _UnreadableError

    def _verb(self, subject: NounPhrase) -> Clause:
        adverb = ""
        if any(self._take(be) for be in ("am", "is", "are")):
            negated, adverb = self._take("not"), self._time()
            if self._next()[0] in ADJECTIVES if self._next() else False:
                return Clause(subject, "be", "simple", negated, time=adverb)
            return Clause(subject, self._form("progressive"), "progressive", negated)
        if any(self._take(be) for be in ("was", "were")):
            return Clause(subject, "be", "past", self._take("not"))
        for helper, tense in (("did", "past"), ("does", "simple"), ("do", "simple")):
            if self._take(helper, "not"):
                if tense == "simple" and self._take("want", "to"):
                    return Clause(subject, self._form("base"), "want", negated=True)
                return Clause(subject, self._form("base"), tense, negated=True)
        if self._take("cannot"):
            return Clause(subject, self._form("base"), "can", negated=True)
        if self._take("want", "to") or self._take("wants", "to"):
            return Clause(subject, self._form("base"), "want")
        for modal in ("can", "must", "should"):
            if self._take(modal):
                negated = self._take("not")
                return Clause(subject, self._form("base"), modal, negated)
        adverb = self._time()
        verb, kind = self._any_form()
        if kind == "past" or (kind == "base" and VERBS[verb].past == verb):  # "I read": the sampler's present has "he reads"
            return Clause(subject, verb, "past", time=adverb)
        return Clause(subject, verb, "simple", time=adverb)

    def _any_form(self) -> tuple[str, str]:
        for count in (2, 1):
            found = _verb_forms().get(self._next(count))
            if found:
                self.at += count
                return found
        raise _UnreadableError

    def _form(self, wanted: str) -> str:
        verb, kind = self._any_form()
        if kind != wanted:
            raise _UnreadableError
        return verb
