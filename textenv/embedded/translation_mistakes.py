"""The careless writer: the German of a sentence, with mistakes.

How careful a writer is stays hidden. Mistakes are those of learners: the wrong article or gender, the wrong ending, the wrong form
of a verb (or "haben" for "sein"), English word order, another word of the same kind (with its own right article), an English word
left in, a word left out. No word has two.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from textenv.embedded import german_forms as forms
from textenv.embedded.german_words import ADJECTIVES, NOUNS, VERBS
from textenv.embedded.german_writing import Word, orders, written
from textenv.embedded.synchronous import Sentence, put
from textenv.embedded.synchronous_sampling import same_kind

__all__ = ["KINDS", "Draft", "careless"]

KINDS = ("wrong word", "word order", "article", "ending", "agreement", "untranslated", "left out")
_CARE = {0.05: 25, 0.2: 40, 0.4: 35}  # how often a mistake that is possible is made: how many writers are such
_HOW_OFTEN = {
    "wrong word": 0.3, "word order": 1.2, "article": 1.0, "ending": 1.2, "agreement": 0.8, "untranslated": 0.2, "left out": 0.15,
}  # fmt: skip
_OTHER_AUXILIARY = {"have": "be", "be": "have"}


@dataclass(frozen=True)
class Draft:
    """A translation as its writer left it: the words, and for each what is wrong with it ("" for nothing)."""

    words: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def text(self) -> str:
        return written(list(self.words))


@dataclass(frozen=True)
class _Item:
    word: Word
    form: str
    label: str = ""


def careless(rng: random.Random, tree: Sentence, kinds: Sequence[str] = KINDS, rate: float | None = None) -> Draft:
    """One translation.

    Args:
        kinds: the mistakes that may be made.
        rate: how often (0..1); None: as the writer is.
    """
    rate = rng.choices(list(_CARE), list(_CARE.values()))[0] if rate is None else rate
    often = {kind: rate * share if kind in kinds else 0.0 for kind, share in _HOW_OFTEN.items()}
    tree, slots = _other_words(rng, tree, often["wrong word"])
    ways = list(orders(tree))
    way = ways[0] if rng.random() < 0.8 else rng.choice(ways)
    items = [_Item(word, word.form, "wrong word" if word.slot in slots else "") for word in way]
    for clause in ("main", "other"):
        if rng.random() < often["word order"]:
            items = _moved(rng, items, clause)
    items = [_changed(rng, item, often) for item in items]
    return _left_out(rng, items, often["left out"])


def _other_words(rng: random.Random, tree: Sentence, share: float) -> tuple[Sentence, set[tuple[str, ...]]]:
    slots: set[tuple[str, ...]] = set()
    for word in next(orders(tree)):
        kind = {"finite": "verb", "nonfinite": "verb"}.get(word.kind, word.kind)
        if kind in ("noun", "verb", "adjective") and word.slot not in slots and rng.random() < share:
            other = same_kind(rng, kind, word.key)
            if other and word.key != "be" and other not in {w.key for w in next(orders(tree))}:
                tree, slots = put(tree, word.slot, other), slots | {word.slot}
    return tree, slots


def _moved(rng: random.Random, items: list[_Item], clause: str) -> list[_Item]:
    """One word of the clause where English would put it, if there is such a word."""
    here = [i for i, item in enumerate(items) if item.word.slot[:1] == (clause,)]
    verb = next((i for i in here if items[i].word.kind in ("finite", "auxiliary")), None)
    subject = [i for i in here if items[i].word.slot[1:2] == ("subject",)]
    if verb is None:
        return items
    ways: list[tuple[int, int]] = []  # from where, before what
    end = subject[-1] + 1
    if verb < subject[0] or verb > end:
        ways.append((verb, end))
    last = next((i for i in here if items[i].word.kind in ("nonfinite", "prefix")), None)
    if verb < subject[-1] or verb == end:  # a main clause
        between = [] if last is None else items[max(verb, end - 1) + 1 : last]
        if last is not None and [item.word.kind for item in between] not in ([], ["not"]):
            ways.append((last, max(verb, end - 1) + 1))
        no = next((i for i in here if items[i].word.kind == "not"), None)
        if no is not None and no > verb + 1 and subject[-1] < verb:
            ways.append((no, verb))
    ways = [(start, stop) for start, stop in ways if not items[start].label]
    if not ways:
        return items
    start, stop = rng.choice(ways)
    moving = replace(items[start], label="word order")
    rest = [item for i, item in enumerate(items) if i != start]
    at = stop - (start < stop)
    return [*rest[:at], moving, *rest[at:]]


def _changed(rng: random.Random, item: _Item, often: dict[str, float]) -> _Item:
    """The word in a wrong form, or in English."""
    if item.label:
        return item
    kind = {"finite": "agreement", "auxiliary": "agreement", "article": "article", "adjective": "ending"}.get(item.word.kind, "")
    if kind and rng.random() < often[kind]:
        wrong = sorted(_wrong_forms(rng, item.word) - {item.word.form})
        if wrong:
            return replace(item, form=rng.choice(wrong), label=kind)
    if rng.random() < often["untranslated"]:
        english = _english(item.word)
        if forms.english_readings(english):
            return replace(item, form=english, label="untranslated")
    return item


def _wrong_forms(rng: random.Random, word: Word) -> set[str]:
    if word.kind == "article":
        return {forms.article(word.key, case, gender) for case in forms.CASES for gender in "mfnp"} - {""}
    if word.kind == "adjective":
        return {ADJECTIVES[word.key].stem + ending for ending in forms.ENDINGS}
    if word.kind == "auxiliary" or word.key == "be":
        past = word.form.startswith("war")
        person = next(p for p in range(5) if forms.auxiliary("was" if past else word.key, p) == word.form)
        if word.slot[-1] == "helper" and rng.random() < 0.4:
            return {forms.auxiliary(_OTHER_AUXILIARY[word.key], person)}
        return {forms.auxiliary("was" if past else word.key, p) for p in range(5)}
    verb = VERBS[word.key]
    prefix = verb.prefix if verb.prefix and word.form.startswith(verb.prefix) else ""
    return {prefix + forms.finite(verb, person) for person in range(5)}


def _english(word: Word) -> str:
    """The English of a noun, adjective or verb of one word; "" for the rest."""
    if word.kind == "noun":
        noun = NOUNS[word.key]
        return noun.english if word.form == noun.german else noun.english_plural
    if word.kind == "adjective":
        return word.key
    if word.kind in ("finite", "nonfinite") and word.key != "be" and " " not in word.key and not VERBS[word.key].prefix:
        verb = VERBS[word.key]
        if word.form in (verb.participle, verb.infinitive):
            return verb.past if word.form == verb.participle else word.key
        return forms.third_person(word.key)
    return ""


def _left_out(rng: random.Random, items: Sequence[_Item], share: float) -> Draft:
    words, labels, gap = [], [], False
    for item in items:
        if not item.label and item.form != "." and rng.random() < share:
            gap = True
            continue
        label = item.label
        if gap and item.label != "word order":
            label, gap = item.label or "left out", False
        words.append(item.form)
        labels.append(label)
    return Draft(tuple(words), tuple(labels))
