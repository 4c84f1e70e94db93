r"""How a critic is asked about a text, and how its answer is read: lists of spans, or a number for every word.

Source: RELC (Cao et al. 2024, arXiv 2401.07382). Both forms stand one after the other in a question:

    {instruction}                  {instruction}

    {text}                         {text}
    Positive: a joy; great         1: a
    Negative: none                 2: joy
                                   Numbers: 0, 1

`template` says what stands in the place of {text}: `"{prompt}\nSummary: {text}"` shows the document beside its summary.
Departures from the released code:

1. an answer has one fixed form; whatever is not of that form is a failure, and never guessed at (the release takes a
   whole refusal for one long span);
2. a listed span must stand verbatim in the text, and marks one place: its first unused occurrence (of "fool fool fool", where
   the text has two, as many as there are); an answer that lists more than the text holds is no reading of it, and a failure;
3. the score is not shown; where it is (`score_range`), an affine map brings it to 0–10. The release's rule for ROUGE,
   min(2R, 10), which is 10 for every R ≥ 5, is `score_range="released"`;
4. numbers for words are cut to [−1, 1], and an answer with too many or too few of them is a failure.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Literal

from textenv.critics.parsing import Section, parse_critique, parse_numbers
from textenv.critics.untrusted import TEXT_LIMIT, Shown, one_line, show
from textenv.episode import Prompt, Span

__all__ = ["CritiqueFormat", "CritiqueForm", "Question", "WordScores", "score_of_ten"]

ScoreRange = tuple[float, float] | Literal["released"]
Example = tuple[str | Mapping[str, str], str]


@dataclass(frozen=True)
class Question:
    """What is sent to a critic, and what of the text it holds."""

    text: str
    shown: Shown


class CritiqueForm(ABC):
    """What the two forms share: a template with the fields {prompt}, {context} and {text}, examples, the score.

    {prompt} and {context} are the user's own; {text} is what a policy wrote, and is made safe (`critics.untrusted`).
    """

    template: str
    instruction: str
    examples: tuple[Example, ...]
    score_range: ScoreRange | None

    def __post_init__(self) -> None:
        fields = [name for _, name, _, _ in Formatter().parse(self.template) if name is not None]
        if fields.count("text") != 1 or not set(fields) <= {"prompt", "context", "text"}:
            raise ValueError(f"a template holds {{text}} once, and may hold {{prompt}} and {{context}}: got {self.template!r}")
        score_of_ten(0.0, self.score_range)

    def question(
        self, text: str, prompt: Prompt | None = None, score: float = math.nan, *, limit: int = TEXT_LIMIT
    ) -> Question:
        """The question about one text.

        Args:
            text: what is to be judged.
            prompt: what it answers, for {prompt} and {context}.
            score: the task's verdict, shown where there is one and the form says so.
            limit: characters of the text, and of every other field, shown at most.
        """
        shown = show(text, labels=self._labels(), closer=self._closer(), limit=limit)
        prompt = prompt or Prompt("")
        fields = {"prompt": _cut(one_line(prompt.text), limit), "text": shown.text.strip()}
        fields["context"] = "\n".join(_cut(one_line(passage), limit) for passage in prompt.context)
        parts = [self.instruction] if self.instruction else []
        for example, answer in self.examples:
            given = {"text": example} if isinstance(example, str) else dict(example)
            flat = {name: one_line(value) for name, value in {"prompt": "", "context": "", **given}.items()}
            parts.append(f"{self._asked(flat, show(flat['text']), None)}:{answer}")
        known = None if math.isnan(score) else score_of_ten(score, self.score_range)
        parts.append(f"{self._asked(fields, shown, known)}:")
        return Question("\n\n".join(parts), shown)

    def prompt(self, text: str, prompt: Prompt | None = None, score: float = math.nan) -> str:
        """The words of the question about one text."""
        return self.question(text, prompt, score).text

    @property
    @abstractmethod
    def header(self) -> str:
        """The word that the question ends with, before its colon."""

    @abstractmethod
    def cut(self, answer: str, shown: Shown) -> tuple[str, bool]:
        """The part of an answer that counts, and whether the model wrote on behind it."""

    @abstractmethod
    def read(self, answer: str, shown: Shown, *, complete: bool = True) -> tuple[list[Span], list[str]]:
        """The spans of the original text, and what was said of things that are not in it.

        Raises:
            CritiqueError: the answer is not of this form.
        """

    def _asked(self, fields: Mapping[str, str], shown: Shown, score: float | None) -> str:
        known = "" if score is None else f"\nScore: {score:g} out of 10"
        return f"{self.template.format_map(fields)}{known}{self._listing(shown)}\n{self.header}"

    def _listing(self, shown: Shown) -> str:
        return ""

    def _labels(self) -> tuple[str, ...]:
        """What the question puts before a colon."""
        literal = " ".join(part for part, *_ in Formatter().parse(self.template))
        return (self.header, "Score", *re.findall(r"(\w[\w ]*?)\s*:", literal))

    def _closer(self) -> str:
        behind = self.template.partition("{text}")[2][:1]
        return behind if behind and not behind.isalnum() and not behind.isspace() else ""


@dataclass(frozen=True)
class CritiqueFormat(CritiqueForm):
    r"""The critic lists spans, under one header for each kind.

    >>> form = CritiqueFormat((Section("Insults", -1.0),), "List the insults.", (("You goat.", " goat"),))
    >>> form.prompt("Be nice.")
    'List the insults.\n\nYou goat.\nInsults: goat\n\nBe nice.\nInsults:'
    >>> form.read(" weasel", show("You weasel."))[0]
    [Span(start=4, end=10, reward=-1.0, label='Insults')]
    >>> CritiqueFormat(form.sections, template="{prompt}\nAnswer: {text}").prompt("A goat.", Prompt("Who?"))
    'Who?\nAnswer: A goat.\nInsults:'

    Attributes:
        sections: the lists of an answer, in order.
        instruction: what stands before everything (empty for a model that was trained on this form alone).
        examples: pairs (text, answer), shown before the text to be judged; an answer as the model should give it. A text
            is a string, or the template's fields by name.
        template: what stands in the place of the text; fields {prompt}, {context} (one passage a line), {text}.
        score_range: (low, high): the score is shown as a number from 0 (low) to 10 (high); None: it is not shown.
    """

    sections: tuple[Section, ...]
    instruction: str = ""
    examples: tuple[Example, ...] = ()
    template: str = "{text}"
    score_range: ScoreRange | None = None

    @property
    def header(self) -> str:
        return self.sections[0].header

    def cut(self, answer: str, shown: Shown) -> tuple[str, bool]:
        """A base model goes on to write the next example: its answer ends with the last list, or at a blank line."""
        lines = answer.split("\n")
        end = next((n for n, line in enumerate(lines) if n and not line.strip()), len(lines))
        wanted = min(end, len(self.sections))
        return "\n".join(lines[:wanted]), wanted < len(lines)

    def read(self, answer: str, shown: Shown, *, complete: bool = True) -> tuple[list[Span], list[str]]:
        spans, missing = parse_critique(answer, shown.text, self.sections, complete=complete)
        out = []
        for span in spans:
            place = shown.place(span.start, span.end)
            if place is None:
                missing.append(shown.text[span.start : span.end])
            else:
                out.append(Span(*place, span.reward, span.label))
        return out, missing

    def by_word(self) -> WordScores:
        """The same question with a number for every word as its answer (examples become numbers too)."""
        names = {section.header: f"{section.reward:g}" for section in self.sections}
        signs = ", ".join(f'{value} for a word of the list "{name}"' for name, value in names.items())
        how = (
            f"The words of the text are listed below it. Instead of lists, answer with one number for every word, in order, "
            f"separated by commas: {signs}, 0 for any other word, a number between for what is weaker."
        )
        examples = []
        for example, answer in self.examples:
            shown = show(one_line(example if isinstance(example, str) else example["text"]))
            spans, _ = self.read(answer, shown)
            numbers = [next((s.reward for s in spans if s.start < e and b < s.end), 0.0) for b, e in words_of(shown)]
            examples.append((example, " " + ", ".join(f"{number:g}" for number in numbers)))
        return WordScores(f"{self.instruction}\n\n{how}".strip(), tuple(examples), self.template, self.score_range)

    def _labels(self) -> tuple[str, ...]:
        return (*super()._labels(), *(section.header for section in self.sections))


@dataclass(frozen=True)
class WordScores(CritiqueForm):
    r"""The critic gives a number from −1 to 1 for every word of a numbered list (RELC's released code holds it, unused).

    >>> form = WordScores()
    >>> form.prompt("You weasel.")
    'You weasel.\n1: You\n2: weasel.\nNumbers:'
    >>> form.read(" 0, -1", show("You weasel."))[0]
    [Span(start=4, end=11, reward=-1.0, label='Numbers')]

    A word is what stands between white space. A word worth 0 is no span. An answer is a list of numbers, with or
    without brackets, or a line "word: number" ("2: number", or the number alone) for every word.

    Attributes:
        instruction, examples, template, score_range: as in `CritiqueFormat`.
    """

    instruction: str = ""
    examples: tuple[Example, ...] = ()
    template: str = "{text}"
    score_range: ScoreRange | None = None

    @property
    def header(self) -> str:
        return "Numbers"

    def cut(self, answer: str, shown: Shown) -> tuple[str, bool]:
        """One line of numbers, or as many lines as there are words."""
        lines = answer.strip("\n").split("\n")
        listed = ":" not in lines[0] and ("," in lines[0] or lines[0].lstrip().startswith("["))
        end = next((n for n, line in enumerate(lines) if not line.strip()), len(lines))
        wanted = min(end, 1 if listed else len(words_of(shown)))
        return "\n".join(lines[:wanted]), wanted < len(lines)

    def read(self, answer: str, shown: Shown, *, complete: bool = True) -> tuple[list[Span], list[str]]:
        places = words_of(shown)
        numbers = parse_numbers(answer, [shown.text[begin:end] for begin, end in places], complete=complete)
        out = []
        for (begin, end), number in zip(places, numbers, strict=False):
            place = shown.place(begin, end)
            if number and place is not None:
                out.append(Span(*place, number, self.header))
        return out, []

    def _listing(self, shown: Shown) -> str:
        words = [shown.text[begin:end] for begin, end in words_of(shown)]
        return "".join(f"\n{number}: {word}" for number, word in enumerate(words, 1))


def words_of(shown: Shown) -> list[tuple[int, int]]:
    """The words of what is shown, as intervals of it; the mark of a gap is none."""
    found = [(match.start(), match.end()) for match in re.finditer(r"\S+", shown.text)]
    return [(begin, end) for begin, end in found if shown.place(begin, end) is not None]


def score_of_ten(score: float, score_range: ScoreRange | None) -> float | None:
    """A score as a critic is shown it, 0 to 10 (None: not at all).

    >>> score_of_ten(0.25, (-1.0, 1.0)), score_of_ten(7.0, (-1.0, 1.0)), score_of_ten(4.9, "released")
    (6.2, 10.0, 9.8)

    Raises:
        ValueError: the range is neither (low, high) with low < high, nor "released".
    """
    if score_range is None:
        return None
    if score_range == "released":
        return min(round(2 * score, 1), 10.0)
    valid = isinstance(score_range, tuple) and len(score_range) == 2 and all(map(math.isfinite, score_range))
    if not valid or not score_range[0] < score_range[1]:
        raise ValueError(f'the range of scores is (low, high) with low < high, or "released": got {score_range!r}')
    low, high = score_range
    return round(10 * min(max((score - low) / (high - low), 0.0), 1.0), 1)


def _cut(text: str, limit: int) -> str:
    return text.strip() if len(text) <= limit else show(text, limit=limit).text


