"""What `textenv/tiny` learns from: one stream of rows of many kinds, each a question (perhaps empty) and what follows it.

    document       a review, or a remark                                    all of it is learned
    request        the same behind "Better:" or "Worse:" (`contrastive`)    one without, or one full of, what the task is about
    answer         a summary, an answer, a translation, mistakes included   half of them behind a request that fits
    recall         a notice, or a passage: its sentences in another order   so that facts are found by whom and what they are about
    critique       the question of a critic and the right answer to it

The loss is on what follows the question, and on a sample of the question's own tokens with a small weight.

Rows of all kinds come in every step, packed into lines, each row blind to its neighbours: a step of 2,000 tokens holds hardly
any padding.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from textenv.embedded import grammar, lexicon, truth
from textenv.embedded.contrastive import CONTRASTIVE
from textenv.embedded.critique import critique_answer, critique_prompt
from textenv.embedded.examples import Example
from textenv.embedded.material import GENRE, Excerpts
from textenv.embedded.worlds import ANSWERS, DOCUMENTS, world
from textenv.episode import Prompt

__all__ = ["KINDS", "SHARES", "Lessons", "Step", "direction"]

SHARES: dict[str, float] = {
    "document": 0.16,
    "request": 0.11,
    "recall": 0.10,
    "summarization": 0.15,
    "long_form": 0.19,
    "translation": 0.12,
    "critique of insults": 0.03,
    "critique of sentiment": 0.03,
    "critique of summarization": 0.04,
    "critique of long_form": 0.04,
    "critique of translation": 0.03,
}
"""Kind of row → its share of the rows."""

COPYING = {kind: 0.3 * share for kind, share in SHARES.items()}
COPYING |= {"echo": 0.3, "recall": 0.15, "critique of insults": 0.15, "critique of sentiment": 0.15}
"""The same in the beginning: words in any order that are said again, and short texts full of marked words, to be listed. What is
learned from them, to find a word and to say it, everything else needs, and does not teach half as soon."""

KINDS = tuple(COPYING)
Row = tuple[list[int], list[float], int]  # ids, weights, kind
_SENTENCE = re.compile(r"[^.]+\.")
_PRONOUN = re.compile(r"\b(?:She|He)\b")
_NAME = re.compile(rf"\b(?:{'|'.join(lexicon.NAME.split())})\b")
_QUESTION = (0.25, 0.1)  # the share of a question's tokens that is learned, and the mean weight of them all


@dataclass(frozen=True)
class Step:
    """Rows of every kind, packed one after the other into lines of the same length; what is left over is padding.

    Attributes:
        ids: (B, L).
        positions: (B, L), counted from the first token of each row.
        mask: (B, 1, L, L) float, added to the attention's logits: a token sees what stands before it in its own row.
        weights: (B, L) float, of the loss of predicting each token; 0: not learned (the first token of each row never is).
        kinds: (B, L) indices into KINDS.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor
    kinds: torch.Tensor


def direction(task: str, prompt: Prompt, text: str) -> int:
    """+1 for a text that "Better:" stands before, -1 for one of "Worse:", 0 for neither."""
    if task == "sentiment":
        value = truth.sentiment(text)
        good, bad = value >= 2, value <= -2
    elif task == "detox":
        good, bad = not truth.toxicity(text), len(truth.insult_spans(text)) >= 2
    else:
        good = world(task).quality(prompt, text) >= 0.7 and not world(task).errors(prompt, text)
        bad = len(world(task).errors(prompt, text)) >= 1 and world(task).quality(prompt, text) <= 0.6
    return int(good) - int(bad)


