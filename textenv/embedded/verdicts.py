"""What the judges of answers are trained on: `textenv/tiny-reward`, `textenv/tiny-aspects`, `textenv/tiny-principles`.

Each reads rows of prompt and text and is told the truth at tokens of the text: at its end, and about what it was up to some
points before (credit by differences of a reward model over prefixes, and payment while a text is written, rest on that).
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from textenv.embedded import principles
from textenv.embedded.answers import Answers
from textenv.embedded.material import GENRE, Excerpts, batched, padded
from textenv.embedded.worlds import World
from textenv.episode import Prompt, Span

__all__ = [
    "LABELS", "Graded", "aspect_batches", "aspect_marks", "encoded", "excerpts_of", "principle_batches", "reward_batches",
    "stacked", "token_marks",
]  # fmt: skip

LABELS = ("supported", "relevant", "complete", "grammatical")
"""The aspects, in the order of the model's labels."""

_NONE = -1.0  # no target
Mark = tuple[int, int, float]  # token of the text, label, target


@dataclass(frozen=True)
class Graded:
    """Rows in groups that answer one prompt.

    Attributes:
        ids: (B, L) right-padded.
        targets: (B, L) float, the quality of the text up to each token; -1 where none is told.
        last: (B,) the index of each row's last token.
        quality: (B,) float, of each whole text.
        group: (B,) which prompt.
        marks: (B, L, 2) float, as of `token_marks`; -1 before the text and behind it.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    last: torch.Tensor
    quality: torch.Tensor
    group: torch.Tensor
    marks: torch.Tensor


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


def reward_batches(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Answers],
    rng: random.Random,
    *,
    groups: int = 8,
    each: int = 4,
    told: int = 3,
) -> Iterator[Graded]:
    """Rows of one task a batch, `each` answers to every prompt; the quality of `told` prefixes of every text."""
    while True:
        source = rng.choice(sources)
        asked, prompts, group = list[str](), list[Prompt](), list[int]()
        texts: list[str] = []
        for number in range(groups):
            drawn = source.draw(each)
            texts += drawn.texts
            asked += [source.world.prompt_text(drawn.prompt)] * len(drawn.texts)
            prompts += [drawn.prompt] * len(drawn.texts)
            group += [number] * len(drawn.texts)
        rows, targets, quality, marks = [], [], [], []
        for (ids, first, ends), prompt, text in zip(encoded(tokenizer, asked, texts), prompts, texts, strict=True):
            quality.append(source.world.quality(prompt, text))
            target = [_NONE] * len(ids)
            for i in rng.sample(range(len(ends)), min(told, len(ends))):
                target[first + i] = source.world.quality(prompt, text[: ends[i]])
            target[-1] = quality[-1]
            rows.append(ids)
            targets.append(target)
            marks.append([[_NONE] * 2] * first + token_marks(source.world, prompt, text, ends))
        ids_ = padded(rows, tokenizer.pad_token_id or 0)
        yield Graded(
            ids_,
            padded(targets, _NONE, torch.float),
            torch.tensor([len(row) - 1 for row in rows]),
            torch.tensor(quality),
            torch.tensor(group),
            stacked(marks, ids_.shape[1]),
        )


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


def aspect_batches(
    tokenizer: PreTrainedTokenizerBase, sources: Sequence[Answers], rng: random.Random, *, tokens: int = 2400, told: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rows (B, L), targets (B, L, labels), -1 where a label is not judged, and `token_marks` (B, L, 2)."""
    while True:
        drawn = [(source, *source.one()) for source in rng.choices(sources, k=24 * 24)]
        asked = [source.world.prompt_text(prompt) for source, prompt, _ in drawn]
        pool = []
        for (source, prompt, text), (ids, first, ends) in zip(
            drawn, encoded(tokenizer, asked, [text for *_, text in drawn]), strict=True
        ):
            target = [[_NONE] * len(LABELS) for _ in ids]
            cuts = rng.sample(range(len(ends)), min(told, len(ends)))
            for token, label, value in aspect_marks(source.world.name, prompt, text, ends, cuts):
                target[first + token][label] = value
            marks = [[_NONE] * 2] * first + token_marks(source.world, prompt, text, ends)
            pool.append((len(ids), [ids, target, marks]))
        for batch in batched(rng, tokens, pool):
            rows = padded([row for row, *_ in batch], tokenizer.pad_token_id or 0)
            yield rows, stacked([t for _, t, _ in batch], rows.shape[1]), stacked([m for *_, m in batch], rows.shape[1])


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
