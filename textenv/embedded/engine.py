"""A small probabilistic grammar: it writes documents with their marks and probability, and recognises sentences.

A rule maps a slot to weighted templates; a template is words, punctuation and {slots}. Three additions to the textbook
context-free grammar keep the texts plausible and the probabilities exact:

1. A document has a domain; `{part}`, `{thing}`, ... mean that domain's words.
2. A word list is drawn from without replacement within a sentence ("the bed and the bed" is never written); the
   recogniser does not mind repetition.
3. A document of a genre has a hidden mood, which only sets how often each kind of sentence comes. The probability of the
   text sums over the moods:  P(text) = P(domain) · Σ_m P(m) Π_i P(kind_i | m) P(sentence_i | kind_i, domain) · P(length).
   No two derivations write the same sentence (a test samples for it), so this is the probability of the text itself.

After `shortest` sentences a document stops with a fixed probability after each further one, so that a model which is kept
from stopping meets nothing new.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from textenv.embedded.notation import Document, Genre, Option, join_words
from textenv.episode import Span

__all__ = ["Grammar"]

_TOKEN = re.compile(r"[A-Za-z]+|[.,!?]")


def _a_or_an(words: list[str]) -> None:
    for i in range(len(words) - 1):
        if words[i] == "a" and words[i + 1][0] in "aeiou":
            words[i] = "an"


class Grammar:
    """Genres over shared rules and domains; see the module's head.

    Args:
        rules: slots that every genre may use.
        domains: domain → {slot: option}, in the order of their Zipf weights.
        marks: slot → (reward, label): whatever the slot becomes is a span.
    """

    def __init__(
        self,
        genres: Iterable[Genre],
        rules: Mapping[str, Option],
        domains: Mapping[str, Mapping[str, Option]],
        marks: Mapping[str, tuple[float, str]],
        slope: float = 0.7,
    ) -> None:
        self.genres = {genre.name: genre for genre in genres}
        self.rules = dict(rules)
        for genre in self.genres.values():
            self.rules.update(genre.rules)
        self.domains = domains
        self.marks = marks
        self._domain_names = tuple(domains)
        self._domain_weights = [(i + 2.0) ** -slope for i in range(len(domains))]
        self._noun = {
            symbols[0][1]: name
            for name, slots in domains.items()
            for slot, option in slots.items()
            if slot != "did"
            for symbols in option.symbols
        }
        kinds = {g.opening for g in self.genres.values()}
        kinds |= {kind for g in self.genres.values() for _, shares in g.moods.values() for kind in shares}
        self._kinds = tuple(sorted(kinds))
        self._accepts = lru_cache(maxsize=100_000)(self._recognise)

    # ------------------------------------------------------------------ writing

    def sample(self, rng: random.Random, genre: str | None = None) -> Document:
        """One document, of the named genre or of any."""
        chosen = self.genres[genre] if genre else self.genres[rng.choice(sorted(self.genres))]
        log_p = 0.0 if genre else -math.log(len(self.genres))
        domain = rng.choices(self._domain_names, self._domain_weights)[0]
        log_p += math.log(self._domain_weights[self._domain_names.index(domain)] / sum(self._domain_weights))
        moods = list(chosen.moods)
        mood = rng.choices(moods, [chosen.moods[m][0] for m in moods])[0]
        posterior = {m: math.log(chosen.moods[m][0]) for m in moods}

        text, kinds = "", list[str]()
        spans, sentences = list[Span](), list[tuple[int, int]]()
        while True:
            if kinds:
                shares = chosen.moods[mood][1]
                kind = rng.choices(list(shares), list(shares.values()))[0]
                for m in moods:
                    posterior[m] += math.log(chosen.moods[m][1].get(kind, 0.0) or 1e-300)
            else:
                kind = chosen.opening
            sentence, marks, log_sentence = self._sentence(rng, kind, domain)
            text += " " if text else ""
            spans += [Span(len(text) + a, len(text) + b, *self.marks[slot]) for a, b, slot in marks]
            sentences.append((len(text), len(text) + len(sentence)))
            text += sentence
            kinds.append(kind)
            log_p += log_sentence
            if len(kinds) >= chosen.shortest:
                stop = rng.random() < chosen.stop
                log_p += math.log(chosen.stop if stop else 1 - chosen.stop)
                if stop:
                    break
        top = max(posterior.values())
        log_p += top + math.log(sum(math.exp(v - top) for v in posterior.values()))
        return Document(text, tuple(spans), log_p, chosen.name, domain, mood, tuple(kinds), tuple(sentences))

    def _sentence(self, rng: random.Random, kind: str, domain: str) -> tuple[str, list[tuple[int, int, str]], float]:
        words: list[str] = []
        marks: list[tuple[int, int, str]] = []
        used: dict[str, set[int]] = {}
        log_p = self._expand(rng, kind, self.domains[domain], words, marks, used)
        _a_or_an(words)
        words[0] = words[0][0].upper() + words[0][1:]
        text, starts = join_words(words)
        return text, [(starts[i], starts[j - 1] + len(words[j - 1]), slot) for i, j, slot in marks], log_p

    def _expand(
        self,
        rng: random.Random,
        slot: str,
        domain: Mapping[str, Option],
        words: list[str],
        marks: list[tuple[int, int, str]],
        used: dict[str, set[int]],
    ) -> float:
        """Appends what the slot becomes to `words` and its marks to `marks`; returns its log-probability."""
        option = domain.get(slot) or self.rules[slot]
        total = option.cumulative[-1]
        taken = used.setdefault(slot, set()) if option.words else ()
        while True:
            i = bisect.bisect(option.cumulative, rng.random() * total, 0, len(option.weights) - 1)
            if i not in taken:
                break
        log_p = math.log(option.weights[i] / (total - sum(option.weights[j] for j in taken)))
        if option.words:
            used[slot].add(i)
        begin = len(words)
        for sort, value in option.symbols[i]:
            if sort == "word":
                words.append(value)
            else:
                log_p += self._expand(rng, value, domain, words, marks, used)
        if slot in self.marks:
            marks.append((begin, len(words), slot))
        return log_p

    # -------------------------------------------------------------- recognising

    def accepts(self, sentence: str) -> bool:
        """Whether one sentence, with its full stop and its capital, is one that the grammar can write."""
        return self._accepts(sentence)

    def _recognise(self, sentence: str) -> bool:
        words = _TOKEN.findall(sentence)
        if len(words) < 2 or join_words(words)[0] != sentence or not words[0][0].isupper():
            return False
        for i in range(len(words) - 1):
            vowel = words[i + 1][0] in "aeiou"
            if words[i].lower() in ("a", "an") and (len(words[i]) == 2) != vowel:
                return False
            if words[i] == "an":
                words[i] = "a"
        if words[0] == "An":
            words[0] = "A"
        found = {self._noun[w] for w in words if w in self._noun}
        if len(found) > 1:
            return False
        heads = {words[0], words[0][0].lower() + words[0][1:]}
        domains = found or set(self._domain_names)
        return any(
            len(words) in self._ends(kind, 0, [head, *words[1:]], self.domains[domain], {})
            for domain in domains
            for head in heads
            for kind in self._kinds
        )

    def _ends(
        self, slot: str, at: int, words: list[str], domain: Mapping[str, Option], memo: dict[tuple[str, int], frozenset[int]]
    ) -> frozenset[int]:
        """Where the slot can end when it begins at word `at`."""
        key = (slot, at)
        if key not in memo:
            option = domain.get(slot) or self.rules[slot]
            ends: set[int] = set()
            if option.words:
                if at < len(words) and words[at] in option.vocabulary:
                    ends.add(at + 1)
            else:
                for symbols in option.symbols:
                    here = {at}
                    for sort, value in symbols:
                        if sort == "word":
                            here = {i + 1 for i in here if i < len(words) and words[i] == value}
                        else:
                            here = set().union(*(self._ends(value, i, words, domain, memo) for i in here))
                        if not here:
                            break
                    ends |= here
            memo[key] = frozenset(ends)
        return memo[key]

    # ------------------------------------------------------------------- wording

    def vocabulary(self) -> list[str]:
        """Every distinct word form that a sentence can hold, without its sentence capital, sorted."""
        return sorted({w for option in self._options() for w in option.vocabulary} | {"an"})

    def openers(self) -> list[str]:
        """The words that can begin a sentence, capitalised, sorted."""
        first: set[str] = set()
        for kind, domain in itertools.product(self._kinds, self.domains.values()):
            first |= self._first(kind, domain)
        return sorted({w[0].upper() + w[1:] for w in first} | {"An"})

    def _first(self, slot: str, domain: Mapping[str, Option]) -> set[str]:
        option = domain.get(slot) or self.rules[slot]
        found: set[str] = set()
        for symbols in option.symbols:
            sort, value = symbols[0]
            found |= {value} if sort == "word" else self._first(value, domain)
        return found

    def _options(self) -> Iterator[Option]:
        yield from self.rules.values()
        for slots in self.domains.values():
            yield from slots.values()
