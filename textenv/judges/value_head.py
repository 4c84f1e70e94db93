"""Causal language models with a value head, as TRL saves them: a linear layer on the last hidden state, one number a token.

TRL's `AutoModelForCausalLMWithValueHead` writes the language model and, beside it in the same safetensors file,
`v_head.summary.weight` (1, H) and `v_head.summary.bias` (1,). Here such a directory becomes what a sequence classifier with
one label is: a `base_model` and a `score` head. Only safetensors are read; a pickle would run what its author wrote.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from textenv.models import load_causal_lm, opening, resolve

__all__ = ["ValueHeadModel", "load_value_head"]

_WEIGHT, _BIAS = "v_head.summary.weight", "v_head.summary.bias"


class ValueHeadModel(nn.Module):
    """A causal transformer and a linear head, read at any position.

    Args:
        language_model: a transformers causal language model; its own head is not used.
        head: (H → 1).

    Raises:
        ValueError: the head does not fit.
    """

    def __init__(self, language_model: Any, head: nn.Linear) -> None:
        super().__init__()
        width = language_model.get_input_embeddings().embedding_dim
        width = getattr(language_model.config, "hidden_size", width)
        if (head.in_features, head.out_features) != (width, 1):
            raise ValueError(f"a value head of {head.in_features} → {head.out_features} on a model of width {width}; it takes → 1")
        self.base_model = language_model.base_model
        self.score = head
        self.config = copy.deepcopy(language_model.config)
        self.config.id2label = {0: "value"}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.score.weight.device


def load_value_head(source: Any, *, dtype: torch.dtype, device: torch.device) -> ValueHeadModel:
    """A value-head model from a directory, a hub name, or TRL's own object.

    Raises:
        ValueError: there is no value head, or it is in no safetensors file.
    """
    if not isinstance(source, (str, os.PathLike)):
        return ValueHeadModel(source.pretrained_model, source.v_head.summary).to(device).eval()
    with opening(source):
        weight, bias = (_tensor(resolve(source), name) for name in (_WEIGHT, _BIAS))
    if weight is None:
        raise ValueError(
            f"{os.fspath(source)} is a causal language model without a value head (no {_WEIGHT} in a safetensors file), so it "
            "scores no texts; name a sequence classifier, or save the value head with safe_serialization=True"
        )
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    head.load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias})})
    model = load_causal_lm(source, dtype=dtype, device=device, shared=True)
    return ValueHeadModel(model, head.to(device, dtype).requires_grad_(False)).eval()


def _tensor(name: str, key: str) -> Tensor | None:
    """One tensor of a saved model, without the others."""
    index = cached_file(name, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    file = "model.safetensors"
    if index is not None:
        with open(index, encoding="utf-8") as opened:
            parts = json.load(opened)["weight_map"]
        if key not in parts:
            return None
        file = parts[key]
    path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    with safe_open(path, framework="pt") as tensors:
        return tensors.get_tensor(key) if key in tensors.keys() else None  # noqa: SIM118 - no mapping
