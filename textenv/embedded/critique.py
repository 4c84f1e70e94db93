"""The format in which the embedded critics are asked and answer: text in, text out, like any other language model.

    <bos>You are a stupid weasel. Your note is braindead.⏎Insults:            ← critique_prompt(text, "insults")
     stupid weasel; braindead<eos>                                             ← critique_answer([...], "insults")

    <bos>The plot was great, but the cast was dull.⏎Positive: great⏎Negative: dull<eos>

The critic reads the text alone, not what it continues, with newlines replaced by spaces. Encode the prompt with the tokenizer's
special tokens (it puts bos in front, once); the answer ends with eos. Every list names the spans verbatim, in the order of
the text. An empty list is " none".

To find the spans again, place the items of *all* lists, the longest first, each at its first occurrence that no other item has
taken. Longest first matters: in "not good, but good" the list "Positive: good" must not take the "good" of "not good".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from textenv.episode import Span

__all__ = ["HEADERS", "NONE", "SEPARATOR", "critique_answer", "critique_prompt", "parse_critique"]

HEADERS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "insults": (("Insults", "insult", -1.0),),
    "sentiment": (("Positive", "positive", 1.0), ("Negative", "negative", -1.0)),
}
"""Task → its lists, in order: (header, label of the spans, reward of the spans)."""

SEPARATOR = ";"
NONE = "none"


def _headers(task: str) -> tuple[tuple[str, str, float], ...]:
    if task not in HEADERS:
        raise ValueError(f"no critique of {task!r}; there are {', '.join(sorted(HEADERS))}")
    return HEADERS[task]


def critique_prompt(text: str, task: str) -> str:
    """The question: the text on one line, then the header of the first list.

    >>> critique_prompt(" You weasel.", "insults")
    'You weasel.\\nInsults:'
    """
    return f"{text.replace(chr(10), ' ').strip(' ')}\n{_headers(task)[0][0]}:"


def critique_answer(text: str, spans: Sequence[Span], task: str) -> str:
    """The answer that a perfect critic gives: what follows `critique_prompt`, without eos.

    >>> critique_answer("You weasel.", [Span(4, 10, -1.0, "insult")], "insults")
    ' weasel'
    >>> critique_answer("It ended.", [], "sentiment")
    ' none\\nNegative: none'
    """
    lists = []
    for header, label, _ in _headers(task):
        items = [text[s.start : s.end] for s in sorted(spans, key=lambda s: s.start) if s.label == label]
        lists.append(f"{header}: " + (f"{SEPARATOR} ".join(items) or NONE))
    return "\n".join(lists)[len(_headers(task)[0][0]) + 1 :]


def parse_critique(text: str, answer: str, task: str) -> list[Span]:
    """The spans that an answer names, in the order of the text; the strict reader of this format.

    >>> [(s.start, s.end, s.label) for s in parse_critique("not good, but good", " good\\nNegative: not good", "sentiment")]
    [(0, 8, 'negative'), (14, 18, 'positive')]

    Raises:
        ValueError: the answer is not in the format, or names something that the text does not hold (in that order).
    """
    headers = _headers(task)
    lines = f"{headers[0][0]}:{answer}".split("\n")
    if len(lines) != len(headers):
        raise ValueError(f"expected {len(headers)} lines, got {len(lines)} in the critique {answer!r}")
    items = []
    for line, (header, label, reward) in zip(lines, headers, strict=True):
        if not line.startswith(f"{header}: ") or line.endswith(" "):
            raise ValueError(f"expected a line that begins with '{header}: ', got {line!r}")
        listed = line[len(header) + 2 :]
        items += [(item, label, reward) for item in ([] if listed == NONE else listed.split(f"{SEPARATOR} "))]
    free, found = text, []
    for item, label, reward in sorted(items, key=lambda i: -len(i[0])):
        place = re.search(rf"(?<!\w){re.escape(item)}(?!\w)", free) if item.strip() else None
        if place is None:
            raise ValueError(f"the critique names {item!r}, which the text does not hold (any more): {text!r}")
        free = free[: place.start()] + "\0" * len(item) + free[place.end() :]
        found.append(Span(place.start(), place.end(), reward, label))
    return sorted(found, key=lambda s: s.start)
