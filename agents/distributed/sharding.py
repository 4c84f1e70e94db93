"""Weights, gradients and optimizer state in pieces, one on each rank: torch's `fully_shard` (FSDP2; Zhao et al. 2023,
arXiv 2304.11277, *PyTorch FSDP*; Rajbhandari et al. 2020, arXiv 1910.02054, *ZeRO*).

    shard(policy)              each block of the model is a unit, and everything else one more
    gathered(policy)           whole for a while: what samples, token by token
    whole(policy)              an ordinary copy on rank 0, to be written
    like(tensor, parameter)    this rank's piece of a whole tensor

1. A unit is gathered when it is read and dropped afterwards, so all ranks have to read equally often; a rank without rows
   reads one and counts it as nothing (`textenv.agents.ppo.iteration`).
2. Sampling reads a model once a token, and texts end at different times on different ranks: the policy is gathered once for
   all of it. While it samples, a rank holds the whole policy, but no gradients and no optimizer state.
3. Gradients are summed, not averaged: a loss is already divided by the counts of the whole minibatch.
4. Pieces are gathered in the dtype of the weights; autocast converts them in the forward pass as it does on one process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.modeling_layers import GradientCheckpointingLayer

from textenv.agents.policy import LMPolicy

__all__ = ["WholeState", "gathered", "like", "shard", "sharded", "whole"]

N = TypeVar("N", bound=nn.Module)
SKELETON = "_skeleton"
"""Where a sharded network keeps itself as it was, without its weights."""
GATHERED = "_gathered"
"""Where it notes that it is whole for now."""


def shard(network: nn.Module, device: torch.device) -> None:
    """Leave each rank its piece of every weight; together.

    A policy then reads by `evaluate` and writes by `generate`, `sample` and `act`, a value model reads by its call.

    Args:
        network: an `LMPolicy` or a `ValueModel`, with equal weights on all ranks.
        device: of the process group.

    Raises:
        ValueError: the network has no blocks to be units.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    blocks = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise ValueError(f"{type(network).__name__} has no transformer blocks that could be sharded: distributed='ddp'")
    for module in network.modules():
        if isinstance(module, LMPolicy):
            with module.autocast():  # which settles by what kernel it attends
                module.layout.packs()  # tried while its weights are whole
    source = getattr(network, "source", None)
    skeleton = _skeleton(network)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in blocks:
        block.register_forward_hook(lambda _, __, output: _solid(output))
        fully_shard(block, mesh=mesh)
    learns = any(parameter.requires_grad for parameter in network.parameters())
    dtype = next(blocks[0].parameters()).dtype
    apart = {p for p in network.parameters() if p.dtype != dtype and not p.requires_grad}  # a unit has one dtype
    rest: dict[str, Any] = {} if learns else {"reshard_after_forward": True}  # by default the last unit read stays whole
    fully_shard(network, mesh=mesh, ignored_params=apart, **rest)
    for unit in _units(network):
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_gradient_divide_factor(1.0)
    reads = "evaluate" if isinstance(network, LMPolicy) else "forward"
    setattr(network, reads, _without_views(getattr(network, reads)))
    if isinstance(network, LMPolicy):
        for name in ("evaluate", "generate", "sample", "act"):
            register_fsdp_forward_method(network, name)
        for name in ("generate", "sample", "act"):
            setattr(network, name, _while_gathered(network, getattr(network, name)))
        network.source = source
    network.__dict__[SKELETON] = skeleton  # no submodule


def _skeleton(network: N) -> N:
    """The network without its weights; it shares the tokenizer."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()}
    tokenizers = [module.tokenizer for module in network.modules() if isinstance(module, LMPolicy)]
    return copy.deepcopy(network, {**shared, **{id(tokenizer): tokenizer for tokenizer in tokenizers}})


def sharded(network: nn.Module | None) -> bool:
    """Whether this rank holds a piece of it alone."""
    return network is not None and SKELETON in network.__dict__


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """The whole network on every rank, for reading without gradients, in the block; together. A block within it does nothing."""
    if not sharded(network) or network.__dict__.get(GATHERED):
        yield
        return
    learns = any(parameter.requires_grad for parameter in network.parameters())
    for unit in _units(network):
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    network.__dict__[GATHERED] = True
    try:
        yield
    finally:
        network.__dict__[GATHERED] = False
        for unit in _units(network):
            unit.set_reshard_after_forward(unit is not network or not learns, recurse=False)
            unit.reshard()


def whole(network: N) -> N:
    """The network itself, or where it is sharded an ordinary one on the CPU of rank 0 (elsewhere without weights); together."""
    if not sharded(network):
        return network
    _at_rest(network)
    skeleton: N = network.__dict__[SKELETON]
    first = torch.distributed.get_rank() == 0
    weights: dict[int, Any] = {}
    for bare, parameter in zip(skeleton.parameters(), network.parameters(), strict=True):
        full = _full(parameter.detach())
        if first:
            weights[id(bare)] = nn.Parameter(full.cpu(), bare.requires_grad)
    buffers = zip(skeleton.buffers(), network.buffers(), strict=True)
    weights.update({id(old): now.detach().cpu().clone() for old, now in buffers})
    found = copy.deepcopy(skeleton, weights)
    if isinstance(network, LMPolicy) and isinstance(found, LMPolicy):
        found.source = network.source
    return found


class WholeState:
    """The state of an optimizer over sharded weights, whole on rank 0; together."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        content = optimizer.state_dict()
        first = torch.distributed.get_rank() == 0
        for entry in content["state"].values():
            for name, value in entry.items():
                full = _full(value)
                entry[name] = full.cpu() if first else None
        self._content = content

    def state_dict(self) -> dict[str, Any]:
        """As the optimizer's own."""
        return self._content


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor, in pieces as the parameter is: each rank has it whole, and keeps its own."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized() or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    inner = parameter.data
    if not isinstance(inner, DTensor):
        return tensor
    moved = tensor.to(inner.device)
    return distribute_tensor(moved, inner.device_mesh, inner.placements, src_data_rank=None)


def _full(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _units(network: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in network.modules() if isinstance(module, FSDPModule)]


def _without_views(method: Callable[..., Any]) -> Callable[..., Any]:
    """FSDP2 hooks what a module returns, and warns of views, whose hooks a change in place would lose."""

    def called(*args: Any, **kwargs: Any) -> Any:
        return _solid(method(*args, **kwargs))

    return called


def _solid(output: Any) -> Any:
    return tree_map_only(Tensor, lambda found: found.clone() if found._is_view() and found.requires_grad else found, output)


def _at_rest(network: nn.Module) -> None:
    """Nothing is gathered: its parameters are the pieces."""
    for unit in _units(network):
        unit.reshard()


def _while_gathered(network: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        with gathered(network):
            return method(*args, **kwargs)

    return called
