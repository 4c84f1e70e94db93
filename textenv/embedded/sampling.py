"""Continuations sampled from the tiny language model: what scorers and critics are trained on beside the grammar's texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

__all__ = ["answers", "continuations", "left_padded"]


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as one tensor (B, P), padded on the left, and its mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.inference_mode()
def continuations(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    tokens: int,
    generator: torch.Generator,
    *,
    stop: bool = False,
    rows: int = 128,
) -> list[str]:
    """One sampled continuation (temperature 1) of every prompt; "" stands for the bare beginning of a text.

    Args:
        tokens: length of every continuation.
        stop: let a text end by itself; otherwise eos is never sampled.
        rows: prompts sampled side by side.
    """
    texts: list[str] = []
    banned = [i for i in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id) if i is not None]
    banned += [] if stop else [tokenizer.eos_token_id]
    for begin in range(0, len(prompts), rows):
        ids, mask = left_padded(tokenizer(list(prompts[begin : begin + rows])).input_ids, tokenizer.pad_token_id)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache, drawn = DynamicCache(), []
        for _ in range(tokens):
            out = model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1)
            logits = out.logits[:, -1].float()
            logits[:, banned] = -torch.inf
            ids = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            drawn.append(ids)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            positions = positions[:, -1:] + 1
        for row in torch.cat(drawn, 1).tolist():
            if stop and tokenizer.eos_token_id in row:
                row = row[: row.index(tokenizer.eos_token_id)]
            texts.append(str(tokenizer.decode(row)).strip(" "))
    return texts


def answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[str],
    tokens: int,
    generator: torch.Generator,
    *,
    each: int = 1,
) -> list[list[str]]:
    """`each` sampled answers to every question, of at most `tokens` tokens, in the order of the questions; empty ones left out."""
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    texts = continuations(model, tokenizer, [asked[i] for i in order for _ in range(each)], tokens, generator, stop=True)
    found: list[list[str]] = [[] for _ in asked]
    for place, i in enumerate(order):
        found[i] = [" " + text for text in texts[place * each : (place + 1) * each] if text]
    return found
