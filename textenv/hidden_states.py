"""The last hidden states of a language model, and the model's own way from there to logits.

    h = trunk(inputs)[rows, columns],   z = head(h)          trunk: the model without its head (and without its encoder)

A forward pass of the model gives h, and the same forward once more, with h in the place of the trunk's output, gives z. So
whatever a model does before or after its head is done (T5 scales, Gemma caps, BART adds a bias, Granite and Cohere divide),
no (B, L, V) logits exist, and a caller may take the head in parts. A model of which that is not true is refused the first time
that it is read. No hook and no change stay behind.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Head", "check_head", "head_of", "hidden_states", "running"]

Head = Callable[[Tensor], Tensor]
"""Last hidden states (n, H) → logits (n, V), differentiable."""

Blank = Callable[[Tensor], dict[str, Any]]
"""Hidden states → inputs of one token, for a pass in which they are not read."""

_AGREE: weakref.WeakSet[Any] = weakref.WeakSet()
"""The models whose logits were seen to depend on their last hidden states alone."""


def hidden_states(model: Any, inputs: Mapping[str, Tensor], rows: Tensor, columns: Tensor, blank: Blank) -> tuple[Tensor, Head]:
    """Last hidden states (N, H) at rows and columns, differentiable, and what makes logits of any of them.

    Raises:
        ValueError: the model's logits depend on something else, too.
    """
    check_head(model, inputs, blank)
    hidden, head, _ = _read(model, inputs, rows, columns, blank, slice(-1, None))  # the head reads one position of this pass
    return hidden, head


@torch.no_grad()
def check_head(model: Any, inputs: Mapping[str, Tensor], blank: Blank) -> None:
    """Nothing, where the logits of a model are those that its head makes of its last hidden states; tried once a model.

    Raises:
        ValueError: they are not.
    """
    if model in _AGREE:
        return
    few = {name: tensor[:1, :2] for name, tensor in inputs.items()}
    with torch.autocast(model.device.type, enabled=False):  # else it keeps cast weights that carry no gradient
        hidden, head, logits = _read(model, few, 0, slice(None), blank, slice(None))
        again = head(hidden).float()
    if not torch.allclose(again, logits.float(), rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"the logits of {type(model).__name__} are not a function of what its {type(model.get_decoder()).__name__} "
            "puts out; give a model whose head reads the last hidden state"
        )
    _AGREE.add(model)


def _read(
    model: Any, inputs: Mapping[str, Tensor], rows: Any, columns: Any, blank: Blank, shown: slice
) -> tuple[Tensor, Head, Tensor]:
    """Hidden states at rows and columns, their head, and the model's logits of the first row at the columns `shown`."""
    trunk = model.get_decoder()
    noted: list[Tensor] = []
    kinds: list[Any] = []

    def note(_: Any, __: Any, output: Any) -> Any:
        noted.append(output.last_hidden_state[rows, columns])
        kinds.append(type(output))
        return kinds[0](last_hidden_state=output.last_hidden_state[:1, shown])

    handle = trunk.register_forward_hook(note)
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    if not noted:
        raise ValueError(f"{type(model).__name__} never runs its {type(trunk).__name__}, so it cannot be read")

    return noted[0], head_of(model, kinds[0], blank), logits[0]


def head_of(model: Any, kind: Any, blank: Blank) -> Head:
    """What makes logits of a model's last hidden states.

    Args:
        kind: what its trunk puts out, a transformers output class.
        blank: hidden states → inputs of one token.
    """

    def head(hidden: Tensor) -> Tensor:
        with running(model.get_decoder(), lambda *_, **__: kind(last_hidden_state=hidden[None])):
            out: Tensor = model(**blank(hidden), use_cache=False).logits[0]
        return out

    return head


@contextmanager
def running(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """The module runs this in the place of its own forward."""
    kept = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if kept is not None:
            module.forward = kept
