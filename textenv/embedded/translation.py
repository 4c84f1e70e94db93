"""The embedded world of translation: English sentences, their German, and the German of a careless writer.

    example = sample(random.Random(0))
    example.prompt.text         the English sentence; example.prompt.references: its German
    example.text                what a writer of some hidden care made of it, a space before it
    example.spans               the words that are wrong, each -1 and labelled

The truth about any text needs nothing but the prompt: the source is read back into its tree (`synchronous_reading`), the tree is
written in German in every permitted order, and the text is compared with the nearest (`german_errors`, where the conventions
are). A text that speaks of another noun, verb, adjective or article of the lexicon is compared with the German of *that*: "die
Katze" for "the dog" has one wrong word, not a wrong article too.

`grammar_errors` needs no source: the text is read as it stands (`german_reading`) and compared with what it should have been.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from functools import lru_cache

from textenv.embedded import german_forms, german_words
from textenv.embedded.examples import Example
from textenv.embedded.german_errors import Comparison, Token, compare, tokens
from textenv.embedded.german_reading import read_german
from textenv.embedded.german_writing import Word, german, orders, written
from textenv.embedded.synchronous import Sentence, english, put
from textenv.embedded.synchronous_reading import read_english
from textenv.embedded.synchronous_sampling import sentence
from textenv.embedded.translation_mistakes import careless
from textenv.episode import Prompt, Span

__all__ = [
    "Example", "accepts", "grammar_error_rate", "grammar_errors", "is_embedded", "prompt_of", "quality", "sample", "truth_spans",
    "vocabulary",
]  # fmt: skip


def sample(rng: random.Random) -> Example:
    """One source sentence, and a translation with its mistakes."""
    tree = sentence(rng)
    prompt = prompt_of(tree)
    text = " " + careless(rng, tree).text
    return Example(prompt, text, tuple(truth_spans(prompt, text)))


def prompt_of(tree: Sentence) -> Prompt:
    """The source, and as references its German and the variant with the adverbial moved to or from the front, if it has one."""
    variants = [written([word.form for word in words]) for words in orders(tree)]
    straight = written([word.form for word in german(tree)])
    moved = [text for text in variants if text.split()[0] != straight.split()[0]]
    return Prompt(english(tree), references=(straight, *moved[:1]))


def is_embedded(prompt: Prompt) -> bool:
    """Whether the prompt is a sentence of this grammar, so that the truth about its translations is known."""
    return read_english(prompt.text) is not None


def truth_spans(prompt: Prompt, text: str) -> list[Span]:
    """The words of a translation that are wrong, in order: reward -1, `label` as in `german_errors`.

    >>> prompt = Prompt("The old man is buying a car.")
    >>> text = " Die alte Mann kaufen ein Auto."
    >>> [(text[span.start : span.end], span.label) for span in truth_spans(prompt, text)]
    [('Die', 'article'), ('kaufen', 'agreement')]

    Raises:
        ValueError: the prompt is no sentence of the embedded grammar.
    """
    found = tokens(text)
    return _against(prompt.text, text)[0].spans(found)


def quality(prompt: Prompt, text: str) -> float:
    """How good a translation is: (1 - mistakes / words)², in [0, 1]; words: of the longer of text and reference.

    A mistake is a word that is wrong, misplaced, too many, or missing. 1.0 is a permitted translation, 0.0 an empty text.

    Raises:
        ValueError: the prompt is no sentence of the embedded grammar.
    """
    comparison, length = _against(prompt.text, text)
    return max(0.0, 1.0 - comparison.mistakes / max(length, len(tokens(text)))) ** 2


def grammar_errors(text: str) -> list[Span]:
    """The words of a German text that break its grammar, whatever it was meant to say: reward -1, labels as in `german_errors`.

    >>> text = "Weil der Mann liest ein alte Buch, schlafe die Katze."
    >>> [(text[span.start : span.end], span.label) for span in grammar_errors(text)]
    [('liest', 'word order'), ('alte', 'ending'), ('schlafe', 'agreement')]
    """
    spans: list[Span] = []
    for part in _sentences(tokens(text)):
        spans += _judged(tuple(part)).spans(part)
    return spans


def accepts(text: str) -> bool:
    """Whether a text is one German sentence that the grammar may write: complete, without an error.

    >>> accepts("Heute kauft der Mann ein Auto."), accepts("Heute der Mann kauft ein Auto."), accepts("Der Hund.")
    (True, False, False)
    """
    parts = _sentences(tokens(text))
    if len(parts) != 1 or parts[0][-1].form != ".":
        return False
    spaced = all(
        text[one.end : two.start] == ("" if two.form in (".", ",") else " ")
        for one, two in itertools.pairwise(parts[0])
        if one.start != two.start  # "im" is two words
    )
    return spaced and _judged(tuple(parts[0])).mistakes == 0


def grammar_error_rate(texts: Sequence[str]) -> float:
    """Grammar errors a word, over all texts; NaN without words.

    >>> grammar_error_rate(["Der Mann schläft.", "Die Mann schläft."])
    0.16666666666666666
    """
    words = sum(len(text.split()) for text in texts)
    return sum(len(grammar_errors(text)) for text in texts) / words if words else float("nan")


_ENGLISH = "the a an my our his this these am is are was were do does did not can cannot must should want wants to"


def vocabulary() -> list[str]:
    """Every word form that a source or a translation can hold, mistakes included, without the capital of a sentence, sorted."""
    found = set(german_forms.all_forms())
    for verb in german_words.VERBS.values():
        found |= {w for form in (verb.past, verb.progressive, german_forms.third_person(verb.english)) for w in form.split()}
    for key in (*german_words.VERBS, *german_words.ADJECTIVES, *german_words.ADVERBIALS, *german_words.CONJUNCTIONS):
        found |= set(key.split())
    for noun in german_words.NOUNS.values():
        found |= {noun.english, noun.english_plural}
    found |= {word for key in german_forms.PREPOSITIONS for word in key.split()} | set(german_forms.PRONOUNS)
    found |= set(_ENGLISH.split())
    return sorted(found | {"im", "ins", "am"})


# --------------------------------------------------------------------------------------------- comparing


def _sentences(found: Sequence[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in found:
        parts[-1].append(token)
        if token.form == ".":
            parts.append([])
    return [part for part in parts if part]


@lru_cache(maxsize=1 << 14)
def _judged(part: tuple[Token, ...]) -> Comparison:
    """One sentence against the nearest that may have been meant."""
    candidates = dict.fromkeys(tree for tree in read_german(part))
    found = [compare(words, part) for tree in candidates for words in orders(tree)]
    return min(found, key=lambda comparison: comparison.cost)


@lru_cache(maxsize=1 << 14)
def _against(source: str, text: str) -> tuple[Comparison, int]:
    """The text against the nearest German of the source, and how many words that has."""
    tree = read_english(source)
    if tree is None:
        raise ValueError(
            f"nothing is known about translations of {source[:80]!r}: it is no sentence of the embedded grammar; "
            'the embedded prompts are: embedded.prompts("translation")'
        )
    found = tokens(text)
    ranked = [(compare(words, found), words) for words in orders(tree)]
    plain, words = min(ranked, key=lambda pair: pair[0].cost)
    best, length = plain, len(words)
    for slots, adapted in _adapted(tree, plain, words, found):
        for other in orders(adapted):
            comparison = _with_wrong_words(compare(other, found), other, slots)
            if (comparison.mistakes, comparison.cost) <= (best.mistakes, math.inf if best is plain else best.cost):
                best, length = comparison, len(other)
    return best, length


_ADAPTED = ("article", "adjective", "noun", "pronoun", "finite", "nonfinite")


def _adapted(
    tree: Sentence, plain: Comparison, words: Sequence[Word], found: Sequence[Token]
) -> list[tuple[frozenset[tuple[str, ...]], Sentence]]:
    """The tree with those words in it that the text has instead, and where they are."""
    choices: list[list[tuple[tuple[str, ...], str]]] = []
    for j, label in plain.labels.items():
        word = words[plain.pairs[j]] if j in plain.pairs else None
        if label == "wrong word" and word and word.kind in _ADAPTED:
            kind = "verb" if word.kind in ("finite", "nonfinite") else word.kind
            form = found[j].form[:1].lower() + found[j].form[1:] if found[j].first else found[j].form
            keys = sorted(key for sort, key in german_forms.readings(form) if sort == kind)
            if kind == "verb":
                keys = [key for key in keys if german_words.VERBS[key].frame == german_words.VERBS[word.key].frame]
            if kind == "article":
                keys = [key for key in keys if key != "no" and word.key != "no"]
            if keys:
                choices.append([(word.slot, key) for key in keys])
    made = []
    for choice in itertools.islice(itertools.product(*choices), 8):
        other = tree
        for slot, key in choice:
            other = put(other, slot, key)
        if choice:
            made.append((frozenset(slot for slot, _ in choice), other))
    return made


def _with_wrong_words(comparison: Comparison, words: Sequence[Word], slots: frozenset[tuple[str, ...]]) -> Comparison:
    """The words that come from adapted places are wrong, whatever their form."""
    labels = dict(comparison.labels)
    new = {j for j, i in comparison.pairs.items() if words[i].slot in slots}
    labels |= dict.fromkeys(new, "wrong word")
    return Comparison(labels, comparison.pairs, comparison.mistakes + len(new - set(comparison.labels)), comparison.cost)
