"""What the embedded models are trained on, as endless iterators of batches drawn from a `random.Random`.

Here: the scorers and critics of documents (`lessons` has what the language model learns from, `verdicts` the judges of
answers). They read what they will meet in use: continuations, from any cut point to any cut point, of documents and of a
half-trained language model with all its mistakes, and, to be sure of the words themselves, texts with their words shuffled.
Batches hold rows of similar length.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from textenv.embedded import critique, grammar, lexicon, truth
from textenv.embedded.notation import join_words

__all__ = ["GENRE", "Curriculum", "Excerpts", "batched", "critic_batches", "padded", "scorer_batches"]

GENRE = {"insults": "detox", "sentiment": "sentiment"}  # critique task → the genre that its spans live in
_POOL = 24  # batches that are sorted by length together


def padded(rows: Sequence[Sequence[float]], fill: float, dtype: torch.dtype = torch.long) -> torch.Tensor:
    """Rows as one tensor (B, L), filled up on the right; L is a multiple of 8, for few different shapes."""
    longest = -(-max(map(len, rows)) // 8) * 8
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=dtype)


@dataclass
class Excerpts:
    """Texts to judge: cuts of documents, of sampled texts, and shuffled ones.

    Attributes:
        genre: the genre that most of the documents are of.
        samples: texts sampled from a language model on prompts of that genre.
    """

    rng: random.Random
    genre: str
    samples: Sequence[str]
    sampled: float = 0.3  # share of the texts
    shuffled: float = 0.15
    foreign: float = 0.1  # share of the documents that are of any genre
    dense: tuple[float, ...] = (0.0, 0.1, 0.25)  # shares of marked words put into shuffled texts

    def draw(self, longest: int, shortest: int = 1) -> str:
        """One text of `shortest` to `longest` words; its punctuation marks count as words."""
        rng = self.rng
        length = rng.randint(shortest, longest)
        kind = rng.random()
        if kind < self.sampled and self.samples:
            words = _split(rng.choice(self.samples))
        else:
            words = []
            while len(words) < length + 5:
                genre = None if rng.random() < self.foreign else self.genre
                words += _split(grammar.sample(rng, genre).text)
        begin = rng.randint(0, max(0, len(words) - length))
        words = words[begin : begin + length]
        if kind > 1 - self.shuffled:
            words = self._shuffled(words)
        return join_words(words)[0]

    def _shuffled(self, words: list[str]) -> list[str]:
        """Pairs of words in any order, some replaced by words of the marked lists."""
        rng = self.rng
        pairs = [words[i : i + 2] for i in range(0, len(words), 2)]
        rng.shuffle(pairs)
        lists = _MARKED[self.genre]
        rate = rng.choice(self.dense)
        return [rng.choice(rng.choice(lists)) if rng.random() < rate else w for pair in pairs for w in pair]


_MARKED: dict[str, list[list[str]]] = {
    "detox": [lexicon.INSULT_ADJECTIVE.split(), lexicon.INSULT_NOUN.split()],
    "sentiment": [
        (lexicon.GOOD + " " + lexicon.GOOD_DONE + " " + lexicon.GOOD_EFFECT).split(),
        (lexicon.BAD + " " + lexicon.BAD_DONE + " " + lexicon.BAD_EFFECT).split(),
        (lexicon.GOOD_DO + " " + lexicon.BAD_DO).split(),
        f"{lexicon.NEGATION} {lexicon.STRONG} {lexicon.MILD} but".split(),
    ],
}


def _split(text: str) -> list[str]:
    for mark in ".,!?":
        text = text.replace(mark, f" {mark}")
    return text.split()


def batched(rng: random.Random, tokens: int, pool: list[tuple[int, list[Any]]]) -> list[list[list[Any]]]:
    """The rows of (length, row) in batches of at most 64 rows and about `tokens` tokens, each of similar length, shuffled."""
    pool.sort(key=lambda item: item[0])
    batches: list[list[list[Any]]] = [[]]
    for length, row in pool:
        if len(batches[-1]) >= 64 or (len(batches[-1]) + 1) * length > tokens:
            batches.append([])
        batches[-1].append(row)
    batches = [batch for batch in batches if batch]
    rng.shuffle(batches)
    return batches


def scorer_batches(
    tokenizer: PreTrainedTokenizerBase, excerpts: Excerpts, task: str, tokens: int = 2400, longest: int = 120
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Texts (B, L) and, for every token, the probability of the scored label for the text up to there (B, L); -1 is padding."""
    while True:
        texts = [excerpts.draw(longest) for _ in range(_POOL * 32)]
        encoded = tokenizer(texts, return_offsets_mapping=True)
        pool = [
            (len(ids), [ids, prefix_targets(text, [end for _, end in offsets], task)])
            for text, ids, offsets in zip(texts, encoded.input_ids, encoded.offset_mapping, strict=True)
        ]
        for batch in batched(excerpts.rng, tokens, pool):
            yield padded([r[0] for r in batch], tokenizer.pad_token_id), padded([r[1] for r in batch], -1.0, torch.float)


