"""Reads German text, right or wrong: which sentences of the grammar may have been meant?

Nouns, verbs and conjunctions say what a sentence is about, whatever its articles, endings and order are. So the words of a clause
are gathered into noun phrases, prepositional phrases, an adverbial and a verb, in any order and any form; the phrases take their
roles in the order in which they stand (subject, dative, accusative, as far as the verb has them). Written again, the tree is the
correct sentence that the text is compared with. Where a word can be two things ("an": preposition or prefix) both are tried.

What a verb would need and does not have ("Der Mann kauft.") is not missed, and who does what is not judged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from textenv.embedded import german_forms as forms
from textenv.embedded.german_errors import Token
from textenv.embedded.german_words import ADVERBIALS, CONJUNCTIONS, NOUNS, VERBS
from textenv.embedded.synchronous import Clause, NounPhrase, Sentence

__all__ = ["read_german"]

_MOST = 48  # trees that are tried
_ENGLISH = {german: english for english, german in CONJUNCTIONS.items() if english != "if"}
_ADVERBIALS = sorted(((tuple(time.german.split()), key) for key, time in ADVERBIALS.items()), key=lambda pair: -len(pair[0]))
_PREPOSITIONS = {german: english for english, german in forms.PREPOSITIONS.items() if english != "into"}
_ANY_NOUN = (("man", False), ("woman", False), ("child", False), ("man", True))  # of every gender


def read_german(sentence: Sequence[Token]) -> Iterator[Sentence]:
    """The trees that the words of one sentence may stand for; at least one."""
    words = [token for token in sentence if token.form != "."]
    count = 0
    for main, conjunction, other, other_first in _clauses(words):
        for one, two in itertools.product(_read(main), _read(other) if conjunction else [None]):
            yield Sentence(one, conjunction, two, other_first)
            count += 1
            if count == _MOST:
                return


def _clauses(words: list[Token]) -> Iterator[tuple[list[Token], str, list[Token], bool]]:
    """Ways to cut a sentence into a main clause, a conjunction and another clause."""
    at = next((i for i, word in enumerate(words) if _conjunction(word)), None)
    if at is None:
        yield words, "", [], False
        comma = next((i for i, word in enumerate(words) if word.form == ","), None)
        if comma:  # its conjunction was left out
            yield words[:comma], "that", words[comma + 1 :], False
            yield words[:comma], "but", words[comma + 1 :], False
        return
    conjunction = _conjunction(words[at])
    if at > 0 or conjunction in ("and", "but"):
        yield words[:at], conjunction, words[at + 1 :], False
        return
    commas = [i for i, word in enumerate(words) if word.form == ","]
    verbs = [i + 1 for i, word in enumerate(words) if {"verb", "auxiliary"} & {kind for kind, _ in _readings(word)}]
    for cut in commas[:1] or verbs[:4] or [len(words)]:
        yield words[cut:], conjunction, words[1:cut], True


def _conjunction(word: Token) -> str:
    return next((_ENGLISH.get(key, key) for kind, key in _readings(word) if kind == "conjunction" or key in CONJUNCTIONS), "")


def _readings(token: Token) -> frozenset[forms.Reading]:
    """What the word can be: as it is, without the capital of a sentence, with the capital of a noun, or English."""
    form = token.form
    small, big = form[:1].lower() + form[1:], form[:1].upper() + form[1:]
    known = forms.readings(form) | (forms.readings(small) if token.first else frozenset())
    return known or forms.readings(big) or forms.english_readings(form) or forms.english_readings(small)


@dataclass
class _Found:
    """What a clause holds so far."""

    phrases: list[NounPhrase] = field(default_factory=list)
    preposition: str = ""
    place: NounPhrase | None = None
    time: str = ""
    quality: str = ""
    negated: bool = False
    verbs: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)  # form, keys
    auxiliaries: list[tuple[str, str]] = field(default_factory=list)  # form, key
    prefixes: list[str] = field(default_factory=list)


def _read(words: Sequence[Token]) -> list[Clause]:
    """The clauses that the words may be."""
    unclear = [
        i for i, word in enumerate(words)
        if len({kind for kind, _ in _readings(word)} & {"prefix", "preposition", "article"}) > 1
    ]  # fmt: skip
    bare = any(_is(word, "article") or _is(word, "adjective") for word in words)
    clauses: list[Clause] = []
    for choice in itertools.product((False, True), repeat=min(len(unclear), 3)):
        prefixes = {i for i, chosen in zip(unclear, choice, strict=False) if chosen}
        for stand_in in _ANY_NOUN if bare else _ANY_NOUN[:1]:
            found, used = _gather(words, prefixes, stand_in)
            clauses += [clause for clause in _built(found) if clause not in clauses]
            if not used:
                break
    return clauses


def _is(word: Token, kind: str) -> bool:
    return any(reading == kind for reading, _ in _readings(word))


def _gather(words: Sequence[Token], prefixes: set[int], stand_in: tuple[str, bool]) -> tuple[_Found, bool]:
    """One pass over the words; `stand_in` is the noun of a phrase that has none. Also whether it was used."""
    found, at, used = _Found(), 0, False
    while at < len(words):
        time = next((pair for pair in _ADVERBIALS if _spells(words, at, pair[0])), None)
        kinds = dict(sorted(_readings(words[at])))
        if time:
            found.time, at = time[1], at + len(time[0])
            continue
        if "prefix" in kinds and (at in prefixes or not {"article", "preposition"} & set(kinds)):
            found.prefixes.append(kinds["prefix"])
        elif "preposition" in kinds:
            phrase, length, stood_in = _phrase(words, at + 1, stand_in)
            if phrase and phrase.noun and not found.place:
                found.preposition, found.place, used = _PREPOSITIONS[kinds["preposition"]], phrase, used or stood_in
                at += length
        elif {"verb", "auxiliary"} & set(kinds):
            form = words[at].form[:1].lower() + words[at].form[1:]
            if "verb" in kinds:
                found.verbs.append((form, tuple(sorted(key for kind, key in _readings(words[at]) if kind == "verb"))))
            else:
                found.auxiliaries.append((form, kinds["auxiliary"]))
        elif "not" in kinds or kinds.get("function") == "not":
            found.negated = True
        else:
            phrase, length, stood_in = _phrase(words, at, stand_in)
            if phrase and (phrase.noun or phrase.pronoun):
                found.phrases.append(phrase)
                used = used or stood_in
                at += length
                continue
            if "adjective" in kinds:
                found.quality = kinds["adjective"]
        at += 1
    return found, used


def _spells(words: Sequence[Token], at: int, wanted: tuple[str, ...]) -> bool:
    spelt = words[at : at + len(wanted)]
    return len(spelt) == len(wanted) and all(
        token.form == form or (token.first and token.form == form[0].upper() + form[1:])
        for token, form in zip(spelt, wanted, strict=True)
    )


def _phrase(words: Sequence[Token], at: int, stand_in: tuple[str, bool]) -> tuple[NounPhrase | None, int, bool]:
    """The noun phrase that begins at a word, how many words it has, and whether its noun is the stand-in."""
    article, quality, begin = "", "", at
    while at < len(words):
        kinds = dict(sorted(_readings(words[at])))
        function = kinds.get("function", "")
        if at == begin and ("pronoun" in kinds or function in forms.PRONOUNS):
            return NounPhrase(pronoun=kinds.get("pronoun", function)), 1, False
        if "article" in kinds and not article and not quality:
            article = kinds["article"]
        elif function in forms.ARTICLES and not article and not quality:
            article = function
        elif "adjective" in kinds and not quality:
            quality = kinds["adjective"]
        elif "noun" in kinds:
            noun = NOUNS[kinds["noun"]]
            plural = words[at].form not in (noun.german, noun.german.lower(), noun.english)
            return NounPhrase(article or ("" if plural else "the"), quality, noun.english, plural), at + 1 - begin, False
        else:
            break
        at += 1
    if article:
        return NounPhrase(article, quality, *stand_in), at - begin, True
    return None, 0, False


def _built(found: _Found) -> Iterator[Clause]:
    """The clauses that the findings make, one for each verb that may be meant."""
    modals = [key for _, key in found.auxiliaries if key in forms.MODALS]
    helpers = [key for _, key in found.auxiliaries if key in ("have", "be")]
    past = any(form.startswith("war") for form, _ in found.auxiliaries)
    choices = [(form, key) for form, keys in found.verbs[:2] for key in keys]
    likely = [(form, key) for form, key in choices if _prefix_fits(form, key, found.prefixes)]
    if not choices:
        if "be" in helpers:
            yield from _roles(found, "be", "past" if past else "simple")
            return
        choices = [("", ("sleep", "buy", "give")[min(max(len(found.phrases) - 1, 0), 2)])]
    for form, key in likely or choices:
        present = {VERBS[key].prefix + forms.finite(VERBS[key], person) for person in range(5)}
        participle = form == VERBS[key].participle and form not in present
        tense = modals[0] if modals else "past" if helpers or participle else "simple"
        yield from _roles(found, key, tense)


def _prefix_fits(form: str, key: str, prefixes: Sequence[str]) -> bool:
    prefix = VERBS[key].prefix
    return not prefix or prefix in prefixes or form.startswith(prefix)


def _roles(found: _Found, key: str, tense: str) -> Iterator[Clause]:
    frame = VERBS[key].frame
    objects = found.phrases[1:]
    dative = accusative = None
    if frame == "dative":
        dative = objects[0] if objects else None
    elif frame == "ditransitive":
        dative = objects[0] if len(objects) > 1 else None
        accusative = objects[-1] if objects else None
    else:
        accusative = objects[0] if objects and (VERBS[key].objects or not found.verbs) and frame in ("accusative", "put") else None
    negated = found.negated
    if accusative and accusative.article == "no":
        accusative, negated = replace(accusative, article="" if accusative.plural else "a"), True
    preposition = "into" if frame == "direction" and found.preposition == "in" else found.preposition
    quality = found.quality if key == "be" else ""
    subjects = found.phrases[:1] or [NounPhrase(pronoun=pronoun) for pronoun in ("he", "I", "you", "we")]
    for subject in subjects:
        yield Clause(subject, key, tense, negated, dative, accusative, quality, preposition, found.place, found.time)
