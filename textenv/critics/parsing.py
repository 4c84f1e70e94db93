"""A critic's answer, read strictly: lists of items that stand verbatim in the text, or a number for every word.

What stands in no text is no span, with one exception: a model that reads "goat goat goat goat" cannot count, lists a goat too many
or never ends, and a policy that repeats its insult would pay less for ten of them than for one. Of an item that is not in the
text, or was cut, each phrase that it says again and again, word for word, marks the places of that phrase which are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from textenv.episode import Span

__all__ = ["CritiqueError", "Section", "parse_critique", "parse_numbers"]

_NUMBER = re.compile(r"[+\-−]?(?:\d{1,9}(?:\.\d{0,20})?|\.\d{1,20})", re.ASCII)


@dataclass(frozen=True)
class Section:
    """One list of an answer.

    Attributes:
        header: as it stands in the answer, without the colon; also the label of the spans.
        reward: of each span that is listed under it.
    """

    header: str
    reward: float


class CritiqueError(ValueError):
    """A critic's answer that is not of the form asked for."""


def parse_critique(answer: str, text: str, sections: Sequence[Section], *, complete: bool = True) -> tuple[list[Span], list[str]]:
    r"""The spans that an answer lists.

    >>> form = (Section("Positive", 1.0), Section("Negative", -1.0))
    >>> spans, missing = parse_critique(" a joy\nNegative: slow; dull", "a joy, if slow", form)
    >>> [(span.start, span.end, span.label) for span in spans], missing
    ([(0, 5, 'Positive'), (10, 14, 'Negative')], ['dull'])

    >>> spans, missing = parse_critique(" goat goat goat fool", "you goat goat", form[:1])
    >>> [(span.start, span.end) for span in spans], missing
    ([(4, 8), (9, 13)], ['goat goat goat fool'])

    Args:
        answer: what followed the first header.
        text: the text that was judged.
        sections: the lists asked for, in order.
        complete: False where the answer was cut by its budget: its last item is then dropped, but for what it says again.

    Returns:
        The spans, by position in the text, and the listed items that do not stand in it.

    Raises:
        CritiqueError: a list is missing, has another header, or holds an empty item; or the items have, together, more
            characters than the text. What is listed again, or says itself again, asks for no more than stands there.
    """
    listed, cut = _listed(answer, sections, complete)
    spans: list[Span] = []
    missing: list[str] = []
    taken = bytearray(len(text))

    def mark(section: Section, item: str) -> bool:
        place = _locate(item, text, taken)
        if place is None:
            return False
        taken[slice(*place)] = b"\x01" * len(item)
        spans.append(Span(*place, section.reward, section.header))
        return True

    # The longest first: in "not good, but good" the item "good" means what "not good" has left.
    for section, item in sorted(listed, key=lambda pair: -len(pair[1])):
        if not mark(section, item):
            missing.append(item)
    absent = dict.fromkeys(pair for pair in listed if pair[1] not in text)
    for section, item in [*absent, *cut]:
        for phrase, times in _repeated(item):
            while times and mark(section, phrase):
                times -= 1
    asked = sum(taken) + sum(len(item) for item in {item for _, item in absent} if not any(_repeated(item)))
    if asked > len(text):
        raise CritiqueError(f"the answer lists {asked} characters of a text that has {len(text)}: {answer[:200]!r}")
    return sorted(spans, key=lambda span: (span.start, span.end)), missing


