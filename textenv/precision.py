"""In what precision a policy computes; its weights stay as they are, in float32 if they are to learn.

    fp32      as the weights are
    medium    float32 in and out; products in whatever `torch.set_float32_matmul_precision("medium")` stands for on the machine:
              bfloat16 where it has units for it, and at least oneDNN's kernels in the place of MKL's on a CPU
    bf16      products in bfloat16 under autocast, on CUDA and CPU alike; gradients arrive in float32 weights
    auto      bf16 on CUDA that has it and float32 weights; `AUTO_ON_CPU` on a CPU

1. Logits are float32 in each. Under autocast the output embedding would give bfloat16, 8 bits of a number: of a logit of 10
   the nearest others are 0.06 away, and so is the difference of two policies' logits (ETPO's z − z_ref). Here it is computed
   under "medium", its gradient in bfloat16. It costs twice as much as in bfloat16; it is a tenth of a forward pass.
2. On a CPU attention is `textenv.attention`'s.
3. Both are put into the model once, stay silent outside autocast, and leave what it saves as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from textenv.attention import use_matmul_attention

__all__ = [
    "AUTO_ON_CPU", "Precision", "casting_once", "computing", "differentiating", "medium", "prepare", "resolved",
    "without_gradients",
]  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")
Precision = Literal["auto", "fp32", "bf16", "medium"]
AUTO_ON_CPU: Precision = "fp32"
"""bf16 learns as well where a language is already there, and perhaps not from random weights (`benchmarks.parity`, README)."""


def resolved(precision: Precision, device: torch.device, dtype: torch.dtype) -> Precision:
    """What "auto" means for weights of a dtype on a device; anything else is itself.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"unknown precision {precision!r}; one of {', '.join(get_args(Precision))}")
    if precision != "auto":
        return precision
    if dtype != torch.float32:
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return AUTO_ON_CPU if device.type == "cpu" else "fp32"


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A context for forward passes. `precision` is no "auto" any more."""
    if precision == "medium":
        return medium()
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def medium() -> Iterator[None]:
    """Products of float32 under "medium" in the block, of the whole process.

    >>> with medium():
    ...     torch.get_float32_matmul_precision()
    'medium'
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def differentiating(precision: Precision) -> AbstractContextManager[Any]:
    """A context for `backward()`: "medium" is of gradients, too; autocast's are in the precision of what was computed."""
    return medium() if precision == "medium" else nullcontext()


def prepare(model: Any) -> None:
    """Let a transformers model compute in bf16 as this module says. Once is enough; twice changes nothing."""
    use_matmul_attention(model)
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and not isinstance(head.forward, _Float32Head):
        head.forward = _Float32Head(head)  # type: ignore[assignment, method-assign]


def without_gradients(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function of many passes in inference mode; under autocast without gradients only.

    In inference mode autocast keeps no cast weights (PyTorch 2.13; others did), and would cast each at every token.
    """

    @wraps(function)
    def silent(*arguments: P.args, **options: P.kwargs) -> T:
        casts = any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
        with torch.no_grad() if casts else torch.inference_mode():
            return function(*arguments, **options)

    return silent


@contextmanager
def casting_once(model: nn.Module) -> Iterator[None]:
    """Let autocast keep the bfloat16 copies of frozen weights until it ends, too: it keeps those of leaves with gradients alone.

    For passes without gradients, many of them under one autocast: decoding would cast a frozen model at every token.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad and p.dtype == torch.float32]
    frozen = frozen if torch.is_autocast_enabled(next(model.parameters()).device.type) else []
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


class _Float32Head:
    """The forward of an output embedding, float32 under autocast."""

    def __init__(self, head: nn.Linear) -> None:
        self.head = head

    def __call__(self, hidden: Tensor) -> Tensor:
        head, kind = self.head, hidden.device.type
        if not torch.is_autocast_enabled(kind):
            return linear(hidden, head.weight, head.bias)
        with torch.autocast(kind, enabled=False):
            logits: Tensor = _Product.apply(hidden.float(), head.weight)  # type: ignore[no-untyped-call]
            return logits if head.bias is None else logits + head.bias


class _Product(torch.autograd.Function):
    """x Wᵀ of float32 under "medium", its gradient in bfloat16, as autocast has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """(..., H), (V, H) → (..., V)."""
        ctx.save_for_backward(x, weight)
        with medium():
            return linear(x, weight.float())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of x and W."""
        x, weight = ctx.saved_tensors
        halved = grad.to(torch.bfloat16)
        of_x = (halved @ weight.to(torch.bfloat16)).to(x.dtype) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (halved.flatten(0, -2).T @ x.to(torch.bfloat16).flatten(0, -2)).to(weight.dtype)
        return of_x, of_weight
