"""What an Improve step minimises on the texts that it keeps: four losses, each a weighted negative log-likelihood.

    L = −1/N Σ_t w_t log π(y_t | x, y_<t)  [+ λ KL(π_β ‖ π)]          over the N tokens of a minibatch

    "bc"          w_t = 1
    "gold"        w_t = max(u, π̃(y_t)) Q_t,   Q_t = Σ_{j=0..k} γ^j max(c, r_{t+j}),   r = p_MLE (GOLD-s), log p_MLE − b (GOLD-p)
    "offline_ac"  w_t = A_t,   A_t = G_t − V^β(s_t),   G_t = Σ_{j≥0} γ^j (credit of token t + j)
    "bvmpo"       w_t = N softmax(A/η)_t over the better half of the minibatch, 0 elsewhere; λ falls from 1 to 1e-5

ReST (Gulcehre et al. 2023, arXiv 2308.08998), Eq. 1 and appendix A.8; GOLD: Pang and He 2021 (arXiv 2009.07839) and their
code; V-MPO: Song et al. 2020 (arXiv 1909.12238). What is fixed (Q, A) is computed once after a Grow step, with the policy as it
was then: π_β, and p_MLE, are the policy that grew.

1. "offline_ac" and "bvmpo" read the credit of the tokens (`Episode.rewards`), whatever the filter read. A sparse environment
   pays the score on the last token, as ReST's decision process does (A.1).
2. BVMPO's values are Monte-Carlo, those of the data (V-trace with ratios of 1): π stays near π_β by the KL. Its temperature η is
   not trained by gradient steps beside the policy, but solved for in each minibatch: min_η η ε + η log mean exp(A/η), convex.
3. ReST does not say which GOLD it ran, nor how λ falls: here GOLD-s, and a geometric fall over the steps of an Improve step.
4. Whether ReST's offline actor-critic normalises advantages is not printed; here it does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.policy import LMPolicy
from textenv.agents.rest.behaviour_values import behaviour_advantages, log_probs_of_texts
from textenv.episode import Episode
from textenv.generation import ActionRule

__all__ = ["BC", "BVMPO", "GOLD", "LOSSES", "OfflineAC", "OfflineLoss", "best_eta", "loss_settings", "offline_loss"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OfflineLoss:
    """A weighted negative log-likelihood.

    Attributes:
        name: what `loss=` is called by.
        lagged: it wants π̃, a copy of the policy that is renewed every `sync_every` updates.
        anchored: it wants π_β, the policy as it was after the Grow step.
    """

    name: ClassVar[str] = ""
    lagged: ClassVar[bool] = False
    anchored: ClassVar[bool] = False

    def signal(
        self,
        policy: LMPolicy,
        episodes: Sequence[Episode],
        rule: ActionRule,
        generator: torch.Generator,
        *,
        micro_batch_size: int = 16,
    ) -> list[Floats] | None:
        """What is fixed about each token of the grown data, (T,) a text; None: nothing is asked for.

        Args:
            generator: of whatever is drawn.
            micro_batch_size: texts a forward pass.
        """
        return None

    def weights(self, signal: Tensor | None, lagged: Tensor | None) -> Tensor | None:
        """w of all tokens of a minibatch, (N,), without a gradient; None: 1.

        Args:
            signal: (N,), where there is one.
            lagged: (N,) log π̃, where it is wanted.
        """
        return None

    def anchor(self, done: float) -> float:
        """λ, when this share of an Improve step is done."""
        return 0.0


@dataclass(frozen=True)
class BC(OfflineLoss):
    """Negative log-likelihood per token: behaviour cloning of what was kept."""

    name = "bc"


@dataclass(frozen=True)
class GOLD(OfflineLoss):
    """Generation by off-policy learning from demonstrations: tokens that the policy and the likelihood agree on weigh more.

    Attributes:
        kind: "s": the reward of a token is p_MLE; "p": log p_MLE − `baseline`.
        horizon: k.
        gamma: γ.
        floor: u. reward_floor: c.
        sync_every: updates between two copies π̃.
    """

    kind: Literal["s", "p"] = "s"
    horizon: int = 5
    gamma: float = 1.0
    floor: float = 0.2
    reward_floor: float = 0.1
    baseline: float = -10.0
    sync_every: int = 3000

    name = "gold"
    lagged = True

    def __post_init__(self) -> None:
        if self.kind not in ("s", "p"):
            raise ValueError(f'GOLD\'s kind must be "s" or "p", got {self.kind!r}')
        if self.horizon < 0 or self.sync_every < 1:
            raise ValueError(f"GOLD needs horizon >= 0 and sync_every >= 1, got {self.horizon} and {self.sync_every}")

    def signal(
        self,
        policy: LMPolicy,
        episodes: Sequence[Episode],
        rule: ActionRule,
        generator: torch.Generator,
        *,
        micro_batch_size: int = 16,
    ) -> list[Floats]:
        """Q of each token, under the policy as the Grow step ended with it: p_MLE."""
        log_p = log_probs_of_texts(policy, episodes, rule, micro_batch_size=micro_batch_size)
        rewards = [np.exp(row) if self.kind == "s" else row - self.baseline for row in log_p]
        return [self.returns(np.maximum(self.reward_floor, row)) for row in rewards]

    def returns(self, rewards: Floats) -> Floats:
        """Q_t = Σ_{j=0..k} γ^j r_{t+j} of a text's (T,) rewards; beyond its end there are none."""
        padded = np.concatenate([rewards, np.zeros(self.horizon)])
        terms = [self.gamma**j * padded[j : j + len(rewards)] for j in range(self.horizon + 1)]
        return np.asarray(np.sum(terms, 0), np.float64)

    def weights(self, signal: Tensor | None, lagged: Tensor | None) -> Tensor:
        assert signal is not None
        assert lagged is not None
        return lagged.exp().clamp(min=self.floor) * signal