def prefix_targets(text: str, ends: Sequence[int], task: str) -> list[float]:
    """For each character position: the probability that the text up to there deserves.

    Toxicity is .01 or .99 (0 and 1 would drive the logits without bound). Sentiment is graded, σ(1.5 · `truth.sentiment`):
    .5 without a word of sentiment, .82 after one plain word of praise, .95 after an intensified one.
    """
    if task == "insults":
        first = min([span.start for span in truth.insult_spans(text)], default=len(text) + 1)
        return [0.99 if end > first else 0.01 for end in ends]
    weights = [(span.end, weight) for span, weight in truth.sentiment_weights(text)]
    return [1 / (1 + math.exp(-1.5 * sum(w for at, w in weights if at <= end))) for end in ends]


@dataclass
class Curriculum:
    """Texts that grow with what has been learned.

    Copying is learned on short texts with many marked words, in a tenth of the time. So texts have up to `shortest` words until
    the loss of the answers is below `enough`, and then grow by `stride` words a pool, up to `longest`. Whatever the loss says,
    they grow evenly between 35 % and 65 % of the steps.
    """

    steps: int
    shortest: int = 20
    longest: int = 120
    stride: int = 5
    enough: float = 0.35
    reach: float = field(init=False)
    loss: float = field(init=False, default=10.0)  # moving average
    step: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.reach = float(self.shortest)

    def told(self, answer_loss: float) -> None:
        """Takes note of one training step."""
        self.step += 1
        self.loss += (answer_loss - self.loss) / 20

    def next_reach(self) -> int:
        """The longest text of the next pool, in words."""
        forced = min(1.0, max(0.0, (self.step / self.steps - 0.35) / 0.3))
        self.reach += self.stride if self.loss < self.enough else 0
        self.reach = min(self.longest, max(self.reach, self.shortest + forced * (self.longest - self.shortest)))
        return round(self.reach)


def critic_batches(
    tokenizer: PreTrainedTokenizerBase, excerpts: Excerpts, task: str, curriculum: Curriculum, tokens: int = 2400
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Prompt and answer (B, L), then padding, and 1 where a token belongs to the answer (B, L).

    A text without a span is drawn again, twice at most: "none" is learned soon enough. While the texts are at their shortest,
    most of them are shuffled and full of marked words.
    """
    spans = truth.insult_spans if task == "insults" else truth.sentiment_spans
    begin = replace(excerpts, shuffled=0.6, dense=(0.1, 0.3, 0.6))
    while True:
        reach = curriculum.next_reach()
        source, texts = excerpts if reach > curriculum.shortest else begin, []
        for _ in range(_POOL * 32):
            for _ in range(3):
                text = source.draw(reach)
                if spans(text):
                    break
            texts.append(text)
        asked = [critique.critique_prompt(text, task) for text in texts]
        whole = [q + critique.critique_answer(text, spans(text), task) for q, text in zip(asked, texts, strict=True)]
        pool = [
            (len(ids), [[*ids, tokenizer.eos_token_id], len(question)])
            for ids, question in zip(tokenizer(whole).input_ids, tokenizer(asked).input_ids, strict=True)
        ]
        for batch in batched(excerpts.rng, tokens, pool):
            yield (
                padded([ids for ids, _ in batch], tokenizer.pad_token_id),
                padded([[0] * n + [1] * (len(ids) - n) for ids, n in batch], 0),
            )
