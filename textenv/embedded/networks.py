"""The architectures of the embedded models: Qwen3 and T5 at a thousandth of their size.

Qwen3 for its norm on queries and keys: with it, small models learn to keep to a topic, and to copy, in a fraction of the
steps. Scorers and judges are causal too: the verdict on every prefix of a text comes from one pass. Sizes are `SIZES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3ForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

__all__ = [
    "POSITIONS", "eager", "encoder_decoder", "judge", "language_model", "next_token_logits", "products", "scorer", "take_trunk",
]  # fmt: skip

POSITIONS = 512


def products() -> AbstractContextManager[Any]:
    """bf16 products under fp32 weights, where the processor has instructions for them: twice as fast at these widths."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def _config(tokenizer: PreTrainedTokenizerBase, width: int, layers: int, heads: int, **options: Any) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **options,
    )


def _labels(labels: Sequence[str]) -> dict[str, Any]:
    names = dict(enumerate(labels))
    return {"num_labels": len(names), "id2label": names, "label2id": {name: index for index, name in names.items()}}


def _made(build: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - within fork_rng
        model = build(config)
    return eager(model)


def eager(model: Any) -> Any:
    """The same model with its attention written out: the backward pass of torch's own is slow in bf16 on CPUs (a third of all)."""
    model.set_attn_implementation("eager")
    return model


def language_model(tokenizer: PreTrainedTokenizerBase, seed: int, width: int, layers: int, heads: int) -> PreTrainedModel:
    """A causal language model with tied embeddings and random weights."""
    config = _config(tokenizer, width, layers, heads, tie_word_embeddings=True)
    model: PreTrainedModel = _made(Qwen3ForCausalLM, config, seed)
    return model


def scorer(
    tokenizer: PreTrainedTokenizerBase, seed: int, labels: Sequence[str], width: int, layers: int, heads: int
) -> PreTrainedModel:
    """A classifier of whole texts with random weights. Of two labels the second is scored; one label is a logit."""
    model: PreTrainedModel = _made(
        Qwen3ForSequenceClassification, _config(tokenizer, width, layers, heads, **_labels(labels)), seed
    )
    return model


def judge(
    tokenizer: PreTrainedTokenizerBase, seed: int, labels: Sequence[str], width: int, layers: int, heads: int
) -> PreTrainedModel:
    """A classifier of tokens with random weights; its labels are judged apart (a sigmoid each)."""
    config = _config(
        tokenizer, width, layers, heads, problem_type="multi_label_classification", classifier_dropout=0.0, **_labels(labels)
    )
    model: PreTrainedModel = _made(Qwen3ForTokenClassification, config, seed)
    return model


def encoder_decoder(tokenizer: PreTrainedTokenizerBase, seed: int, width: int, layers: int, heads: int) -> PreTrainedModel:
    """A T5 (version 1.1: gated, no dropout) with as many layers on either side, tied embeddings and random weights."""
    options: dict[str, Any] = {
        "tie_word_embeddings": True,
        "n_positions": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // heads,
        d_ff=2 * width,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=64,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **options,
    )
    model: PreTrainedModel = _made(T5ForConditionalGeneration, config, seed)
    return model


def next_token_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What the head makes of states (N, H): (N, V). Rounded up to 64 rows, since every new shape of a bf16 product is compiled."""
    padding = -len(hidden) % 64
    logits: torch.Tensor = model.lm_head(nn.functional.pad(hidden, (0, 0, 0, padding)))[: len(hidden)]
    return logits


def take_trunk(model: PreTrainedModel, source: PreTrainedModel) -> PreTrainedModel:
    """The model with the transformer of another one of its width; layers that it has beyond those begin as the identity."""
    trunk: Any = model.base_model
    absent = trunk.load_state_dict(source.base_model.state_dict(), strict=False)
    theirs: Any = source.base_model
    if absent.unexpected_keys or not all(name.startswith("layers.") for name in absent.missing_keys):
        raise ValueError(f"{type(source).__name__} and {type(model).__name__} differ by more than their layers: {absent}")
    for layer in trunk.layers[len(theirs.layers) :]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    return model
