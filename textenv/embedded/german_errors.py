"""Which words of a German text depart from the sentence that it should be, and how.

`compare` aligns the words of a text with those of a correct sentence at the least cost and names each difference. Conventions:

1. A word in its wrong form is marked itself: "article", "ending" (adjectives and nouns), "agreement" (verbs, auxiliaries),
   "spelling" (only its capital letter is wrong).
2. Another word in its place: "wrong word"; an English one: "untranslated".
3. A word that stands elsewhere than it should is marked where it stands: "word order". Of two ways to see it the one that moves
   a verb, a prefix or "nicht" is taken. A separable verb that was not separated ("Er anruft") is one mistake of order.
4. A word too many is marked: "extra word". A word that is missing is marked on the word that follows, the first place where it
   shows ("left out"; that is also the choice that a policy made wrongly); at the end of the text there is none to mark.
5. A word has one mark, that of the first rule above that fits: spelling, form, word, order, extra, left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from textenv.embedded.german_forms import english_readings, readings
from textenv.embedded.german_writing import Word
from textenv.episode import Span

__all__ = ["Comparison", "Token", "compare", "tokens"]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_SPLIT = {"im": ("in", "dem"), "ins": ("in", "das"), "am": ("an", "dem")}
_MOVES = {"finite": 0.44, "auxiliary": 0.44, "nonfinite": 0.45, "prefix": 0.45, "not": 0.46}  # half the price of moving it
_VERBS = ("finite", "nonfinite", "auxiliary")
_FIRM = 1.15  # what another word costs that is missing or too many
_NO_MATCH = 9.0


@dataclass(frozen=True)
class Token:
    """A word of a text: `form`, and its characters. "im" is two words of the same two characters."""

    form: str
    start: int
    end: int
    first: bool = False  # the first word of a sentence


def tokens(text: str) -> list[Token]:
    """The words and marks of a text, in order."""
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        first = not found or found[-1].form == "."
        form = match[0]
        parts = _SPLIT.get(_uncapital(form) if first else form)
        if parts:
            head = parts[0].capitalize() if form[0].isupper() else parts[0]
            found += [Token(head, match.start(), match.end(), first), Token(parts[1], match.start(), match.end())]
        else:
            found.append(Token(form, match.start(), match.end(), first))
    return found


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    labels: token index → what is wrong with it.
    pairs: token index → index of the word that it stands for.
    mistakes: how many words are wrong, too many, or missing (at the end too).
    cost: what the alignment cost, for choosing between sentences.
    """

    labels: dict[int, str]
    pairs: dict[int, int]
    mistakes: int
    cost: float

    def spans(self, text_tokens: Sequence[Token], offset: int = 0) -> list[Span]:
        """The marks as spans of reward -1, in order; two marks on one written word ("im") are one span."""
        found: dict[tuple[int, int], str] = {}
        for i, label in sorted(self.labels.items()):
            found.setdefault((text_tokens[i].start + offset, text_tokens[i].end + offset), label)
        return [Span(start, end, -1.0, label) for (start, end), label in found.items()]


@lru_cache(maxsize=1 << 16)
def _difference(word: Word, form: str, first: bool) -> tuple[float, str]:
    """What it costs that `form` stands for `word`, and what the mistake is called ("" for none)."""
    wanted = word.form[:1].upper() + word.form[1:] if first else word.form
    if form == wanted:
        return 0.0, ""
    if form.lower() == wanted.lower():
        return 0.3, "spelling"
    known = _readings(form, first)
    if word.kind in _VERBS:
        kinds = [key for kind, key in known if kind in ("verb", "auxiliary")]
        if word.key in kinds or (word.kind == "auxiliary" and word.key in ("have", "be") and {"have", "be"} & set(kinds)):
            return 0.5, "agreement"
        if (word.kind == "auxiliary") == any(kind == "auxiliary" for kind, _ in known) and kinds:
            return 0.85, "wrong word"
    elif word.kind != "mark":
        if (word.kind, word.key) in known and word.kind not in ("adverb", "preposition", "conjunction", "prefix", "not"):
            return 0.5, {"article": "article"}.get(word.kind, "ending")
        if any(kind == word.kind for kind, _ in known):
            return 0.85, "wrong word"
    foreign = english_readings(form) or english_readings(_uncapital(form) if first else form)
    if foreign and word.kind != "mark":
        return (0.6, "untranslated") if any(key == word.key for _, key in foreign) else (0.95, "untranslated")
    if not known and not foreign and word.kind != "mark" and form[0].isalnum():
        return (1.3 if word.kind in _MOVES else 0.97), "wrong word"
    return _NO_MATCH, ""


