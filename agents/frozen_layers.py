"""The lower part of a decoder, frozen: embeddings and the first n blocks, held once by the policy and its copies.

    h = blocks_n(… blocks_1(embed(x)))     the same for policy, reference and every epoch: computed once for each text
    π(y|x, y_<t) = head(blocks_L(… blocks_{n+1}(h)))

Ziegler et al. 2019 (arXiv 1909.08593) and TRL's `create_reference_model(num_shared_layers)` share layers in this way to save
memory; that h need not be computed again saves as much time: with half of the blocks frozen a pass costs half, and its backward
pass too.

1. What is frozen is what the output of block n depends on. Where the output embedding is tied to the input's, it is frozen
   with it: the head moves through the last hidden state alone.
2. A model is read through its own forward: in the place of the lower blocks' computation stands h, so that what it does
   around its blocks (masks, positions, norms) is done. Models whose upper blocks read more of the lower ones than h (shared
   keys and values) are refused when they are frozen.
3. Decoders alone: of an encoder–decoder both sides would have to be cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from textenv.hidden_states import running

__all__ = ["FrozenLayers", "freeze_layers"]


@dataclass(frozen=True)
class FrozenLayers:
    """What is frozen of a model and of its copies. `freeze_layers` makes it.

    Attributes:
        n: blocks.
        names: of the parameters, under each of their names where they are tied.
        as_tuple: whether a block puts out a tuple, its hidden states first.
    """

    n: int
    names: tuple[str, ...]
    as_tuple: bool

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The frozen ones of a model."""
        return [model.get_parameter(name) for name in self.names]

    def freeze(self, model: nn.Module) -> None:
        """They take no gradients."""
        for parameter in self.parameters(model):
            parameter.requires_grad_(False)

    def shared(self, model: nn.Module, other: nn.Module) -> bool:
        """Whether both models hold the same frozen weights, not equal ones."""
        theirs = dict(other.named_parameters(remove_duplicate=False))
        return all(theirs.get(name) is model.get_parameter(name) for name in self.names)

    def share(self, model: nn.Module, other: nn.Module) -> None:
        """The other model takes the frozen weights of this one, if its own are equal."""
        theirs = dict(other.named_parameters(remove_duplicate=False))
        mine = dict(zip(self.names, self.parameters(model), strict=True))
        if all(name in theirs and torch.equal(theirs[name], weight) for name, weight in mine.items()):
            for name, weight in mine.items():
                place, _, leaf = name.rpartition(".")
                setattr(other.get_submodule(place), leaf, weight)

    @contextmanager
    def recorded(self, model: Any) -> Iterator[list[Tensor]]:
        """Passes over the model end with block n, whose output (B, L, H) is appended; what they return is of no use."""
        lower, upper = self._blocks(model)
        found: list[Any] = []
        states: list[Tensor] = []

        def note(_: Any, __: Any, output: Any) -> None:
            found[:] = [output]
            states.append(output[0] if self.as_tuple else output)

        with ExitStack() as stack:
            stack.callback(lower[-1].register_forward_hook(note).remove)
            for block in upper:
                stack.enter_context(running(block, lambda *_, **__: found[0]))
            yield states

    @contextmanager
    def replayed(self, model: Any, states: Tensor) -> Iterator[None]:
        """Passes over the model begin with block n + 1, which reads these states (B, L, H)."""
        output = (states,) if self.as_tuple else states
        with ExitStack() as stack:
            for block in self._blocks(model)[0]:
                stack.enter_context(running(block, lambda *_, **__: output))
            yield

    def _blocks(self, model: Any) -> tuple[list[nn.Module], list[nn.Module]]:
        blocks = _blocks(model)
        return blocks[: self.n], blocks[self.n :]


def freeze_layers(model: Any, n: int) -> FrozenLayers:
    """Freeze the embeddings and the first n blocks of a transformers decoder.

    >>> from textenv.models import load_causal_lm
    >>> model = load_causal_lm("textenv/tiny")
    >>> frozen = freeze_layers(model, 1)
    >>> any(parameter.requires_grad for parameter in frozen.parameters(model))
    False

    Raises:
        ValueError: an encoder–decoder; no blocks; not so many; upper blocks that read more than the output of block n.
    """
    blocks = _blocks(model)
    if not 1 <= n <= len(blocks):
        raise ValueError(f"frozen_layers must lie in 1..{len(blocks)}, the blocks of {type(model).__name__}; got {n}")
    training = model.training
    model.eval()  # dropout would move the global generator
    try:
        return _freeze(model, n, blocks)
    finally:
        model.train(training)


def _freeze(model: Any, n: int, blocks: list[nn.Module]) -> FrozenLayers:
    inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.int64, device=model.device), "use_cache": False}
    seen: list[Any] = []
    handle = blocks[n - 1].register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.enable_grad():
        logits = model(**inputs).logits
    handle.remove()
    as_tuple = isinstance(seen[0], tuple)
    states = seen[0][0] if as_tuple else seen[0]
    lower = {id(parameter) for block in blocks[:n] for parameter in block.parameters()}
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if learned and states.requires_grad:
        gradients = torch.autograd.grad(states.float().sum(), learned, allow_unused=True)
        lower |= {id(parameter) for parameter, gradient in zip(learned, gradients, strict=True) if gradient is not None}
    lower.add(id(model.get_input_embeddings().weight))
    names = tuple(name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in lower)
    frozen = FrozenLayers(n, names, as_tuple)
    with torch.no_grad(), frozen.replayed(model, states.detach()):
        if not torch.allclose(model(**inputs).logits, logits, rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"the upper blocks of {type(model).__name__} read more of the lower ones than the output of block {n}; "
                "leave frozen_layers out"
            )
    frozen.freeze(model)
    return frozen


def _blocks(model: Any) -> list[nn.Module]:
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"frozen_layers is for decoders, and {type(model).__name__} has an encoder too; leave it out")
    for child in model.get_decoder().children():
        if isinstance(child, nn.ModuleList) and len(child) and all(isinstance(m, GradientCheckpointingLayer) for m in child):
            return list(child)
    raise ValueError(f"{type(model).__name__} has no list of blocks; leave frozen_layers out")
