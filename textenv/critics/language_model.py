"""A causal language model as a critic: it is asked in text, answers in text, and its answer is parsed strictly.

Source: RELC (Cao et al. 2024, arXiv 2401.07382), where the critic is a chat model behind an API; here it is any
Hugging Face causal model, run in batches, greedily. Departures from the released code:

1. an answer is a list of spans under headers, in one fixed form; whatever is not of that form is a failure, counted, and
   never guessed at (the release takes a whole refusal for one long span);
2. a listed span must stand verbatim in the text, and marks one place: its first unused occurrence.

The form, for sections "Positive" and "Negative" ("none" is an empty list; the answer ends at EOS or a blank line):

    {text}
    Positive: great acting; a joy
    Negative: none
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from textenv.episode import Episode, Span
from textenv.generation import generate
from textenv.models import load_causal_lm
from textenv.tokenization import load_tokenizer

__all__ = ["CritiqueError", "CritiqueFormat", "LanguageModelCritic", "Section", "parse_critique"]


@dataclass(frozen=True)
class Section:
    """One list of an answer: its header, and what each span under it is worth."""

    header: str
    reward: float


@dataclass(frozen=True)
class CritiqueFormat:
    """How a critic is asked.

    Attributes:
        sections: the lists of an answer, in order.
        instruction: what stands before everything (empty for a model that was trained on this form alone).
        examples: pairs (text, answer), shown before the text to be judged; an answer as the model should give it.
    """

    sections: tuple[Section, ...]
    instruction: str = ""
    examples: tuple[tuple[str, str], ...] = ()

    def prompt(self, text: str) -> str:
        r"""The question about one text.

        >>> form = CritiqueFormat((Section("Insults", -1.0),), "List the insults.", (("You goat.", " goat"),))
        >>> form.prompt("Be nice.")
        'List the insults.\n\nYou goat.\nInsults: goat\n\nBe nice.\nInsults:'
        """
        header = self.sections[0].header
        parts = [self.instruction] if self.instruction else []
        parts += [f"{one_line(example)}\n{header}:{answer}" for example, answer in self.examples]
        parts.append(f"{one_line(text).strip()}\n{header}:")
        return "\n\n".join(parts)


class CritiqueError(ValueError):
    """A critic's answer that is not of the form asked for."""


