"""The coefficient of the KL penalty, fixed or adaptive (Ziegler et al. 2019, arXiv 1909.08593, §2.2).

e = clip(KL / target − 1, −0.2, 0.2),   β ← β (1 + e · episodes / horizon)
"""

from __future__ import annotations

__all__ = ["KLCoefficient"]


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
    """

    def __init__(self, initial: float, *, target: float | None = None, horizon: float = 10_000) -> None:
        if initial < 0:
            raise ValueError(f"kl_coef must not be negative, got {initial}")
        if target is not None and target <= 0:
            raise ValueError(f"kl_target must be above 0, got {target}; pass None for a fixed coefficient")
        self.value, self.target, self.horizon = initial, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Adapt to the KL (nats a text) of a batch of so many episodes."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.value *= 1 + error * episodes / self.horizon
