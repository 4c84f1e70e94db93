"""What every critic that is asked in text does: put the question, read the answer strictly, count what went wrong."""

from __future__ import annotations

import copy
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from textenv.critics.forms import CritiqueForm, Question, ScoreRange, WordScores
from textenv.critics.parsing import CritiqueError
from textenv.critics.untrusted import TEXT_LIMIT, Shown
from textenv.episode import Episode, Prompt, Span

__all__ = ["Answer", "AskedCritic"]

Answer = tuple[str, bool]
"""What a model said, and whether it ended by itself (not by its budget)."""


class AskedCritic(ABC):
    """A critic that is asked in text and answers in text. A subclass brings the model (`_complete`).

    Args:
        name: for messages.
        form: how the model is asked and what its answer means; None: the task's own, put in by `load_critic`.
        on_error: what an answer that cannot be parsed does. "raise"; any other: a malformed answer is no verdict (None:
            the episode keeps its plain credit), what an answer lists beside the text is left out; both are counted.
        max_new_tokens: budget of an answer; one cut there loses its last, perhaps incomplete, item (counted). None: 64, and
            256 where the answer holds a number for every word.
        max_text: characters of a text, of its prompt and of each passage that are shown; of a longer one the beginning
            and the end (counted: `credit/critic_cut`).
    """

    def __init__(
        self,
        name: str,
        form: CritiqueForm | None,
        *,
        on_error: str,
        max_new_tokens: int | None = None,
        max_text: int = TEXT_LIMIT,
    ) -> None:
        if (max_new_tokens is not None and max_new_tokens < 1) or max_text < 1:
            raise ValueError(f"max_new_tokens and max_text must be at least 1, got {max_new_tokens} and {max_text}")
        self.name, self.form, self.on_error = name, form, on_error
        self._budget, self.max_text = max_new_tokens, max_text
        self._clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __call__(self, episodes: Sequence[Episode], /) -> list[list[Span] | None]:
        """For each episode the spans of its text; None where there is no verdict. One pass over all of them."""
        began = time.perf_counter()
        out: list[list[Span] | None] = [[] for _ in episodes]
        asked = [i for i, episode in enumerate(episodes) if episode.text.strip()]  # nothing said, nothing to judge
        questions = [self._question(episodes[i].text, episodes[i].prompt, episodes[i].score) for i in asked]
        self._cut += sum(question.shown.cut for question in questions)
        for i, question, answer in zip(asked, questions, self._answers(questions), strict=True):
            out[i] = None if answer is None else self._read(*answer, question.shown)
        self._asked += len(asked)
        self._seconds += time.perf_counter() - began
        self._silent += sum(spans is None for spans in out)
        self._warn()
        return out

    @property
    def max_new_tokens(self) -> int:
        """Tokens that an answer may have."""
        return (256 if isinstance(self.form, WordScores) else 64) if self._budget is None else self._budget

    def answers(self, texts: Sequence[str], prompts: Sequence[Prompt] | None = None) -> Sequence[Answer | None]:
        """The raw answer about each text, as far as it counts; None where none came."""
        given = [None] * len(texts) if prompts is None else prompts
        return self._answers([self._question(text, prompt) for text, prompt in zip(texts, given, strict=True)])

    def with_form(self, form: CritiqueForm, max_new_tokens: int | None = None) -> Self:
        """The same model, asked in another way; weights, connections and calls are shared, counters begin anew."""
        other = copy.copy(self)
        other.form, other._budget = form, self._budget if max_new_tokens is None else max_new_tokens
        other._clear()
        return other

    def showing_score(self, score_range: ScoreRange | None) -> Self:
        """The same, with the score of a text beside it (`CritiqueFormat.score_range`)."""
        return self.with_form(replace(self._form, score_range=score_range))  # type: ignore[type-var]

    def metrics(self) -> dict[str, float]:
        """Counters since the last call: seconds, texts asked about, answers that could not be parsed, texts cut short."""
        out = {
            "credit/critic_seconds": self._seconds,
            "credit/critic_texts": self._asked,
            "credit/critic_parse_failures": self._failed,
            "credit/critic_cut": self._cut,
        }
        self._clear()
        return out

    @abstractmethod
    def _complete(self, questions: Sequence[str]) -> list[Answer | None]:
        """What the model says to each question; None: nothing that could be read."""

    @property
    def _form(self) -> CritiqueForm:
        if self.form is None:
            raise ValueError(f"critic {self.name} has no form: pass form=, or give it to an environment, whose task has one")
        return self.form

    def _question(self, text: str, prompt: Prompt | None = None, score: float = float("nan")) -> Question:
        return self._form.question(text, prompt, score, limit=self.max_text)

    def _answers(self, questions: Sequence[Question]) -> list[Answer | None]:
        out: list[Answer | None] = []
        for question, answer in zip(questions, self._complete([q.text for q in questions]), strict=True):
            if answer is None:
                out.append(None)
                continue
            said, ended = answer
            said, went_on = self._form.cut(said, question.shown)
            out.append((said, ended or went_on))
        return out

    def _clear(self) -> None:
        self._seconds, self._asked, self._failed, self._silent, self._cut = 0.0, 0, 0, 0, 0
        self._last_failure, self._warned = "", False

    def _read(self, answer: str, complete: bool, shown: Shown) -> list[Span] | None:
        try:
            spans, missing = self._form.read(answer, shown, complete=complete)
        except CritiqueError as error:
            self._fail(answer, error)
            return None
        if missing:
            self._fail(answer, f"critic {self.name} listed {missing!r}, which is not in the text {shown.text[:200]!r}")
        elif not complete:
            self._fail(answer, f"critic {self.name} did not end within {self.max_new_tokens} tokens: {answer[:200]!r}")
        return spans

    def _warn(self) -> None:
        """Once, when most of what was asked came to nothing."""
        enough = max(0.5 * self._asked, 8)
        if self._warned or max(self._failed, self._silent) <= enough:
            return
        self._warned = True
        what = "answers could not be parsed" if self._failed > enough else "texts have no verdict"
        why = "it does not follow the form it is asked for" if self._failed > enough else "their episodes keep their plain credit"
        warnings.warn(
            f"critic {self.name}: {max(self._failed, self._silent)} of {self._asked} {what}, the last one "
            f"{self._last_failure!r}; {why}",
            RuntimeWarning,
            stacklevel=3,
        )

    def _fail(self, answer: str, error: CritiqueError | str) -> None:
        """Raise, or count."""
        if self.on_error == "raise":
            raise error if isinstance(error, CritiqueError) else CritiqueError(error)
        self._failed += 1
        self._last_failure = answer[:200]
