"""The German of a tree: a list of words that know what they are and where in the tree they come from.

Made here is what German asks for and English does not show: gender, case and number in articles and adjective endings; the verb
second in main clauses and last in subordinate ones; the Perfekt with haben or sein for the English past; separable prefixes;
"kein" for "not ... a"; "nicht" after the objects and before what belongs to the verb.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from textenv.embedded import german_forms as forms
from textenv.embedded.german_words import ADJECTIVES, ADVERBIALS, CONJUNCTIONS, NOUNS, VERBS, Verb
from textenv.embedded.synchronous import Clause, NounPhrase, Sentence, put

__all__ = ["Word", "german", "orders", "written"]


@dataclass(frozen=True)
class Word:
    """A German word: its form, what it is, and the field of the tree that it comes from."""

    form: str
    kind: str  # article adjective noun pronoun finite nonfinite prefix preposition adverb not conjunction mark
    key: str = ""
    slot: tuple[str, ...] = ()


def german(sentence: Sentence, *, objects_first: bool = False) -> list[Word]:
    """The words of the German sentence, without its capital; "im" is the two words "in" "dem" here (`written` joins them)."""
    comma = Word(",", "mark", ",")
    if sentence.other is None:
        words = _german_clause(sentence.main, "main", "second", objects_first)
    else:
        link = Word(CONJUNCTIONS[sentence.conjunction], "conjunction", CONJUNCTIONS[sentence.conjunction], ("conjunction",))
        order = "second" if sentence.conjunction in ("and", "but") else "last"
        main = _german_clause(sentence.main, "main", "first" if sentence.other_first else "second", objects_first)
        other = _german_clause(sentence.other, "other", order, objects_first)
        commas = [] if sentence.conjunction == "and" else [comma]
        words = [link, *other, comma, *main] if sentence.other_first else [*main, *commas, link, *other]
    return [*words, Word(".", "mark", ".")]


def orders(sentence: Sentence) -> Iterator[list[Word]]:
    """The German sentence and its permitted variants: the adverbial at the front or not, before or behind the objects."""
    seen = set()
    clauses = [slot for slot in ("main", "other") if getattr(sentence, slot) and getattr(sentence, slot).time]
    variants = [sentence]
    for slot in clauses:
        if not sentence.other_first if slot == "main" else sentence.conjunction in ("and", "but"):
            variants += [put(v, (slot, "fronted"), not getattr(v, slot).fronted) for v in variants]
    for variant in variants:
        for objects_first in (False, True):
            words = german(variant, objects_first=objects_first)
            forms_of = tuple(word.form for word in words)
            if forms_of not in seen:
                seen.add(forms_of)
                yield words


def _german_clause(clause: Clause, slot: str, order: str, objects_first: bool) -> list[Word]:
    """`order`: the finite verb is "second", "first" (what stands before it is a whole clause) or "last"."""
    verb, person = VERBS[clause.verb], clause.subject.person
    subject = _german_phrase(clause.subject, "nom", (slot, "subject"))
    finite, end = _german_verb(clause, verb, person, slot)
    middle = _middle(clause, slot, objects_first)
    time = _german_time(clause, slot)
    if order == "last":
        if clause.tense in ("simple", "progressive") and verb.prefix:
            end = [replace(finite, form=verb.prefix + finite.form)]
        else:
            end = [*end, finite]
        return [*subject, *middle(time), *end]
    if order == "first":
        return [finite, *subject, *middle(time), *end]
    if clause.fronted and time:
        return [*time, finite, *subject, *middle([]), *end]
    return [*subject, finite, *middle(time), *end]


def _german_verb(clause: Clause, verb: Verb, person: int, slot: str) -> tuple[Word, list[Word]]:
    """The finite verb, and what ends the clause."""
    at = (slot, "verb")
    if clause.verb == "be":
        form = forms.auxiliary("was" if clause.tense == "past" else "be", person)
        quality = ADJECTIVES[clause.quality].german if clause.quality else ""
        return Word(form, "finite", "be", at), [Word(quality, "adjective", clause.quality, (slot, "quality"))] if quality else []
    if clause.tense in forms.MODALS:
        infinitive = Word(verb.prefix + verb.infinitive, "nonfinite", clause.verb, at)
        return Word(forms.auxiliary(clause.tense, person), "auxiliary", clause.tense, (slot, "tense")), [infinitive]
    if clause.tense == "past":
        helper = Word(forms.auxiliary(verb.auxiliary, person), "auxiliary", verb.auxiliary, (slot, "helper"))
        return helper, [Word(verb.participle, "nonfinite", clause.verb, at)]
    prefix = [Word(verb.prefix, "prefix", verb.prefix, at)] if verb.prefix else []
    return Word(forms.finite(verb, person), "finite", clause.verb, at), prefix


def _middle(clause: Clause, slot: str, objects_first: bool) -> Callable[[list[Word]], list[Word]]:
    """What stands between the subject and the end, as a function of the adverbial: nicht after objects, before the rest."""
    indefinite = clause.accusative is not None and clause.accusative.article in ("", "a")
    no = clause.negated and indefinite
    accusative = replace(clause.accusative, article="no") if no and clause.accusative else clause.accusative
    dative_words = _german_phrase(clause.dative, "dat", (slot, "dative")) if clause.dative else []
    accusative_words = _german_phrase(accusative, "acc", (slot, "accusative")) if accusative else []
    negation = [Word("nicht", "not", "not", (slot, "negated"))] if clause.negated and not no else []
    place: list[Word] = []
    if clause.place:
        case = "acc" if VERBS[clause.verb].frame in ("direction", "put") or clause.preposition == "for" else "dat"
        name = forms.PREPOSITIONS[clause.preposition]
        place = [Word(name, "preposition", name, (slot, "preposition")), *_german_phrase(clause.place, case, (slot, "place"))]

    def middle(time: list[Word]) -> list[Word]:
        if negation or (objects_first and not indefinite):
            return [*dative_words, *accusative_words, *time, *negation, *place]
        if objects_first and clause.dative:
            return [*dative_words, *time, *accusative_words, *place]
        return [*time, *dative_words, *accusative_words, *place]

    return middle


def _german_phrase(phrase: NounPhrase, case: str, slot: tuple[str, ...]) -> list[Word]:
    if phrase.pronoun:
        return [Word(forms.PRONOUNS[phrase.pronoun][0], "pronoun", phrase.pronoun, (*slot, "pronoun"))]
    noun = NOUNS[phrase.noun]
    gender = "p" if phrase.plural else noun.gender
    words = [Word(forms.article(phrase.article, case, gender), "article", phrase.article, (*slot, "article"))]
    if phrase.adjective:
        form = forms.adjective(ADJECTIVES[phrase.adjective], phrase.article, case, gender)
        words.append(Word(form, "adjective", phrase.adjective, (*slot, "adjective")))
    words.append(Word(forms.noun(noun, case, phrase.plural), "noun", phrase.noun, (*slot, "noun")))
    return [word for word in words if word.form]


def _german_time(clause: Clause, slot: str) -> list[Word]:
    words = ADVERBIALS[clause.time].german.split() if clause.time else []
    return [Word(word, "adverb", clause.time, (slot, "time")) for word in words]


_JOINED = {("in", "dem"): "im", ("in", "das"): "ins", ("an", "dem"): "am"}


def written(words: list[str]) -> str:
    """Words as text: a capital at the start, "in dem" is written "im", no space before a mark.

    >>> written(["er", "schläft", "in", "dem", "Garten", "."])
    'Er schläft im Garten.'
    """
    out: list[str] = []
    for word in words:
        joined = _JOINED.get((out[-1], word)) if out else None
        if joined:
            out[-1] = joined
        else:
            out.append(word)
    text = "".join(("" if word in (".", ",") or i == 0 else " ") + word for i, word in enumerate(out))
    return text[:1].upper() + text[1:]
