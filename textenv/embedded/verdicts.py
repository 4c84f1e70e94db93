"""What the judges of answers are trained on, `textenv/tiny-reward`, `tiny-aspects`, `tiny-critic-answers`, `tiny-principles`.

Each reads rows of prompt and text and is told the truth at tokens of the text: at its end, and about what it was up to some
points before (credit by differences of a reward model over prefixes, and payment while a text is written, rest on that). The
critic reads on, to the list of what is wrong.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from textenv.embedded import principles
from textenv.embedded.answers import Answers
from textenv.embedded.critique import critique_answer, critique_prompt
from textenv.embedded.material import GENRE, Excerpts, batched, padded
from textenv.embedded.worlds import World
from textenv.episode import Prompt, Span

__all__ = [
    "LABELS", "Judged", "aspect_marks", "encoded", "excerpts_of", "judged_batches", "principle_batches", "stacked", "token_marks",
]  # fmt: skip

LABELS = ("supported", "relevant", "complete", "grammatical")
"""The aspects, in the order of the model's labels."""

_NONE = -1.0  # no target
Mark = tuple[int, int, float]  # token of the text, label, target


@dataclass(frozen=True)
class Judged:
    """Rows of prompt, text and critique, in groups that answer one prompt; everything that is true of the texts.

    Attributes:
        ids: (B, L) right-padded; the text of a row is followed by the header of its critique, the critique, and EOS.
        critique: (B, L) bool, where a token is of the critique (EOS too).
        targets: (B, L) float, the quality of the text up to each token; -1 where none is told.
        aspects: (B, L, labels) float, as of `aspect_marks`; -1 where a label is not judged.
        marks: (B, L, 2) float, as of `token_marks`; -1 before the text and behind it.
        last: (B,) the index of each text's last token.
        quality: (B,) float, of each whole text.
        group: (B,) which prompt.
    """

    ids: torch.Tensor
    critique: torch.Tensor
    targets: torch.Tensor
    aspects: torch.Tensor
    marks: torch.Tensor
    last: torch.Tensor
    quality: torch.Tensor
    group: torch.Tensor


def encoded(
    tokenizer: PreTrainedTokenizerBase, asked: Sequence[str], texts: Sequence[str]
) -> Iterator[tuple[list[int], int, list[int]]]:
    """For each pair the ids of both together, the index of the text's first token, and where each of its tokens ends in it."""
    whole = tokenizer([a + t for a, t in zip(asked, texts, strict=True)], return_offsets_mapping=True)
    for question, ids, offsets in zip(asked, whole.input_ids, whole.offset_mapping, strict=True):
        first = next((i for i, (_, end) in enumerate(offsets) if end > len(question)), len(ids))
        yield list(ids), first, [end - len(question) for _, end in offsets[first:]]


def token_marks(world: World, prompt: Prompt, text: str, ends: Sequence[int]) -> list[list[float]]:
    """Of each token of a text whether it is part of something wrong, and of something right (-1: not known), by `truth_spans`."""
    spans, known = world.truth_spans(prompt, text), world.name != "translation"
    out = []
    for begin, end in zip([0, *ends], ends, strict=False):
        hit = [span.reward for span in spans if span.start < end and begin < span.end]
        out.append([float(any(r < 0 for r in hit)), float(any(r > 0 for r in hit)) if known else _NONE])
    return out


def stacked(rows: Sequence[Sequence[Sequence[float]]], length: int) -> torch.Tensor:
    """Rows of vectors as one tensor (B, length, ·), filled up with -1."""
    blank = [_NONE] * len(rows[0][0])
    return torch.tensor([[*row, *[blank] * (length - len(row))] for row in rows])


def aspect_marks(task: str, prompt: Prompt, text: str, ends: Sequence[int], told: Sequence[int] = ()) -> list[Mark]:
    """What is true of the aspects of a text, and of some of its prefixes.

    Args:
        ends: where each token of the text ends.
        told: tokens up to which the text is judged too, as if it ended there.
    """
    module = importlib.import_module(f"textenv.embedded.{task}")
    if task == "translation":
        wrong = module.grammar_errors(text)
        starts = [0, *ends][: len(ends)]
        right = [not any(s.start < e and b < s.end for s in wrong) for b, e in zip(starts, ends, strict=True)]
        return [(i, LABELS.index("grammatical"), float(good)) for i, good in enumerate(right)]
    marks: list[Mark] = []

    def place(verdicts: Sequence[Span], label: str) -> None:
        for span in verdicts:
            seen = len(text[: span.end].rstrip())  # a segment's white space is the beginning of the next token
            token = next((i for i, end in enumerate(ends) if end >= seen), len(ends) - 1)
            marks.append((token, LABELS.index(label), float(span.reward > 0)))

    place(module.sentence_verdicts(prompt, text), "supported")
    for i in told:
        place(module.sentence_verdicts(prompt, text[: ends[i]])[-1:], "supported")
    if task == "long_form":
        place(module.relevance_verdicts(prompt, text), "relevant")
        for i in told:
            place(module.relevance_verdicts(prompt, text[: ends[i]])[-1:], "relevant")
    complete = module.completeness if task == "long_form" else module.coverage
    for i in {*told, len(ends) - 1}:
        marks.append((i, LABELS.index("complete"), complete(prompt, text[: ends[i]])))
    return marks


