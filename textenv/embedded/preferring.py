"""A copy of the language model that prefers better texts, by DPO: the dense reward of RTO is its log-ratio to the original.

Rafailov et al. 2023 (arXiv 2305.18290), β = 0.1; pairs are the best and the worst of a few samples of the original for one
prompt, ranked by the truth of the task, all tasks together. Sums over tokens, EOS among them.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textenv.embedded import networks, sampling
from textenv.embedded.material import padded
from textenv.embedded.recipes import Progress, rng_of
from textenv.embedded.worlds import ANSWERS, DOCUMENTS, World, world
from textenv.fitting.reward_model import dpo_loss
from textenv.fitting.training import fit

__all__ = ["TOKENS", "preferred", "ranked_pairs"]

BETA = 0.1
TOKENS = {"sentiment": 28, "detox": 28, "summarization": 32, "long_form": 64, "translation": 48}
"""How long the samples are: the budgets of the environments."""

Pair = tuple[list[int], list[int], int]  # the better and the worse row of ids, and how many of them are the prompt's
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # the better rows, then the worse (B, L); first token of each text; lengths


def ranked_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    worlds: Sequence[World],
    rng: random.Random,
    generator: torch.Generator,
    *,
    prompts: int = 400,
    each: int = 4,
) -> list[Pair]:
    """The best and the worst of `each` samples for `prompts` prompts of every task; where all are alike there is no pair."""
    pairs: list[Pair] = []
    for task in worlds:
        asked = [task.sample(rng).prompt for _ in range(prompts)]
        questions = [task.prompt_text(prompt) for prompt in asked]
        if task.name in DOCUMENTS:
            repeated = [question for question in questions for _ in range(each)]
            flat = sampling.continuations(model, tokenizer, repeated, TOKENS[task.name], generator)
            drawn = [[" " + text for text in flat[i : i + each]] for i in range(0, len(flat), each)]
        else:
            drawn = sampling.answers(model, tokenizer, questions, TOKENS[task.name], generator, each=each)
        for prompt, question, texts in zip(asked, questions, drawn, strict=True):
            graded = sorted((task.quality(prompt, text), text) for text in texts)
            if len(graded) > 1 and graded[-1][0] > graded[0][0]:
                begun = len(tokenizer(question).input_ids)
                end = [] if task.name in DOCUMENTS else [tokenizer.eos_token_id]
                better, worse = (list(tokenizer(question + text).input_ids) + end for text in (graded[-1][1], graded[0][1]))
                pairs.append((better, worse, begun))
    return pairs


def _log_probability(model: Any, ids: torch.Tensor, begun: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(B,) log-probability of each text, summed over its tokens."""
    with networks.products():
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
        at = torch.arange(1, ids.shape[1])
        where = (at >= begun[:, None]) & (at < lengths[:, None])
        logits = networks.next_token_logits(model, hidden[where])
    nll = F.cross_entropy(logits.float(), ids[:, 1:][where], reduction="none")
    rows = torch.arange(len(ids))[:, None].expand_as(where)[where]
    return torch.zeros(len(ids)).index_add(0, rows, -nll)


def preferred(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    steps: int,
    source: PreTrainedModel,
    *,
    learning_rate: float = 2e-4,
    prompts: int = 500,
    rows: int = 16,
) -> PreTrainedModel:
    """The copy of `source`, after `steps` steps of `rows` pairs each."""
    rng, generator = rng_of(seed, "preferred"), torch.Generator().manual_seed(seed)
    worlds = [world(name) for name in (*DOCUMENTS, *ANSWERS)]
    pairs = ranked_pairs(source, tokenizer, worlds, rng, generator, prompts=prompts)
    progress(f"{len(pairs)} pairs")
    model = copy.deepcopy(source)

    def batch_of(some: Sequence[Pair]) -> Batch:
        both = [better for better, _, _ in some] + [worse for _, worse, _ in some]
        begun = torch.tensor([n for *_, n in some] * 2)
        return padded(both, tokenizer.pad_token_id or 0), begun, torch.tensor([len(row) for row in both])

    pairs.sort(key=lambda pair: len(pair[0]))
    with torch.no_grad():  # the reference is frozen: once for each pair
        cut = [pairs[i : i + rows] for i in range(0, len(pairs), rows)]
        reference = [pair for some in cut for pair in torch.stack(_log_probability(source, *batch_of(some)).chunk(2), 1)]

    def batches() -> Iterator[tuple[Batch, torch.Tensor]]:
        while True:
            pool = sorted(rng.sample(range(len(pairs)), min(len(pairs), 16 * rows)))  # by length
            cut = [pool[i : i + rows] for i in range(0, len(pool), rows)]
            rng.shuffle(cut)
            for some in cut:
                yield batch_of([pairs[i] for i in some]), torch.stack([reference[i] for i in some])

    def loss(model: Any, batch: tuple[Batch, torch.Tensor]) -> torch.Tensor:
        better, worse = _log_probability(model, *batch[0]).chunk(2)
        return dpo_loss(better, worse, batch[1][:, 0], batch[1][:, 1], tau=BETA)

    fit(model, batches(), loss, steps=steps, learning_rate=learning_rate, warmup=0.1, progress=progress)
    return model
