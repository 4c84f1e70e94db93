"""How the German of the translation world inflects: articles, adjective endings, verbs; and what a written form can be.

    article("a", "acc", "m")                        'einen'
    adjective(ADJECTIVES["old"], "a", "acc", "m")   'alten'
    finite(VERBS["read"], 2)                        'liest'

Cases are "nom", "acc", "dat"; a gender-number ("m", "f", "n", or "p": any plural) stands for both. Persons: 0 ich, 1 du,
2 er and sie and every singular noun, 3 wir, 4 every plural noun.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from textenv.embedded.german_words import ADJECTIVES, ADVERBIALS, CONJUNCTIONS, NOUNS, VERBS, Adjective, Noun, Verb

__all__ = [
    "ARTICLES", "CASES", "ENDINGS", "MODALS", "PREPOSITIONS", "PRONOUNS", "Reading", "adjective", "all_forms", "article",
    "auxiliary", "english_readings", "finite", "noun", "readings", "third_person",
]  # fmt: skip

CASES = ("nom", "acc", "dat")
ENDINGS = ("e", "en", "er", "es", "em")
_GENDERS = "mfnp"
Reading = tuple[str, str]
"""What a written form can be: (kind, key), e.g. ("noun", "dog"), ("verb", "read"), ("article", "the")."""

_DER = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem den"}
_DIESER = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"}
_EIN = {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en"}
ARTICLES = {"the": "der", "this": "dies", "a": "ein", "no": "kein", "my": "mein", "our": "unser", "his": "sein"}
"""English → the German article, or its stem."""

_WEAK = {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en"}  # after der, dieser
_MIXED = {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en"}  # after ein, kein, mein
_STRONG = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"}  # after nothing

PRONOUNS = {"I": ("ich", 0), "you": ("du", 1), "he": ("er", 2), "she": ("sie", 2), "we": ("wir", 3), "it": ("es", 2)}
"""English subject → (German, person)."""

PREPOSITIONS = {
    "in": "in", "into": "in", "on": "auf", "under": "unter", "behind": "hinter", "in front of": "vor", "next to": "neben",
    "with": "mit", "for": "für",
}  # fmt: skip
_AUXILIARIES = {
    "have": "habe hast hat haben haben", "be": "bin bist ist sind sind", "was": "war warst war waren waren",
    "can": "kann kannst kann können können", "must": "muss musst muss müssen müssen",
    "want": "will willst will wollen wollen", "should": "sollte solltest sollte sollten sollten",
}  # fmt: skip
_ENGLISH = "the a my our his this these I you he she we it not and but because although that is are with for"
MODALS = ("can", "must", "want", "should")


def _cell(table: dict[str, str], case: str, gender: str) -> str:
    return table[case].split()[_GENDERS.index(gender)].replace("-", "")


def article(key: str, case: str, gender: str) -> str:
    """The article in its form; "a" has no plural and gives ""."""
    if key == "the":
        return _cell(_DER, case, gender)
    if not key or (key == "a" and gender == "p"):
        return ""
    return ARTICLES[key] + _cell(_DIESER if key == "this" else _EIN, case, gender)


def adjective(word: Adjective, key: str, case: str, gender: str) -> str:
    """The adjective in its form after the article `key`.

    >>> adjective(ADJECTIVES["expensive"], "a", "nom", "n"), adjective(ADJECTIVES["old"], "", "dat", "p")
    ('teures', 'alten')
    """
    bare = not article(key, case, gender)
    table = _STRONG if bare and gender == "p" else _WEAK if key in ("the", "this") else _MIXED
    return word.stem + _cell(table, case, gender)


def noun(word: Noun, case: str, plural: bool) -> str:
    """The noun in its form: only the dative plural shows its case."""
    if not plural:
        return word.german
    return word.german_dative_plural if case == "dat" else word.german_plural


def finite(verb: Verb, person: int) -> str:
    """The present tense without its prefix."""
    if verb.english == "be":
        return auxiliary("be", person)
    stem = verb.infinitive.removesuffix("n").removesuffix("e")
    first = verb.third if verb.english == "know" else stem + "e"
    return (first, verb.second, verb.third, verb.infinitive, verb.infinitive)[person]


def auxiliary(key: str, person: int) -> str:
    """haben, sein (its past "was" too) or a modal verb in the present tense.

    >>> auxiliary("was", 1), auxiliary("can", 2)
    ('warst', 'kann')
    """
    return _AUXILIARIES[key].split()[person]


@cache
def _forms() -> dict[str, frozenset[Reading]]:
    found: dict[str, set[Reading]] = defaultdict(set)
    for key in ARTICLES:
        for case in CASES:
            for gender in _GENDERS:
                found[article(key, case, gender)].add(("article", key))
    for key, stem in ARTICLES.items():
        for ending in ENDINGS if key != "the" else ():  # "eines" is a form of the genitive, and a mistake here
            found[stem + ending].add(("article", key))
    for key, (german, _) in PRONOUNS.items():
        found[german].add(("pronoun", key))
    for key, german in [*PREPOSITIONS.items(), *CONJUNCTIONS.items()]:
        found[german].add(("preposition" if key in PREPOSITIONS else "conjunction", german))
    for key, forms in _AUXILIARIES.items():
        for form in forms.split():
            found[form].add(("auxiliary", "be" if key == "was" else key))
    for key, thing in NOUNS.items():
        for form in (thing.german, thing.german_plural, thing.german_dative_plural):
            found[form].add(("noun", key))
    for key, quality in ADJECTIVES.items():
        for form in (quality.german, *(quality.stem + ending for ending in ENDINGS)):
            found[form].add(("adjective", key))
    for key, verb in VERBS.items():
        if key == "be":
            continue
        for form in {*(finite(verb, person) for person in range(5)), verb.infinitive}:
            found[form].add(("verb", key))
            found[verb.prefix + form].add(("verb", key))
        found[verb.participle].add(("verb", key))
        if verb.prefix:
            found[verb.prefix].add(("prefix", verb.prefix))
    for key, time in ADVERBIALS.items():
        for word in time.german.removeprefix("an dem ").split():
            found[word].add(("adverb", key))
    found["nicht"].add(("not", "not"))
    for mark in ".,":
        found[mark].add(("mark", mark))
    found.pop("", None)
    return {form: frozenset(kinds) for form, kinds in found.items()}


@cache
def _english_forms() -> dict[str, frozenset[Reading]]:
    found: dict[str, set[Reading]] = defaultdict(set)
    for key, thing in NOUNS.items():
        found[thing.english].add(("noun", key))
        found[thing.english_plural].add(("noun", key))
    for key in ADJECTIVES:
        found[key].add(("adjective", key))
    for key, verb in VERBS.items():
        if " " not in key and key != "be":
            for form in (key, third_person(key), verb.past, verb.progressive):
                found[form].add(("verb", key))
    for word in _ENGLISH.split():
        found[word].add(("function", word))
    return {form: frozenset(kinds) for form, kinds in found.items() if form and form not in _forms()}


def readings(form: str) -> frozenset[Reading]:
    """What a German form can be; nothing for a form that is none.

    >>> sorted(readings("ein")), readings("hous")
    ([('article', 'a'), ('prefix', 'ein')], frozenset())
    """
    return _forms().get(form, frozenset())


def english_readings(form: str) -> frozenset[Reading]:
    """The same for an English form, unless German has it too ("in")."""
    return _english_forms().get(form, frozenset())


def third_person(base: str) -> str:
    """He reads, washes, carries, picks up."""
    head, _, rest = base.partition(" ")
    if head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "es" if head.endswith(("s", "sh", "ch", "o", "x")) else "s"
    return f"{head} {rest}".strip()


def all_forms() -> list[str]:
    """Every German form that `readings` knows."""
    return sorted(_forms())