def parse_numbers(answer: str, words: Sequence[str], *, complete: bool = True) -> list[float]:
    r"""The number that an answer gives to every word, cut to [−1, 1].

    >>> parse_numbers(" [0, -0.5, 3]", ["a", "dull", "joy"])
    [0.0, -0.5, 1.0]
    >>> parse_numbers("1: 0\ndull: -1", ["a", "dull"])
    [0.0, -1.0]

    Args:
        answer: what followed the header: numbers separated by commas, with or without brackets, or one line a word
            that ends with its number.
        words: the words that were listed.
        complete: False where the answer was cut by its budget: its last number is then dropped, and the words behind it
            have none.

    Raises:
        CritiqueError: too many or too few numbers, something that is no number, or a line about another word.
    """
    lines = answer.strip().split("\n")
    if len(lines) > 1 or ":" in lines[0]:
        found = [_numbered(line, number, words, answer) for number, line in enumerate(lines, 1)]
    else:
        body = lines[0].strip()
        if body.startswith("["):
            body = body[1:].removesuffix("]") if body.endswith("]") or not complete else "?"
        found = [item.strip() for item in body.split(",")]
    if not complete and found:
        found.pop()
    if len(found) > len(words) or (complete and len(found) != len(words)):
        raise CritiqueError(f"the answer has {len(found)} numbers for {len(words)} words: {answer[:200]!r}")
    return [min(max(_number(item, answer), -1.0), 1.0) for item in found]


def _numbered(line: str, number: int, words: Sequence[str], answer: str) -> str:
    """The number of one line; its word, or its word's place, may stand before a colon."""
    said, colon, value = line.strip().rpartition(":")
    word = words[number - 1] if number <= len(words) else ""
    if colon and said.strip() not in (str(number), word, f"{number}: {word}"):
        raise CritiqueError(f"line {number} speaks of {said.strip()[:80]!r}, where {word!r} was asked about: {answer[:200]!r}")
    return value.strip()


def _number(item: str, answer: str) -> float:
    if not _NUMBER.fullmatch(item):
        raise CritiqueError(f"{item[:80]!r} is no number: {answer[:200]!r}")
    return float(item.replace("−", "-"))


def _repeated(item: str) -> Iterator[tuple[str, int]]:
    """Each phrase that an item says at least twice in a row, the shortest that does, and how often."""
    words = item.split()
    at = 0
    while at < len(words):
        size = next((n for n in range(1, (len(words) - at) // 2 + 1) if words[at : at + n] == words[at + n : at + 2 * n]), 0)
        if not size:
            at += 1
            continue
        phrase, times = words[at : at + size], 0
        while words[at : at + size] == phrase:
            at, times = at + size, times + 1
        yield " ".join(phrase), times


def _listed(
    answer: str, sections: Sequence[Section], complete: bool
) -> tuple[list[tuple[Section, str]], list[tuple[Section, str]]]:
    """The items of every list, in order; and the one that was cut, if any, as far as its words are whole."""
    lines = answer.split("\n")
    if len(lines) != len(sections) and complete:
        raise CritiqueError(f"the answer has {len(lines)} lists where {len(sections)} were asked for: {answer!r}")
    out: list[tuple[Section, str]] = []
    cut: list[tuple[Section, str]] = []
    for number, (line, section) in enumerate(zip(lines, sections, strict=False)):
        last = not complete and number == len(lines) - 1
        items = line
        if number:
            header, colon, items = line.partition(":")
            if last and not colon:
                break  # cut within a header
            if header != section.header or not colon:
                raise CritiqueError(f"list {number + 1} should begin with {section.header + ':'!r}: {answer!r}")
        found = [item.strip() for item in items.split(";")]
        if last:
            cut = [(section, found.pop().rpartition(" ")[0])]  # perhaps within a word
        if found == ["none"]:
            continue
        if not all(found):
            raise CritiqueError(f"an empty item in the list {section.header!r}: {answer!r}")
        out += [(section, item) for item in found]
    return out, cut


def _locate(item: str, text: str, taken: bytearray) -> tuple[int, int] | None:
    """The first unused occurrence, one at word boundaries before any other."""
    inside: tuple[int, int] | None = None
    for match in re.finditer(f"(?={re.escape(item)})", text):
        begin, end = match.start(), match.start() + len(item)
        if any(taken[begin:end]):
            continue
        cuts_word = (begin > 0 and item[0].isalnum() and text[begin - 1].isalnum()) or (
            end < len(text) and item[-1].isalnum() and text[end].isalnum()
        )
        if not cuts_word:
            return begin, end
        inside = inside or (begin, end)
    return inside
