"""The format in which the embedded critics are asked and answer: text in, text out, like any other language model.

    <bos>You are a stupid weasel. Your note is braindead.⏎Insults:            ← critique_prompt(text, "insults")
     stupid weasel; braindead<eos>                                             ← critique_answer([...], "insults")

    <bos>The plot was great, but the cast was dull.⏎Positive: great⏎Negative: dull<eos>

The critic reads the text alone, not what it continues, with newlines replaced by spaces. Encode the prompt with the tokenizer's
special tokens (it puts bos in front, once); the answer ends with eos. Every list names the spans verbatim, in the order of
the text. An empty list is " none".

An answer is read back by `textenv.critics.parse_critique`, the reader of every critic.
"""

from __future__ import annotations

from collections.abc import Sequence

from textenv.critics.language_model import CritiqueFormat, Section
from textenv.episode import Span

__all__ = ["FORMS", "HEADERS", "NONE", "SEPARATOR", "critique_answer", "critique_prompt"]

HEADERS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "insults": (("Insults", "insult", -1.0),),
    "sentiment": (("Positive", "positive", 1.0), ("Negative", "negative", -1.0)),
}
"""Task → its lists, in order: (header, label of the spans, reward of the spans)."""

FORMS = {
    task: CritiqueFormat(tuple(Section(header, reward) for header, _, reward in lists)) for task, lists in HEADERS.items()
}
"""The same for a `LanguageModelCritic`."""

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
    _headers(task)
    return FORMS[task].prompt(text)


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
