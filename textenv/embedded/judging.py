"""How the judges of answers are trained: the reward model, the aspects, the principles, the critics of answers.

Judge and critic of an answer must find the fact that it states in the text it answers to, as the language model must to write
it; so they begin with its weights (`source`), which saves nine tenths of their training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textenv.embedded import networks, verdicts
from textenv.embedded.answers import Answers
from textenv.embedded.critique import critique_answer, critique_prompt
from textenv.embedded.material import batched, padded
from textenv.embedded.recipes import SIZE, Progress, rng_of
from textenv.embedded.sampling import answers
from textenv.embedded.worlds import ANSWERS, world
from textenv.fitting.training import fit

__all__ = ["CRITIC_TASKS", "answer_critic", "aspects", "critic_batches", "principles", "reward"]

_SIZE = {**SIZE, "layers": SIZE["layers"] + 1}  # the last layer is for grading and listing what those below have found out
CRITIC_TASKS = {"support": ("summarization", "long_form"), "translation": ("translation",)}


def _sources(
    rng: random.Random, tokenizer: PreTrainedTokenizerBase, seed: int, tasks: Sequence[str], source: PreTrainedModel, count: int
) -> list[Answers]:
    """Answers of each task, with those that the language model itself gives, two to a prompt, among them."""
    generator, found = torch.Generator().manual_seed(seed), []
    for task in tasks:
        asked = [world(task).sample(rng).prompt for _ in range(count)]
        texts = answers(source, tokenizer, list(map(world(task).prompt_text, asked)), 64, generator, each=2)
        found.append(Answers(world(task), rng, [(p, t) for p, t in zip(asked, texts, strict=True) if t]))
    return found


class _Marking(nn.Module):
    """A judge that learns beside its task which tokens are part of something wrong and which of something right.

    The layer before the last is taught it, by a head that is thrown away: what is to be graded or listed must have been found out
    by then, and from grades and lists alone that is hardly learned.
    """

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        super().__init__()
        self.model = model
        generator = torch.Generator().manual_seed(seed)
        self.head = nn.Parameter(0.02 * torch.randn(model.config.hidden_size, 2, generator=generator))
        self.lately = 1.0

    def forward(self, ids: torch.Tensor, marks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Last states (B, L, H), and the loss of the marks (B, L, 2), of which -1 is not known."""
        with networks.products():
            states = self.model.base_model(ids, use_cache=False, output_hidden_states=True).hidden_states
            logits = (states[-2] @ self.head).float()
        loss = F.binary_cross_entropy_with_logits(logits[marks >= 0], marks[marks >= 0])
        self.lately += (loss.item() - self.lately) / 30
        return states[-1], loss

    def telling(self, progress: Progress) -> Progress:
        """Progress lines with the loss of the marks."""
        return lambda line: progress(f"{line}  (marks {self.lately:.4f})")


def reward(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    steps: int,
    source: PreTrainedModel,
    *,
    learning_rate: float = 1e-3,
    count: int = 800,
    bradley_terry: float = 0.5,
) -> PreTrainedModel:
    """The reward model of answers, one logit: Bradley–Terry over answers to one prompt, and the quality of every prefix."""
    module = _Marking(networks.take_trunk(networks.scorer(tokenizer, seed, ("good",), **_SIZE), source), seed)
    rng = rng_of(seed, "reward")

    def loss(module: Any, batch: verdicts.Graded) -> torch.Tensor:
        states, marking = module(batch.ids, batch.marks)
        with networks.products():
            logits = module.model.score(states)[..., 0].float()  # (B, L)
        told = batch.targets >= 0
        out = F.binary_cross_entropy_with_logits(logits[told], 0.02 + 0.96 * batch.targets[told])
        score = logits[torch.arange(len(logits)), batch.last]
        better = (batch.group[:, None] == batch.group) & (batch.quality[:, None] > batch.quality + 0.02)  # (B, B)
        if better.any():
            out = out - bradley_terry * F.logsigmoid((score[:, None] - score)[better]).mean()
        total: torch.Tensor = out + marking
        return total

    batches = verdicts.reward_batches(tokenizer, _sources(rng, tokenizer, seed, ANSWERS, source, count), rng)
    fit(module, batches, loss, steps=steps, learning_rate=learning_rate, progress=module.telling(progress))
    return module.model


