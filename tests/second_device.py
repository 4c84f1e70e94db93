"""A second device for machines that have none: tensors that say they are elsewhere, and may not meet those of the CPU.

What is meant to run on a GPU too fails there most often for one reason: a tensor was made on the CPU beside others that are not.
PyTorch lets Python play a device (its "privateuse1"); here each tensor of it holds one of the CPU, which does the work. As
on CUDA, an operation on both raises, but for numbers (no dimensions), copies, and indices made on the CPU.

It differs from a GPU: nothing runs asynchronously, nothing is faster, there are no kernels of its own; inference mode is
no_grad (a tensor cannot stand for another there); autocast casts matrix products alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import arg_tree_leaves, tree_map_only

NAME = "elsewhere"
POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")  # newer than torch 2.8

T = TypeVar("T")
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDICES = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)


class Elsewhere(torch.Tensor):
    """A tensor of the second device; `held` is the one that computes."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=f"{NAME}:0"
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """As of any tensor; PyTorch refuses it to subclasses, and has no memory of theirs to point at."""
        return self.held.tolist()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do on the CPU what an operation asks of tensors of the second device, or for it."""
    tensors = [x for x in arg_tree_leaves(*args, **kwargs) if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if isinstance(x, Elsewhere)]
    if away and func not in COPIES:
        here = [x for x in (tensors[:1] if func in INDICES else tensors) if not isinstance(x, Elsewhere) and x.dim()]
        if here:
            raise RuntimeError(f"{func}: tensors of two devices, {[tuple(x.shape) for x in here]} on the CPU")
    _COMPUTED[0] += bool(away)
    device = kwargs.get("device")
    if device is not None:
        stays_away = torch.device(device).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")} if stays_away else kwargs
    else:
        stays_away = isinstance(args[0], Elsewhere) if func is aten.copy_.default else bool(away)
    made = func(*tree_map_only(Elsewhere, lambda x: x.held, args), **tree_map_only(Elsewhere, lambda x: x.held, kwargs))
    known = {id(x.held): x for x in away}  # an operation in place gives back what it was given
    return tree_map_only(torch.Tensor, lambda x: known[id(x)] if id(x) in known else Elsewhere(x), made) if stays_away else made


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Data(TorchFunctionMode):
    """`torch.tensor` and `as_tensor` copy below Python's reach: on the CPU first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func not in (torch.tensor, torch.as_tensor) or device is None or torch.device(device).type != NAME:
            return func(*args, **kwargs)
        rest = {name: value for name, value in kwargs.items() if name != "device"}
        if isinstance(args[0], Elsewhere):
            return args[0].to(**rest) if rest else args[0]
        return func(*args, **rest).to(device)


@contextmanager
def _without_gradients(mode: bool = True) -> Iterator[None]:
    """In the place of inference mode, in which no tensor can stand for another."""
    with torch.no_grad() if mode else nullcontext():
        yield


class _Backend(backend_registration._DummyBackendModule if POSSIBLE else object):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_LIBRARIES: list[torch.library.Library] = []  # what they register is gone with them
_COMPUTED = [0]  # operations on tensors of the device so far


def begin() -> None:
    """Make the device known to this process: before its first backward pass, and before textenv is imported."""
    torch.inference_mode = _without_gradients  # type: ignore[misc, assignment]
    torch.__future__.set_swap_module_params_on_conversion(True)  # else `model.to` unties tied weights
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    everything, products = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(lambda func, *args, **kwargs: _compute(func, args, kwargs), "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in ("linear", "addmm", "matmul", "bmm", "scaled_dot_product_attention"):
        products.impl(name, partial(_cast, getattr(aten, name)), "AutocastPrivateUse1")
    _LIBRARIES.extend((everything, products))
    warnings.simplefilter("error")


def _cast(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What autocast does with a product: its tensors of float32 become those of its dtype."""
    dtype = torch.get_autocast_dtype(NAME)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to(dtype) if x.dtype == torch.float32 else x, (args, kwargs))
        return func(*args, **kwargs)


def there(function: Callable[..., T], *args: Any) -> T:
    """A function's result, where it computes on the device.

    Raises:
        AssertionError: it did not.
    """
    before = _COMPUTED[0]
    with _Operations(), _Data():
        found = function(*args)
    assert _COMPUTED[0] > before, f"{function.__name__}{args} computed nothing on the second device"
    return found
