"""Who samples a rollout: two methods, so that a server can stand in for the policy.

    generate(prompts, rule, uniforms)   texts, and the log-probabilities of their tokens under what sampled them
    sync_weights(policy)                sample like this policy from now on

The policy itself is the default engine: it samples with its own weights and has nothing to synchronise. Any `LMPolicy` can
be the engine of another (on another device, in another precision). `textenv.agents.engines.vllm` asks a vLLM server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from textenv.generation import ActionRule, Sampled

if TYPE_CHECKING:
    from textenv.agents.policy import LMPolicy

__all__ = ["RolloutEngine"]

Ids = NDArray[np.int64]


class RolloutEngine(Protocol):
    """Samples for a policy.

    One with `decodes_together = 256`, whose texts do not depend on each other, may be asked for so many at a time, while a judge
    that waits judges those before (`textenv.agents.overlap`).
    """

    def generate(
        self, prompts: Sequence[Ids], rule: ActionRule, uniforms: Tensor | None, /, *, top_k: int, top_p: float
    ) -> Sampled | list[Ids]:
        """One text a prompt.

        Args:
            prompts: B arrays (P_b,) of ids.
            rule: what a text may hold.
            uniforms: (B, T) in [0, 1), from which the choices follow, so that a run repeats; None: greedy.
            top_k, top_p: truncate the distribution; 0 and 1.0 in training.

        Returns:
            Texts with the log-probabilities that they were sampled with; the texts alone, if there are none.
        """
        ...

    def sync_weights(self, policy: LMPolicy) -> None:
        """Sample with the weights, and at the temperature, of this policy.

        Raises:
            ServerError: it has not worked: what samples is not this policy.
        """
        ...