class Lessons:
    """An endless iterator of steps.

    Args:
        lines, length: of a step.
        copying: steps in the beginning whose rows are of the mixture `COPYING`.
        without_bos: share of the documents that come without bos, as some callers encode them.
        shares: kind → share, for another mixture.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rng: random.Random,
        *,
        lines: int = 8,
        length: int = 256,
        copying: int = 0,
        without_bos: float = 0.1,
        shares: dict[str, float] | None = None,
    ) -> None:
        self.tokenizer, self.rng, self.lines, self.length = tokenizer, rng, lines, length
        self.without_bos, self.shares = without_bos, SHARES if shares is None else shares
        self._excerpts = {task: Excerpts(rng, genre, []) for task, genre in GENRE.items()}
        self._dense = {task: Excerpts(rng, genre, [], shuffled=0.6, dense=(0.1, 0.3, 0.6)) for task, genre in GENRE.items()}
        self._left, self._words = copying, grammar.GRAMMAR.vocabulary()
        self._pool: list[Row] = []

    def __iter__(self) -> Iterator[Step]:
        while True:
            yield self._step([self._line() for _ in range(self.lines)])
            self._left -= 1

    def _line(self) -> list[Row]:
        """Rows that fit into one line: one drawn, then the longest of the pool that fits, again and again."""
        if len(self._pool) < 4 * self.lines:
            self._pool += self._rows(24 * self.lines)
            self.rng.shuffle(self._pool)
        line, left = [self._pool.pop()], self.length
        left -= len(line[0][0])
        while True:
            near = [i for i, row in enumerate(self._pool[-64:], max(0, len(self._pool) - 64)) if len(row[0]) <= left]
            if not near:
                return line
            line.append(self._pool.pop(max(near, key=lambda i: len(self._pool[i][0]))))
            left -= len(line[-1][0])

    def _rows(self, count: int) -> list[Row]:
        shares = COPYING if self._left > 0 else self.shares
        kinds = self.rng.choices(list(shares), list(shares.values()), k=count)
        pairs = [self.pair(kind) for kind in kinds]
        whole = self.tokenizer([asked + text for asked, text in pairs]).input_ids
        asked = self.tokenizer([asked for asked, _ in pairs]).input_ids
        rows = []
        for kind, ids, question in zip(kinds, whole, asked, strict=True):
            ids = [*ids, self.tokenizer.eos_token_id]
            weights = [self._weight() for _ in question] + [1.0] * (len(ids) - len(question))
            first = 1 if kind == "document" and self.rng.random() < self.without_bos else 0
            ids, weights = ids[first : self.length], weights[first : self.length]
            rows.append((ids, [0.0, *weights[1:]], KINDS.index(kind)))
        return rows

    def _weight(self) -> float:
        share, mean = _QUESTION
        return mean / share if self.rng.random() < share else 0.0

    def _step(self, lines: list[list[Row]]) -> Step:
        def padded_(rows: list[list[float]], fill: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor([[*row, *[fill] * (self.length - len(row))] for row in rows], dtype=dtype)

        ids = padded_([[i for row in line for i in row[0]] for line in lines], self.tokenizer.pad_token_id or 0, torch.long)
        weights = padded_([[w for row in line for w in row[1]] for line in lines], 0.0, torch.float)
        kinds = padded_([[row[2] for row in line for _ in row[0]] for line in lines], 0, torch.long)
        positions = padded_([[i for row in line for i in range(len(row[0]))] for line in lines], 0, torch.long)
        number = (positions == 0).cumsum(1)  # which row of its line; every token of the padding is a row of its own
        seen = (number[:, :, None] == number[:, None]) & torch.ones(self.length, self.length, dtype=torch.bool).tril()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        return Step(ids, positions, mask, weights, kinds)

    def pair(self, kind: str) -> tuple[str, str]:
        """A question and what follows it."""
        if kind == "echo":
            text = " ".join(self.rng.choices(self._words, k=self.rng.randint(4, 30)))
            return f"{text}\n", f" {text}"
        if kind == "recall":
            return self._recalled()
        if kind == "document":
            return "", grammar.sample(self.rng).text
        if kind == "request":
            return self._requested(self.rng.choice(DOCUMENTS))
        if kind in ANSWERS:
            if self.rng.random() < 0.5:
                return self._requested(kind)
            example = world(kind).sample(self.rng)
            return world(kind).prompt_text(example.prompt), example.text
        return self._critique(kind.removeprefix("critique of "))

    def _recalled(self) -> tuple[str, str]:
        task = self.rng.choice(("summarization", "long_form"))
        prompt = world(task).sample(self.rng).prompt
        text = " ".join(prompt.context) or prompt.text
        said, name = [], ""
        for sentence in _SENTENCE.findall(text):
            found = _NAME.search(sentence)
            name = found[0] if found else name
            if name and task == "long_form" and self.rng.random() < 0.7:
                sentence = _PRONOUN.sub(name, sentence)
            said.append(sentence.strip())
        self.rng.shuffle(said)
        return f"{text}\n", " " + " ".join(said)

    def _requested(self, task: str) -> tuple[str, str]:
        wanted = self.rng.choice((1, -1) if task in DOCUMENTS else (1, 1, -1))
        if wanted > 0 and task not in DOCUMENTS and self.rng.random() < 0.5:
            prompt = world(task).sample(self.rng).prompt  # a reference is better than any
            text, asked = " " + self.rng.choice(prompt.references), world(task).prompt_text(prompt)
            return CONTRASTIVE[task][0].format(prompt=asked, text=text), text
        example = self._drawn(world(task).sample, lambda e: direction(task, e.prompt, e.text) == wanted)
        asked = world(task).prompt_text(example.prompt)
        wanted = direction(task, example.prompt, example.text)
        if not wanted:
            return asked, example.text
        return CONTRASTIVE[task][0 if wanted > 0 else 1].format(prompt=asked, text=example.text), example.text

    def _drawn(self, sample: Callable[[random.Random], Example], fits: Callable[[Example], bool], tries: int = 12) -> Example:
        for _ in range(tries):
            example = sample(self.rng)
            if fits(example):
                break
        return example

    def _critique(self, task: str) -> tuple[str, str]:
        if task in GENRE:
            scan = truth.insult_spans if task == "insults" else truth.sentiment_spans
            source, longest = (self._dense[task], 20) if self._left > 0 else (self._excerpts[task], 45)
            text = source.draw(longest)
            if not scan(text):
                text = source.draw(longest)
            return critique_prompt(text, task), critique_answer(text, scan(text), task)
        example = world(task).sample(self.rng)
        errors = world(task).errors(example.prompt, example.text)
        return critique_prompt(example.text, task, example.prompt), critique_answer(example.text, errors, task)
