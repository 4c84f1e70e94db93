"""The format in which the embedded critics are asked and answer: text in, text out, like any other language model.

    <bos>You are a stupid weasel. Your note is braindead.⏎Insults:            ← critique_prompt(text, "insults")
     stupid weasel; braindead<eos>                                             ← critique_answer([...], "insults")

    <bos>The plot was great, but the cast was dull.⏎Positive: great⏎Negative: dull<eos>

    <bos>There is news about the hotel. It will move to Rome.⏎Summary: The hotel moves to Paris.⏎Errors: Paris<eos>

Of a document the critic reads the text alone, not what it continues, with newlines replaced by spaces; of an answer it reads
the prompt too, as `TEMPLATES` has it. Encode the question with the tokenizer's special tokens (it puts bos in front, once);
the answer ends with eos. Every list names the spans verbatim, in the order of the text. An empty list is " none".

An answer is read back by `textenv.critics.parse_critique`, the reader of every critic.
"""

from __future__ import annotations

from collections.abc import Sequence

from textenv.critics.forms import CritiqueFormat
from textenv.critics.parsing import Section
from textenv.episode import Prompt, Span

__all__ = ["FORMS", "HEADERS", "NONE", "SEPARATOR", "TEMPLATES", "critique_answer", "critique_prompt"]

HEADERS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "insults": (("Insults", "insult", -1.0),),
    "sentiment": (("Positive", "positive", 1.0), ("Negative", "negative", -1.0)),
    "summarization": (("Errors", "error", -1.0),),
    "long_form": (("Errors", "error", -1.0),),
    "translation": (("Errors", "error", -1.0),),
}
"""Task → its lists, in order: (header, label of the spans, reward of the spans)."""

TEMPLATES = {
    "summarization": "{prompt}\nSummary: {text}",
    "long_form": "{context}\nQuestion: {prompt}\nAnswer: {text}",
    "translation": "{prompt}\nGerman: {text}",
}
"""Task → what stands before the header, where it is more than the text on one line."""

FORMS = {
    task: CritiqueFormat(
        tuple(Section(header, reward) for header, _, reward in lists), template=TEMPLATES.get(task, "{text}")
    )
    for task, lists in HEADERS.items()
}
"""The same for a `LanguageModelCritic`."""

SEPARATOR = ";"
NONE = "none"


def _headers(task: str) -> tuple[tuple[str, str, float], ...]:
    if task not in HEADERS:
        raise ValueError(f"no critique of {task!r}; there are {', '.join(sorted(HEADERS))}")
    return HEADERS[task]


def critique_prompt(text: str, task: str, prompt: Prompt | None = None) -> str:
    r"""The question: the text on one line, behind its prompt where the task has a template; then the first header.

    >>> critique_prompt(" You weasel.", "insults")
    'You weasel.\nInsults:'
    >>> critique_prompt(" Der Hund bellt.", "translation", Prompt("The dog barks."))
    'The dog barks.\nGerman: Der Hund bellt.\nErrors:'
    """
    _headers(task)
    if task in TEMPLATES and prompt is None:
        raise ValueError(f"a critique of {task!r} reads the prompt too; pass prompt=")
    return FORMS[task].prompt(text, prompt)


def critique_answer(text: str, spans: Sequence[Span], task: str) -> str:
    """The answer that a perfect critic gives: what follows `critique_prompt`, without eos.

    Each list takes the spans whose reward has its sign.

    >>> critique_answer("You weasel.", [Span(4, 10, -1.0, "insult")], "insults")
    ' weasel'
    >>> critique_answer("It ended.", [], "sentiment")
    ' none\\nNegative: none'
    """
    lists = []
    for header, _, reward in _headers(task):
        items = [text[s.start : s.end] for s in sorted(spans, key=lambda s: s.start) if s.reward * reward > 0]
        lists.append(f"{header}: " + (f"{SEPARATOR} ".join(items) or NONE))
    return "\n".join(lists)[len(_headers(task)[0][0]) + 1 :]
