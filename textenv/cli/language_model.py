"""A small language model of the current kind, its loss, and how fast this machine trains it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "Family", "Precision", "autocast", "check_shape", "held_out_loss", "new_model", "next_token_loss", "seconds_per_step", "seeded",
]  # fmt: skip

Family = Literal["qwen3", "llama"]
Precision = Literal["auto", "fp32", "bf16"]


def check_shape(family: str, hidden: int, layers: int) -> None:
    """Raise where no such model can be made; asked before a text is read.

    Raises:
        ValueError: an unknown family; a hidden size that is no multiple of 64; less than one layer.
    """
    if family not in get_args(Family):
        raise ValueError(f"unknown family {family!r}; one of {', '.join(get_args(Family))}")
    if hidden < 64 or hidden % 64:
        raise ValueError(f"hidden size {hidden} should be a multiple of 64, the size of a head")
    if layers < 1:
        raise ValueError(f"a model needs at least one layer, got {layers}")


def new_model(family: Family, *, vocab_size: int, hidden: int, layers: int, context: int, tokenizer: Any, seed: int) -> Any:
    """A causal LM with random weights: heads of 64, feed-forward of 8/3, rotary positions, tied embeddings.

    Raises:
        ValueError: as `check_shape`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    check_shape(family, hidden, layers)
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": max(1, round(8 * hidden / 3 / 64)) * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "head_dim": 64,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with seeded(seed):
        if family == "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**settings))
        return LlamaForCausalLM(LlamaConfig(**settings))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights made in the block are drawn from `seed` on the CPU; torch's own generator goes on as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def autocast(precision: Precision, device: torch.device) -> Any:
    """A context in which products are computed in the precision asked for; the weights stay float32.

    "auto" is bf16 where this processor multiplies it at least 1.5 times as fast as float32.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"unknown precision {precision!r}; one of {', '.join(get_args(Precision))}")
    use = precision == "bf16" or (precision == "auto" and _bf16_is_faster(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use)


def _bf16_is_faster(device: torch.device) -> bool:
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(8):
            started = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - started)
        seconds[dtype] = min(times)
    return seconds[torch.float32] > 1.5 * seconds[torch.bfloat16]


def next_token_loss(model: Any, ids: Tensor) -> Tensor:
    """Mean of -log p(token | tokens before) over a batch of blocks (B, T), in nats a token."""
    logits = model(input_ids=ids, use_cache=False).logits  # (B, T, V)
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: Any, blocks: Tensor, batch_size: int) -> float:
    """The same over blocks that the model was not trained on."""
    device = next(model.parameters()).device
    total = sum(next_token_loss(model, part.to(device)).item() * len(part) for part in blocks.split(batch_size))
    return total / len(blocks)


def seconds_per_step(model: Any, batches: Sequence[Tensor], loss: Any) -> float:
    """Seconds of one forward and backward pass: the median over the batches, the first left out. Weights stay."""
    seconds = []
    for batch in batches:
        started = time.perf_counter()
        loss(model, batch).backward()
        seconds.append(time.perf_counter() - started)
    model.zero_grad(set_to_none=True)
    return float(torch.tensor(seconds[1:]).median())
