"""Value heads: what a policy's last hidden states say of the rewards to come.

    linear      V = w · h + b                                              its gradient changes the trunk
    ValueHead   V = w · gelu(A norm(h) + a) + b,   h without gradient      the trunk is the policy's alone

A linear head on a shared trunk (TRL, RL4LMs) pulls at the policy's own weights, with a gradient that grows with the returns: on
Summarization, whose scores are logits of 1 to 6, it cost a fifth of what a separate value model reaches, and the language of
one run in ten. A network of one inner layer that only reads the states learns as fast as the separate model, in half of the
seconds (`benchmarks.parity`; the README has the curves). PPG (Cobbe et al. 2021, arXiv 2009.04416) parts policy
and value for the same reason, by phases.

Both begin at zero, so that the first advantages are the returns, and leave the global generators alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear
from torch.nn.utils import skip_init

__all__ = ["RATE", "ValueHead", "head_like", "linear_head"]

RATE = 1e-3
"""Adam's learning rate of a `ValueHead`: it is new, whatever the rate that suits the model."""


def linear_head(width: int, device: torch.device) -> nn.Linear:
    """One linear layer (1, width), at zero."""
    head: nn.Linear = skip_init(nn.Linear, width, 1, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class ValueHead(nn.Linear):
    """A network that reads states and does not change them: (…, H) → (…, 1). `weight` and `bias` are its last layer.

    Args:
        width: H.
        inner: units of the layer between. Default: H, but from 256 to 1024.
    """

    def __init__(self, width: int, device: torch.device, inner: int | None = None) -> None:
        inner = min(max(width, 256), 1024) if inner is None else inner
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws weights, where it is made
            super().__init__(inner, 1, device="cpu")
        self.to(device)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        drawn = torch.randn(inner, width, generator=torch.Generator().manual_seed(0)) * width**-0.5
        self.inner_weight = nn.Parameter(drawn.to(device))
        self.inner_bias = nn.Parameter(torch.zeros(inner, device=device))

    def forward(self, states: Tensor) -> Tensor:
        """Values of states."""
        read = layer_norm(states.detach(), states.shape[-1:])
        return super().forward(gelu(linear(read, self.inner_weight, self.inner_bias)))


def head_like(state: Mapping[str, Tensor], device: torch.device) -> nn.Linear:
    """The head that weights, as `state_dict` names them, are of."""
    inner = state.get("inner_weight")
    head = linear_head(state["weight"].shape[1], device) if inner is None else ValueHead(inner.shape[1], device, len(inner))
    head.load_state_dict(state)
    return head