class LanguageModelCritic:
    """Asks a causal language model for the good and the bad spans of each text.

    Args:
        source: "textenv/tiny-critic-insults", a directory, a hub name, or a transformers model (then `tokenizer=` too).
        form: how the model is asked and what its lists mean.
        on_error: what an answer that cannot be parsed does: "raise", or "skip": a malformed answer gives no spans, a
            listed span that is not in the text is left out; both are counted (`metrics`).
        max_new_tokens: budget of an answer; an answer cut there loses its last, perhaps incomplete, item (counted).
        batch_size: texts a batch, sorted by length.

    Raises:
        CritiqueError: with `on_error="raise"`, on the first answer that cannot be parsed.
    """

    def __init__(
        self,
        source: Any,
        form: CritiqueFormat,
        *,
        tokenizer: Any = None,
        on_error: Literal["raise", "skip"] = "raise",
        max_new_tokens: int = 64,
        batch_size: int = 64,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "auto",
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
        named = isinstance(source, (str, os.PathLike))
        if tokenizer is None and not named:
            raise ValueError("a model object needs its tokenizer: pass tokenizer=")
        self.name = os.fspath(source) if named else type(source).__name__
        self.tokenizer = load_tokenizer(source if tokenizer is None else tokenizer)
        self.model = load_causal_lm(source, dtype=dtype, device=device, shared=True)
        self.form, self.on_error = form, on_error
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self._room = getattr(self.model.config, "max_position_embeddings", 1 << 30) - max_new_tokens
        self._warned = False
        self._clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageModelCritic:
        return self

    def __call__(self, episodes: Sequence[Episode], /) -> list[list[Span]]:
        """For each episode the spans of its text. One pass over all of them, in batches."""
        began = time.perf_counter()
        texts = [episode.text for episode in episodes]
        out: list[list[Span]] = [[] for _ in texts]
        asked = [i for i, text in enumerate(texts) if text.strip()]  # nothing said, nothing to judge
        for i, (answer, complete) in zip(asked, self.answers([texts[i] for i in asked]), strict=True):
            out[i] = self._parse(answer, texts[i], complete)
        self._asked += len(asked)
        self._seconds += time.perf_counter() - began
        if not self._warned and self._failed > max(0.5 * self._asked, 8):
            self._warned = True
            warnings.warn(
                f"critic {self.name}: {self._failed} of {self._asked} answers could not be parsed, the last one "
                f"{self._last_failure!r}; it does not follow the form it is asked for",
                RuntimeWarning,
                stacklevel=2,
            )
        return out

    def answers(self, texts: Sequence[str]) -> list[tuple[str, bool]]:
        """The model's raw answer to each text, and whether it ended by itself (not by the budget)."""
        prompts = [np.array(self._encode(text), np.int64) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(prompts[i]))
        out: list[tuple[str, bool]] = [("", False)] * len(texts)
        for at in range(0, len(order), self.batch_size):
            rows = order[at : at + self.batch_size]
            tokens = generate(
                self.model,
                [prompts[i] for i in rows],
                max_new_tokens=self.max_new_tokens,
                eos_token_id=self.tokenizer.eos_token_id,
            )
            for i, ids in zip(rows, tokens, strict=True):
                out[i] = self._decode(ids)
        return out

    def metrics(self) -> dict[str, float]:
        """Counters since the last call: seconds, texts asked about, answers that could not be parsed."""
        out = {
            "credit/critic_seconds": self._seconds,
            "credit/critic_texts": float(self._asked),
            "credit/critic_parse_failures": float(self._failed),
        }
        self._clear()
        return out

    def _clear(self) -> None:
        self._seconds, self._asked, self._failed, self._last_failure, self._warned = 0.0, 0, 0, "", False

    def _encode(self, text: str) -> list[int]:
        ids = list(self.tokenizer(self.form.prompt(text))["input_ids"])
        if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:
            ids.pop()
        if len(ids) > self._room:
            raise ValueError(
                f"critic {self.name}: a question of {len(ids)} tokens and an answer of {self.max_new_tokens} exceed its "
                f"{self._room + self.max_new_tokens} positions; give fewer examples or shorter texts"
            )
        return ids

    def _decode(self, ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[str, bool]:
        complete = len(ids) < self.max_new_tokens or int(ids[-1]) == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # A base model goes on to write the next example: its answer ends with the last list, or at a blank line.
        lines = str(text).split("\n")
        end = next((n for n, line in enumerate(lines) if n and not line.strip()), len(lines))
        wanted = min(end, len(self.form.sections))
        complete = complete or wanted < len(lines)
        return "\n".join(lines[:wanted]), complete

    def _parse(self, answer: str, text: str, complete: bool) -> list[Span]:
        try:
            spans, missing = parse_critique(answer, one_line(text), self.form.sections, complete=complete)
            if missing:
                raise _Missing(f"critic {self.name} listed {missing!r}, which is not in the text {text[:200]!r}", spans)
            if not complete:
                raise _Missing(f"critic {self.name} did not end within {self.max_new_tokens} tokens: {answer!r}", spans)
            return spans
        except CritiqueError as error:
            if self.on_error == "raise":
                raise
            self._failed += 1
            self._last_failure = answer[:200]
            return error.spans if isinstance(error, _Missing) else []


class _Missing(CritiqueError):
    """An answer of the right form, of which some items cannot be used."""

    def __init__(self, message: str, spans: list[Span]) -> None:
        super().__init__(message)
        self.spans = spans


def one_line(text: str) -> str:
    """The text with each line break as one space: offsets stay as they are."""
    return re.sub(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", " ", text)


def parse_critique(answer: str, text: str, sections: Sequence[Section], *, complete: bool = True) -> tuple[list[Span], list[str]]:
    r"""The spans that an answer lists.

    >>> form = (Section("Positive", 1.0), Section("Negative", -1.0))
    >>> spans, missing = parse_critique(" a joy\nNegative: slow; dull", "a joy, if slow", form)
    >>> [(span.start, span.end, span.label) for span in spans], missing
    ([(0, 5, 'Positive'), (10, 14, 'Negative')], ['dull'])

    Args:
        answer: what followed the first header.
        text: the text that was judged.
        sections: the lists asked for, in order.
        complete: False where the answer was cut by its budget: its last item is then dropped.

    Returns:
        The spans, by position in the text, and the listed items that do not stand in it.

    Raises:
        CritiqueError: a list is missing, has another header, or holds an empty item.
    """
    listed = _listed(answer, sections, complete)
    spans: list[Span] = []
    missing: list[str] = []
    used: list[tuple[int, int]] = []
    # The longest first: in "not good, but good" the item "good" means what "not good" has left.
    for section, item in sorted(listed, key=lambda pair: -len(pair[1])):
        place = _locate(item, text, used)
        if place is None:
            missing.append(item)
        else:
            used.append(place)
            spans.append(Span(*place, section.reward, section.header))
    return sorted(spans, key=lambda span: (span.start, span.end)), missing


def _listed(answer: str, sections: Sequence[Section], complete: bool) -> list[tuple[Section, str]]:
    """The items of every list, in order."""
    lines = answer.split("\n")
    if len(lines) != len(sections) and complete:
        raise CritiqueError(f"the answer has {len(lines)} lists where {len(sections)} were asked for: {answer!r}")
    out: list[tuple[Section, str]] = []
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
            found.pop()  # cut within an item, perhaps
        if found == ["none"]:
            continue
        if not all(found):
            raise CritiqueError(f"an empty item in the list {section.header!r}: {answer!r}")
        out += [(section, item) for item in found]
    return out


def _locate(item: str, text: str, used: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first unused occurrence, one at word boundaries before any other."""
    inside: tuple[int, int] | None = None
    for match in re.finditer(f"(?={re.escape(item)})", text):
        begin, end = match.start(), match.start() + len(item)
        if any(begin < b and a < end for a, b in used):
            continue
        cuts_word = (begin > 0 and item[0].isalnum() and text[begin - 1].isalnum()) or (
            end < len(text) and item[-1].isalnum() and text[end].isalnum()
        )
        if not cuts_word:
            return begin, end
        inside = inside or (begin, end)
    return inside