Row = tuple[list[int], int, list[float], list[list[float]], list[list[float]], int, float]


def _row(tokenizer: PreTrainedTokenizerBase, source: World, prompt: Prompt, text: str, rng: random.Random, told: int) -> Row | None:
    """One row of `Judged`, its critique as the index of its first token; None where the critic is not shown the text as it is."""
    asked, question = source.prompt_text(prompt), critique_prompt(text, source.name, prompt)
    if not question.startswith(f"{asked}{text}\n"):
        return None
    ids, first, ends = next(encoded(tokenizer, [asked], [text]))
    shown = tokenizer(question).input_ids
    critique = tokenizer(question + critique_answer(text, source.errors(prompt, text), source.name)).input_ids
    if not ends or critique[: len(shown)] != shown or shown[: len(ids)] != ids:
        return None
    row, last = [*critique, tokenizer.eos_token_id], len(ids) - 1
    targets, aspects = [_NONE] * len(row), [[_NONE] * len(LABELS) for _ in row]
    marks = [[_NONE] * 2] * first + token_marks(source, prompt, text, ends) + [[_NONE] * 2] * (len(row) - len(ids))
    cuts = rng.sample(range(len(ends)), min(told, len(ends)))
    for i in cuts:
        targets[first + i] = source.quality(prompt, text[: ends[i]])
    targets[last] = quality = source.quality(prompt, text)
    for token, label, value in aspect_marks(source.name, prompt, text, ends, cuts[:1]):
        aspects[first + token][label] = value
    return row, len(shown), targets, aspects, marks, last, quality


def judged_batches(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Answers],
    rng: random.Random,
    *,
    weights: Sequence[float] | None = None,
    tokens: int = 2400,
    each: int = 3,
    told: int = 3,
    idle: float = 1.0,
) -> Iterator[Judged]:
    """Batches of about `tokens` tokens, `each` answers to every prompt; the quality of `told` prefixes of every text.

    A causal judge reads nothing behind a token, so that the verdicts on a text stand in the row that its critic learns from.
    To find out what is true of a text takes a third as long as to learn from it: half of the groups are met a second time.

    Args:
        weights: how often each source is drawn from (default: alike).
        idle: the share that is kept of the texts in which nothing is wrong.
    """
    store: list[tuple[int, list[Any]]] = []
    while True:
        pool = rng.sample(store, min(96, len(store)))
        for source in rng.choices(sources, weights, k=192 - len(pool)):
            drawn = source.draw(each)
            found = [_row(tokenizer, source.world, drawn.prompt, text.rstrip(), rng, told) for text in drawn.texts]
            rows = [row for row in found if row is not None and (idle == 1 or any(m[0] > 0 for m in row[4]) or rng.random() < idle)]
            if rows:
                pool.append((max(len(ids) for ids, *_ in rows), rows))
                store.append(pool[-1])
        store = store[-2000:]
        for groups in batched(rng, tokens // each, pool):
            yield _judged([row for group in groups for row in group], groups, tokenizer.pad_token_id or 0)


def _judged(rows: Sequence[Row], groups: Sequence[Sequence[Row]], pad: int) -> Judged:
    ids, begun, targets, aspects, marks, last, quality = zip(*rows, strict=True)
    filled = padded(ids, pad)
    at = torch.arange(filled.shape[1])
    critique = (at >= torch.tensor(begun)[:, None]) & (at < torch.tensor(list(map(len, ids)))[:, None])
    length = filled.shape[1]
    return Judged(
        filled,
        critique,
        padded(targets, _NONE, torch.float),
        stacked(aspects, length),
        stacked(marks, length),
        torch.tensor(last),
        torch.tensor(quality),
        torch.tensor([number for number, group in enumerate(groups) for _ in group]),
    )


def principle_batches(
    tokenizer: PreTrainedTokenizerBase, excerpts: Sequence[Excerpts], rng: random.Random, *, tokens: int = 2400, longest: int = 60
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Principles and text (B, L), and the probability that every prefix deserves (B, L); -1 before the text and in padding."""
    names = [f"{no}{name}" for name in principles.PRINCIPLES for no in ("", "not ")]
    while True:
        drawn = []
        for _ in range(24 * 32):
            texts = [source.draw(longest) for source in rng.sample(excerpts, rng.choice((1, 1, 2)))]
            text = " " + " ".join(texts)[: 6 * longest]
            chosen = {name.removeprefix("not "): name for name in rng.sample(names, rng.randint(1, 3))}
            drawn.append((list(chosen.values()), text))
        asked = [principles.question(chosen) for chosen, _ in drawn]
        pool = []
        for (wanted, text), (ids, first, ends) in zip(drawn, encoded(tokenizer, asked, [t for _, t in drawn]), strict=True):
            verdicts = [0.5 + 0.49 * principles.verdict(wanted, text[:end]) for end in ends]
            pool.append((len(ids), [ids, [_NONE] * first + verdicts]))
        for batch in batched(rng, tokens, pool):
            yield padded([r[0] for r in batch], tokenizer.pad_token_id or 0), padded([r[1] for r in batch], _NONE, torch.float)


def excerpts_of(rng: random.Random, samples: Mapping[str, Sequence[str]]) -> list[Excerpts]:
    """One source of texts a genre."""
    return [Excerpts(rng, genre, samples.get(genre, ())) for genre in sorted(GENRE.values())]