@dataclass(frozen=True)
class OfflineAC(OfflineLoss):
    """Offline actor-critic: advantages under the value of the data, no importance weights.

    Attributes:
        gamma: γ.
        value_updates, value_learning_rate, value_batch_size: how the value model is fitted to G after a Grow step.
    """

    gamma: float = 1.0
    value_updates: int = 200
    value_learning_rate: float = 1e-4
    value_batch_size: int = 16

    name = "offline_ac"

    def signal(
        self,
        policy: LMPolicy,
        episodes: Sequence[Episode],
        rule: ActionRule,
        generator: torch.Generator,
        *,
        micro_batch_size: int = 16,
    ) -> list[Floats]:
        """A of each token."""
        return behaviour_advantages(
            policy, episodes, rule, generator, gamma=self.gamma, updates=self.value_updates,
            learning_rate=self.value_learning_rate, batch_size=self.value_batch_size, micro_batch_size=micro_batch_size,
        )  # fmt: skip

    def weights(self, signal: Tensor | None, lagged: Tensor | None) -> Tensor:
        assert signal is not None
        return signal


@dataclass(frozen=True)
class BVMPO(OfflineAC):
    """V-MPO's policy loss on offline data, held near the behaviour policy.

    Attributes:
        epsilon: ε, how far the weights may be from equal ones, in nats.
        first, last: λ at the begin and the end of an Improve step.
    """

    epsilon: float = 0.1
    first: float = 1.0
    last: float = 1e-5

    name = "bvmpo"
    anchored = True

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and self.first > 0 and self.last > 0):
            raise ValueError(f"BVMPO needs epsilon, first and last above 0, got {self.epsilon}, {self.first}, {self.last}")

    def weights(self, signal: Tensor | None, lagged: Tensor | None) -> Tensor:
        assert signal is not None
        half = signal.topk((len(signal) + 1) // 2)
        eta = best_eta(half.values, self.epsilon)
        return torch.zeros_like(signal).scatter(0, half.indices, len(signal) * (half.values / eta).softmax(0))

    def anchor(self, done: float) -> float:
        return float(self.first * (self.last / self.first) ** done)


LOSSES: dict[str, type[OfflineLoss]] = {loss.name: loss for loss in (BC, GOLD, OfflineAC, BVMPO)}


def offline_loss(source: str | OfflineLoss | Mapping[str, Any]) -> OfflineLoss:
    """A loss by name, with its defaults; a loss; or the settings of one (`loss_settings`).

    >>> offline_loss("gold").horizon, offline_loss({"name": "gold", "horizon": 3}).horizon
    (5, 3)

    Raises:
        ValueError: no such loss. TypeError: no such setting.
    """
    if isinstance(source, OfflineLoss):
        return source
    settings = {"name": source} if isinstance(source, str) else dict(source)
    name = settings.pop("name", None)
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, or an OfflineLoss, got {source!r}")
    return LOSSES[name](**settings)


def loss_settings(loss: OfflineLoss) -> dict[str, Any]:
    """JSON values from which `offline_loss` makes the same loss."""
    return {"name": loss.name, **asdict(loss)}


def best_eta(advantages: Tensor, epsilon: float) -> float:
    """argmin_η η ε + η log mean exp(A/η), by golden section over log η: V-MPO's dual, convex in η > 0.

    Where all advantages are equal the weights are equal under every η, and the answer is as small as it gets.
    """
    a = advantages.detach().double().cpu().numpy()  # here, once: a device would be waited for in each of 120 evaluations
    a = a - a.max()  # shifts the dual by a constant
    scale = max(float(-a.min()), 1e-8)
    low, high, ratio = np.log(scale * 1e-3), np.log(scale * 1e3 / epsilon), (5**0.5 - 1) / 2

    def dual(log_eta: float) -> float:
        eta = float(np.exp(log_eta))
        return float(eta * epsilon + eta * np.log(np.exp(a / eta).mean()))  # the largest exponent is 0

    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if dual(left) < dual(right) else (left, high)
    return float(np.exp((low + high) / 2))