@lru_cache(maxsize=1 << 14)
def _readings(form: str, first: bool) -> frozenset[tuple[str, str]]:
    known = readings(form)
    return known | readings(_uncapital(form)) if first else known


def _uncapital(form: str) -> str:
    return form[:1].lower() + form[1:]


def compare(words: Sequence[Word], text_tokens: Sequence[Token]) -> Comparison:
    """The text against one correct sentence, at the least cost.

    A word that is missing or too many costs more than one that is wrong; the less, the likelier it is that it has moved.
    """
    n, m = len(words), len(text_tokens)
    gone, extra = _gap_costs(words, text_tokens)
    above = [0.0, *itertools.accumulate(extra)]
    step = [["extra"] * (m + 1)]
    for word, missing in zip(words, gone, strict=True):
        row, steps = [above[0] + missing], ["gone"]
        for j, token in enumerate(text_tokens):
            least, kind = above[j] + _difference(word, token.form, token.first)[0], "match"
            if row[j] + extra[j] < least:
                least, kind = row[j] + extra[j], "extra"
            if above[j + 1] + missing < least:
                least, kind = above[j + 1] + missing, "gone"
            row.append(least)
            steps.append(kind)
        above = row
        step.append(steps)
    pairs: dict[int, int] = {}
    i, j = n, m
    while i or j:
        kind = step[i][j]
        i, j = i - (kind != "extra"), j - (kind != "gone")
        if kind == "match":
            pairs[j] = i
    return _labelled(words, text_tokens, pairs, above[m])


def _gap_costs(words: Sequence[Word], text_tokens: Sequence[Token]) -> tuple[list[float], list[float]]:
    """What it costs that a word is missing, and that a token is too many: little for a verb, prefix or "nicht" that both have."""
    gone, extra = [_FIRM] * len(words), [_FIRM] * len(text_tokens)
    for i, word in enumerate(words):
        if word.kind in _MOVES:
            for j, token in enumerate(text_tokens):
                if _difference(word, token.form, token.first)[0] <= 0.5:
                    gone[i] = extra[j] = _MOVES[word.kind]
    return gone, extra


def _labelled(words: Sequence[Word], text_tokens: Sequence[Token], pairs: dict[int, int], cost: float) -> Comparison:
    labels = {}
    for j, i in pairs.items():
        label = _difference(words[i], text_tokens[j].form, text_tokens[j].first)[1]
        if label:
            labels[j] = label
    missing = [i for i in range(len(words)) if i not in pairs.values()]
    for j in range(len(text_tokens)):  # a word that is missing there and stands here
        if j in pairs:
            continue
        here = [k for k in missing if _difference(words[k], text_tokens[j].form, text_tokens[j].first)[0] <= 0.5]
        labels[j] = "word order" if here else "extra word"
        if here:
            missing.remove(here[0])
            pairs[j] = here[0]
    missing = _unseparated(words, text_tokens, pairs, labels, missing)
    mistakes = len(labels) + len(missing)
    after = {i: j for j, i in pairs.items() if labels.get(j) != "word order"}
    for i in missing:
        nearest = [after[k] for k in range(i + 1, len(words)) if k in after]
        if nearest:
            labels.setdefault(nearest[0], "left out")
    return Comparison(labels, pairs, mistakes, cost)


def _unseparated(
    words: Sequence[Word], text_tokens: Sequence[Token], pairs: dict[int, int], labels: dict[int, str], missing: list[int]
) -> list[int]:
    """Verbs that are separated where they should not be, or not where they should, marked as one mistake.

    Returns the words that are missing all the same: the "an" of "anruft" is not.
    """
    for j, k in pairs.items():
        form = text_tokens[j].form.lower()
        if words[k].kind != "finite":
            continue
        for i in [i for i in missing if words[i].kind == "prefix" and words[i].slot == words[k].slot]:
            if form.startswith(words[i].form):
                labels[j] = "word order"
                missing = [other for other in missing if other != i]
        for other in [other for other, label in labels.items() if label == "extra word"]:
            prefix = text_tokens[other].form.lower()
            if words[k].form.startswith(prefix) and ("prefix", prefix) in readings(prefix) and not form.startswith(prefix):
                labels[j] = "word order"
                del labels[other]
    return missing