def aspects(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    steps: int,
    source: PreTrainedModel,
    *,
    learning_rate: float = 1e-3,
    count: int = 800,
) -> PreTrainedModel:
    """The token classifier of the aspects."""
    module = _Marking(networks.take_trunk(networks.judge(tokenizer, seed, verdicts.LABELS, **_SIZE), source), seed)
    rng = rng_of(seed, "aspects")

    def loss(module: Any, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, targets, marks = batch
        states, marking = module(ids, marks)
        with networks.products():
            logits = module.model.score(states).float()  # (B, L, labels)
        each = []
        for label in range(targets.shape[-1]):
            told = targets[..., label] >= 0
            if told.any():
                wanted = targets[..., label][told].clamp(0.01, 0.99)
                each.append(F.binary_cross_entropy_with_logits(logits[..., label][told], wanted))
        total: torch.Tensor = torch.stack(each).mean() + marking
        return total

    batches = verdicts.aspect_batches(tokenizer, _sources(rng, tokenizer, seed, ANSWERS, source, count), rng)
    fit(module, batches, loss, steps=steps, learning_rate=learning_rate, progress=module.telling(progress))
    return module.model


def principles(
    tokenizer: PreTrainedTokenizerBase, seed: int, progress: Progress, samples: Mapping[str, Sequence[str]], steps: int
) -> PreTrainedModel:
    """The reward model that reads principles, one logit, taught the verdict on every prefix."""
    model = networks.scorer(tokenizer, seed, ("good",), width=64, layers=3, heads=2)
    rng = rng_of(seed, "principles")

    def loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, targets = batch
        with networks.products():
            logits = model.score(model.model(ids, use_cache=False).last_hidden_state)[..., 0].float()
        told = targets >= 0
        return F.binary_cross_entropy_with_logits(logits[told], targets[told])

    batches = verdicts.principle_batches(tokenizer, verdicts.excerpts_of(rng, samples), rng)
    fit(model, batches, loss, steps=steps, learning_rate=3e-3, progress=progress)
    return model


def answer_critic(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    kind: str,
    steps: int,
    source: PreTrainedModel,
    *,
    learning_rate: float = 1.5e-3,
    count: int = 800,
) -> PreTrainedModel:
    """The language model that answers critique prompts of answers; `kind` is "support" or "translation"."""
    critic = _Marking(networks.take_trunk(networks.language_model(tokenizer, seed, **_SIZE), source), seed)
    rng = rng_of(seed, f"critic {kind}")

    def loss(module: Any, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, answer, marks = batch
        states, marking = module(ids, marks)
        targets, where = ids[:, 1:], answer[:, 1:].bool()
        with networks.products():
            logits = networks.next_token_logits(module.model, states[:, :-1][where])
        total: torch.Tensor = F.cross_entropy(logits.float(), targets[where]) + marking
        return total

    batches = critic_batches(tokenizer, _sources(rng, tokenizer, seed, CRITIC_TASKS[kind], source, count), rng)
    fit(critic, batches, loss, steps=steps, learning_rate=learning_rate, warmup=0.03, progress=critic.telling(progress))
    return critic.model


def critic_batches(
    tokenizer: PreTrainedTokenizerBase, sources: Sequence[Answers], rng: random.Random, tokens: int = 2400
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Question and answer (B, L), then padding; 1 where a token is of the answer (B, L); `token_marks` of the text (B, L, 2)."""
    while True:
        asked, whole, judged = [], [], []
        for source in rng.choices(sources, k=24 * 24):
            prompt, text = source.one()
            question = critique_prompt(text, source.world.name, prompt)
            asked.append(question)
            whole.append(question + critique_answer(text, source.world.errors(prompt, text), source.world.name))
            judged.append((source.world, prompt, text))
        encoded = tokenizer(whole, return_offsets_mapping=True)
        pool = []
        for ids, offsets, question, begun, (world_, prompt, text) in zip(
            encoded.input_ids, encoded.offset_mapping, asked, tokenizer(asked).input_ids, judged, strict=True
        ):
            answer = [0] * len(begun) + [1] * (len(ids) + 1 - len(begun))
            start = question.rindex("\n") - len(text.rstrip())  # the text stands before the header, without its last white space
            inside = [i for i, (_, end) in enumerate(offsets) if start < end <= start + len(text.rstrip())]
            marks = [[-1.0, -1.0] for _ in range(len(ids) + 1)]
            ends = [offsets[i][1] - start for i in inside]
            for i, mark in zip(inside, verdicts.token_marks(world_, prompt, text, ends), strict=True):
                marks[i] = mark
            pool.append((len(ids), [[*ids, tokenizer.eos_token_id], answer, marks]))
        for batch in batched(rng, tokens, pool):
            rows = padded([row for row, *_ in batch], tokenizer.pad_token_id or 0)
            yield rows, padded([row for _, row, _ in batch], 0), verdicts.stacked([m for *_, m in batch], rows.shape[1])
