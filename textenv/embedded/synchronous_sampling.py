"""Draws sentences of the synchronous grammar that make sense: who can do what with what, in which tense, at what time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from textenv.embedded.german_forms import MODALS
from textenv.embedded.german_words import ADJECTIVES, ADVERBIALS, NOUNS, VERBS, Verb
from textenv.embedded.synchronous import Clause, NounPhrase, Sentence, english

__all__ = ["LONGEST", "SHORTEST", "same_kind", "sentence"]

SHORTEST, LONGEST = 4, 14
"""Words of an English sentence."""

_FRAMES = {
    "accusative": 36, "intransitive": 12, "copula": 14, "dative": 7, "ditransitive": 8, "direction": 9, "place": 10,
    "put": 4, "companion": 6,
}  # fmt: skip
_BY_FRAME = {
    frame: [verb for verb in VERBS.values() if verb.frame == frame]
    for frame in dict.fromkeys(verb.frame for verb in VERBS.values())
}
_BY_SORT = {
    sort: [key for key, noun in NOUNS.items() if noun.sort == sort] for sort in dict.fromkeys(n.sort for n in NOUNS.values())
}
_FITTING = {sort: [key for key, word in ADJECTIVES.items() if sort in word.sorts] for sort in _BY_SORT}
_PREPOSITIONS = {"area": ("in",), "building": ("in", "behind", "in front of", "next to"), "surface": ("on", "under", "next to")}
_ARTICLES = {"the": 10, "a": 7, "my": 3, "our": 2, "his": 2, "this": 2}
_KNOWN = {key: weight for key, weight in _ARTICLES.items() if key != "a"}
_UNIQUE = ("kitchen", "king", "queen")  # one has one of them: no plural


def sentence(rng: random.Random) -> Sentence:
    """One sentence of 4 to 14 English words; no noun and no verb stands in it twice."""
    while True:
        drawn = rng.choices((_simple, _reason, _condition, _that, _pair), (56, 12, 10, 12, 10))[0](rng)
        if SHORTEST <= len(english(drawn).split()) <= LONGEST and _distinct(drawn):
            return drawn


def same_kind(rng: random.Random, kind: str, key: str, sorts: Sequence[str] = ()) -> str:
    """Another noun of the same sort, verb of the same frame and use, or adjective; "" where there is none."""
    if kind == "noun":
        others = _BY_SORT[NOUNS[key].sort]
    elif kind == "verb":
        verb = VERBS[key]
        others = [o.english for o in _BY_FRAME[verb.frame] if o.subjects == verb.subjects and set(o.objects) & set(verb.objects)]
        others += [o.english for o in _BY_FRAME[verb.frame] if not verb.objects and o.subjects == verb.subjects]
        others = [key for key in others if VERBS[key].infinitive != verb.infinitive]  # "macht auf", "macht zu": half is right
    else:
        others = sorted({other for sort in ADJECTIVES[key].sorts for other in _FITTING[sort]})
    others = [other for other in dict.fromkeys(others) if other != key]
    return rng.choice(others) if others else ""


def _distinct(drawn: Sentence) -> bool:
    clauses = [clause for clause in (drawn.main, drawn.other) if clause]
    phrases = [p for c in clauses for p in (c.subject, c.dative, c.accusative, c.place) if p]
    nouns = [phrase.noun for phrase in phrases if phrase.noun]
    verbs = [clause.verb for clause in clauses]
    return len(set(nouns)) == len(nouns) and len(set(verbs)) == len(verbs)


def _simple(rng: random.Random) -> Sentence:
    return Sentence(_clause(rng, time=0.5))


def _pair(rng: random.Random) -> Sentence:
    tense = rng.choice(("past", "now", "modal"))
    main = _clause(rng, tense, time=0.2, rich=0.2, subject=0.5)
    return Sentence(main, rng.choice(("and", "but")), _clause(rng, tense, rich=0.2, subject=0.5))


def _reason(rng: random.Random) -> Sentence:
    conjunction = rng.choice(("because", "because", "although"))
    tense = rng.choice(("past", "now"))
    main, other = _clause(rng, tense, rich=0.3, subject=0.5), _clause(rng, tense, rich=0.3, subject=0.6, weather=0.08)
    return Sentence(main, conjunction, other, other_first=rng.random() < 0.3)


def _condition(rng: random.Random) -> Sentence:
    conjunction = rng.choice(("when", "if"))
    main = _clause(rng, rng.choice(("simple", "simple", "modal")), rich=0.3, subject=0.5)
    other = _clause(rng, "simple", rich=0.3, subject=0.6, weather=0.25)
    return Sentence(main, conjunction, other, other_first=rng.random() < 0.5)


def _that(rng: random.Random) -> Sentence:
    verb = rng.choice(_BY_FRAME["that"])
    main = Clause(_subject(rng, verb, 0.6), verb.english)
    if rng.random() < 0.25 and verb.english in ("say", "believe"):
        main = replace(main, negated=True, subject=_definite(main.subject))
    return Sentence(main, "that", _clause(rng, rng.choice(("past", "now", "modal")), rich=0.3, subject=0.4))


def _clause(
    rng: random.Random, tense: str = "", *, time: float = 0.0, rich: float = 0.45, subject: float = 0.3, weather: float = 0.0
) -> Clause:
    """`time`, `rich`, `subject`, `weather`: shares of clauses with an adverbial, of nouns with an adjective, of subjects that are
    pronouns, of clauses about the weather."""
    tense = tense or rng.choice(("past", "past", "now", "modal", "simple"))
    if rng.random() < weather:
        verb = rng.choice(_BY_FRAME["weather"])
        return Clause(NounPhrase(pronoun="it"), verb.english, "progressive" if tense == "now" else tense)
    verb = rng.choice(_BY_FRAME[rng.choices(list(_FRAMES), list(_FRAMES.values()))[0]])
    if tense == "modal":
        tense = rng.choice(MODALS) if verb.frame != "copula" and verb.progressive else "simple"
    elif tense == "now":
        tense = "progressive" if verb.progressive else "simple"
    elif tense == "simple" and time and verb.progressive:
        time = 1.0  # a habit says how often
    clause = Clause(_subject(rng, verb, subject, rich), verb.english, tense)
    if tense == "simple" and verb.past == verb.english and clause.subject.person != 2:
        clause = replace(clause, subject=NounPhrase(pronoun=rng.choice(("he", "she"))))  # "I read" would be two tenses
    if clause.tense in MODALS and clause.subject.noun and NOUNS[clause.subject.noun].sort not in ("person", "animal"):
        clause = replace(clause, tense="past")  # a shirt wants nothing
    clause = _complements(rng, clause, verb, rich)
    if rng.random() < 0.2 and clause.tense != "must":
        clause = _negated(clause)
    if rng.random() < time:
        clause = _timed(rng, clause, verb)
    return clause


def _subject(rng: random.Random, verb: Verb, pronoun: float, rich: float = 0.2) -> NounPhrase:
    sorts = verb.subjects or ("person", "person", "animal", "text", "vehicle", "cloth", "thing", "door", "building", "area")
    sort = sorts[0] if len(sorts) > 1 and rng.random() < 0.6 else rng.choice(sorts)
    if sort == "person" and rng.random() < pronoun:
        return NounPhrase(pronoun=rng.choice(("I", "you", "he", "she", "we")))
    return _phrase(rng, sort, 0.0 if verb.frame == "copula" else rich, known=verb.frame == "copula" or rng.random() < 0.6)


def _phrase(rng: random.Random, sort: str, rich: float, known: bool = False, plural: float = 0.25) -> NounPhrase:
    noun = rng.choice(_BY_SORT[sort])
    many = noun not in _UNIQUE and rng.random() < plural
    weights = _KNOWN if known else _ARTICLES
    article = rng.choices(list(weights), list(weights.values()))[0]
    fitting = rng.random() < rich and _FITTING[sort]
    return NounPhrase("" if many and article == "a" else article, rng.choice(fitting) if fitting else "", noun, many)


def _complements(rng: random.Random, clause: Clause, verb: Verb, rich: float) -> Clause:
    def thing(sorts: Sequence[str], known: bool = False) -> NounPhrase:
        return _phrase(rng, rng.choice(sorts), rich, known)

    def place(preposition: str, sort: str) -> Clause:
        return replace(clause, preposition=preposition, place=_phrase(rng, sort, rich, rng.random() < 0.7, plural=0.08))

    if verb.frame == "copula":
        sort = NOUNS[clause.subject.noun].sort if clause.subject.noun else "person"
        return replace(clause, quality=rng.choice(_FITTING[sort]))
    if verb.frame == "place":
        sort = rng.choice(verb.objects)
        preposition = "in" if verb.english == "live" or sort == "area" else rng.choice(_PREPOSITIONS[sort])
        return place("on" if verb.english == "sit" and sort == "surface" else preposition, sort)
    if verb.frame == "direction":
        into = place("into", rng.choice(verb.objects))
        while verb.english == "drive" and into.place and into.place.noun in ("garden", "kitchen"):
            into = place("into", "area")
        return into
    if verb.frame == "companion":
        return place("with", rng.choice(verb.objects))
    if verb.frame == "dative":
        return replace(clause, dative=thing(verb.objects))
    if verb.frame == "intransitive":
        if rng.random() < 0.35 and not verb.prefix:
            return place("in", "area")
        return clause
    if verb.frame == "put":
        clause = replace(clause, accusative=thing(verb.objects))
        return place("on", "surface")
    clause = replace(clause, accusative=thing(verb.objects))
    if verb.frame == "ditransitive":
        return replace(clause, dative=_phrase(rng, "person", 0.2, rng.random() < 0.6))
    if verb.english in ("buy", "paint", "carry", "look for", "write") and rng.random() < 0.25:
        return place("for", "person")
    return clause


def _definite(phrase: NounPhrase) -> NounPhrase:
    return replace(phrase, article="the") if phrase.article in ("", "a") and phrase.noun else phrase


def _negated(clause: Clause) -> Clause:
    """The clause denied; what is spoken of must then be known, or "not a" is "kein"."""
    if clause.preposition == "for" or clause.verb in ("lose", "run"):
        return clause
    return replace(
        clause,
        negated=True,
        subject=_definite(clause.subject),
        dative=clause.dative and _definite(clause.dative),
        place=clause.place and _definite(clause.place),
    )


def _timed(rng: random.Random, clause: Clause, verb: Verb) -> Clause:
    tense = "modal" if clause.tense in MODALS else clause.tense
    if verb.frame == "copula" and tense == "simple":
        fitting = ["today", "often", "always"] if clause.quality in ("tired", "hungry", "sick", "dirty", "quiet") else []
    elif tense == "simple" and not verb.progressive:
        fitting = [time for time in ("often", "always", "today") if verb.english == "see"]
    else:
        fitting = [time.english for time in ADVERBIALS.values() if tense in time.tenses]
    if verb.english in ("love", "live") or (verb.frame == "copula" and tense == "past" and clause.quality not in _PASSING):
        fitting = []
    if clause.negated:
        fitting = [time for time in fitting if time not in ("often", "always", "sometimes", "every day")]
    if not fitting:
        return clause
    time = rng.choice(fitting)
    front = {"often": 0.0, "always": 0.0, "sometimes": 1.0}.get(time, 0.4)
    return replace(clause, time=time, fronted=rng.random() < front)


_PASSING = ("tired", "hungry", "friendly", "sick", "dirty", "quiet")
