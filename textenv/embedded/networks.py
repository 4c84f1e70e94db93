"""The architectures of the embedded models: Qwen3 at a thousandth of its size.

Qwen3 for its norm on queries and keys: with it, small models learn to keep to a topic, and to copy, in a fraction of the
steps. Scorers are causal too: the verdict on every prefix of a text comes from one pass.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

__all__ = ["language_model", "scorer"]

POSITIONS = 512


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


def _made(build: Any, config: Qwen3Config, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - within fork_rng
        return build(config)


def language_model(tokenizer: PreTrainedTokenizerBase, seed: int, width: int, layers: int, heads: int) -> PreTrainedModel:
    """A causal language model with tied embeddings and random weights."""
    config = _config(tokenizer, width, layers, heads, tie_word_embeddings=True)
    model: PreTrainedModel = _made(Qwen3ForCausalLM, config, seed)
    return model


def scorer(
    tokenizer: PreTrainedTokenizerBase, seed: int, labels: tuple[str, str], width: int, layers: int, heads: int
) -> PreTrainedModel:
    """A classifier with two labels, the second of which is the one that is scored, and random weights."""
    names = dict(enumerate(labels))
    config = _config(
        tokenizer, width, layers, heads, num_labels=2, id2label=names, label2id={v: k for k, v in names.items()}
    )
    model: PreTrainedModel = _made(Qwen3ForSequenceClassification, config, seed)
    return model
