"""What the machine could do at most: matrix products and copies a second; and what one iteration of PPO needs at least.

With W the weights of all blocks' matrices, H = width × vocabulary of the head, E texts of P + T tokens, N = E · T generated tokens,
a pass over a text reads P + T tokens with W and T with H, 2 operations a weight, and attention adds 4 · width a layer for each
pair of positions. The backward pass is two forward passes.

    sample      1 pass (keys and values are cached; log-probabilities and values of what is sampled come with it)
    reference   1 pass
    score       1 pass without the head; the reward model is of the policy's size
    value       a separate value model: 1 pass without the head, and 3 an epoch
    update      3 passes an epoch; through `frozen` blocks none, for what they give is the reference's, too; 2 with their head

The bound is these operations at the speed of the best large product, in the precision of the case; its share is what was reached.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

__all__ = ["Needs", "copy_peak", "matmul_peak"]

SHAPES = ((2048, 2048, 2048), (3072, 512, 2048))  # (rows, in, out)
LARGE = (8192, 8192, 8192)  # on CUDA


@dataclass(frozen=True)
class Needs:
    """One iteration: counts of weights and tokens → floating-point operations, and bytes that decoding reads."""

    blocks: int  # weights of the blocks' matrices
    layers: int
    width: int
    vocabulary: int
    prompt: int  # tokens of all prompts together
    tokens: int  # generated
    pairs: float  # of positions, read and to be read, over all texts
    epochs: int
    separate: bool = False
    frozen: int = 0

    def forward(self, head: bool, share: float = 1.0) -> float:
        """Operations of a pass over all texts through `share` of the blocks."""
        trunk = 2 * self.blocks * (self.prompt + self.tokens) + 4 * self.width * self.layers * self.pairs
        return share * trunk + (2 * self.width * self.vocabulary * self.tokens if head else 0)

    @property
    def flops(self) -> dict[str, float]:
        """By phase: sample; score (reward model, reference, a separate value model); update."""
        top = 1 - self.frozen / self.layers
        values = self.forward(head=False) if self.separate else 0.0
        score = self.forward(head=False) + self.forward(head=True) + values
        head = self.forward(head=True, share=0) * (2 if self.frozen else 3)  # a frozen embedding's head gives gradients on alone
        update = self.epochs * (3 * self.forward(head=False, share=top) + head + 3 * values)
        return {"sample": self.forward(head=True), "score": score, "update": update}

    def decoded_bytes(self, episodes: int, steps: int, bytes_a_number: int, shared: float = 1.0) -> float:
        """What sampling reads: all weights at each step, and keys and values of each text so far (`shared`: key heads / heads)."""
        weights = (self.blocks + self.width * self.vocabulary) * steps
        before = self.pairs - (self.prompt / episodes) ** 2 / 2 * episodes
        return bytes_a_number * (weights + 2 * self.width * shared * self.layers * before)


def matmul_peak(precision: str, device: torch.device, seconds: float = 0.5) -> float:
    """Operations a second of the best product, with the threads of this process; precision: fp32, medium or bf16."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
    try:
        shapes = (LARGE,) if device.type == "cuda" else SHAPES
        return max(2.0 * m * k * n / _fastest(*_operands(m, k, n, dtype, device), seconds) for m, k, n in shapes)
    finally:
        torch.set_float32_matmul_precision(before)


def _operands(m: int, k: int, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    return torch.ones(m, k, dtype=dtype, device=device), torch.ones(n, k, dtype=dtype, device=device)


def _fastest(a: torch.Tensor, b: torch.Tensor, seconds: float) -> float:
    """Seconds of the fastest of many products: a neighbour slows the others."""
    best, until = float("inf"), time.perf_counter() + seconds
    with torch.inference_mode():
        linear(a, b)
        while time.perf_counter() < until:
            _wait(a.device)
            began = time.perf_counter()
            linear(a, b)
            _wait(a.device)
            best = min(best, time.perf_counter() - began)
    return best


def copy_peak(device: torch.device) -> float:
    """Bytes a second, read and written, of the best of a few copies of 256 MiB."""
    a = torch.ones(64 << 20, device=device)
    b, best = torch.empty_like(a), float("inf")
    for _ in range(6):
        _wait(device)
        began = time.perf_counter()
        b.copy_(a)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * a.numel() * a.element_size() / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
