"""Whether a model's weights are still what they were when something was remembered of them: its name, its keys and values.

    marks(parameters)    which tensors these are, and how often each was changed in place; equal marks, equal weights

PyTorch counts changes in place up (`Tensor._version`), by `load_state_dict` and by optimizers, but not in the fused steps of
optimizers. They are counted here, for every `torch.optim.Optimizer` of the process: its parameters count up after each step.
What goes past both (`parameter.data`, an optimizer of another kind) is not noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

__all__ = ["Marks", "marks"]

Marks = tuple[tuple[int, int], ...]


def marks(parameters: Iterable[Tensor]) -> Marks:
    """Of each tensor its identity and the number of its changes.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> before = marks([weight])
    >>> weight.sum().backward()
    >>> torch.optim.SGD([weight], lr=0.1, fused=True).step()
    >>> marks([weight]) == before
    False
    """
    return tuple((id(parameter), parameter._version) for parameter in parameters)


def _count_up(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        increment_version(group["params"])


register_optimizer_step_post_hook(_count_up)
