"""The KL penalty to the reference: three estimates of it from sampled tokens, and its coefficient, fixed or adaptive.

With ℓ = log π(y_t|x, y_<t) − log π_ref(y_t|x, y_<t) and y_t ~ π (Schulman 2020, http://joschu.net/blog/kl-approx.html):

    k1 = ℓ      k2 = ℓ² / 2      k3 = e^(−ℓ) − 1 + ℓ

    in the reward   r_t = c_t − β k_t            no gradient flows through k_t; k1 and k3 are unbiased, k1 is signed
    in the loss     L + β aggregate(k_t)         the gradient is that of the estimate, and there they differ:

        ∇k1 = ∇log π                        mean zero under π: it pulls nowhere
        ∇k2 = ℓ ∇log π                      in expectation ∇KL(π ‖ π_ref)
        ∇k3 = (1 − π_ref/π) ∇log π          in expectation ∇KL(π_ref ‖ π): GRPO's (Shao et al. 2024, arXiv 2402.03300, Eq. 21)

Adaptive coefficient (Ziegler et al. 2019, arXiv 1909.08593, §2.2):

    e = clip(KL / target − 1, −0.2, 0.2),   β ← β (1 + e · episodes / horizon)
"""

from __future__ import annotations

from torch import Tensor

from textenv.agents.checks import above, within

__all__ = ["KL_ESTIMATORS", "KLCoefficient", "kl_estimate"]

KL_ESTIMATORS = ("k1", "k2", "k3")


def kl_estimate(log_ratio: Tensor, estimator: str = "k1") -> Tensor:
    """An estimate of KL(π ‖ π_ref) from each sampled token; differentiable.

    >>> import torch
    >>> log_ratio = torch.tensor([0.0, 1.0, -1.0])
    >>> [[round(x, 3) for x in kl_estimate(log_ratio, name).tolist()] for name in KL_ESTIMATORS]
    [[0.0, 1.0, -1.0], [0.0, 0.5, 0.5], [0.0, 0.368, 0.718]]

    Args:
        log_ratio: (N,) log π − log π_ref of the tokens sampled from π.
        estimator: "k1", "k2" or "k3".

    Returns:
        (N,), nats.

    Raises:
        ValueError: another estimator.
    """
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    if estimator == "k3":
        return (-log_ratio).expm1() + log_ratio
    raise ValueError(f"kl_estimator must be one of {', '.join(KL_ESTIMATORS)}, got {estimator!r}")


class KLCoefficient:
    """β.

    >>> beta = KLCoefficient(0.1, target=6.0, horizon=100)
    >>> beta.update(kl=12.0, episodes=50)
    >>> round(beta.value, 3)
    0.11

    Args:
        initial: the coefficient to begin with.
        target: the KL per text (nats) to be kept; None: the coefficient is fixed.
        horizon: episodes over which it adapts.

    Raises:
        ValueError: `kl_coef` below 0, `kl_target` or `kl_horizon` not above it.
    """

    def __init__(self, initial: float, *, target: float | None = None, horizon: float = 10_000) -> None:
        within(0, float("inf"), kl_coef=initial)
        above(0, kl_target=target, kl_horizon=horizon)
        self.value, self.target, self.horizon = initial, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Adapt to the KL (nats a text) of a batch of so many episodes."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.value *= 1 + error * episodes / self.horizon
