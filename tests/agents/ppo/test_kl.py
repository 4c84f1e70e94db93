"""k1, k2, k3: their values, and what their gradients are in expectation, by exact sums over a small vocabulary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from textenv.agents.ppo.kl import KL_ESTIMATORS, kl_estimate

V = 6


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of a policy, which take a gradient, and log-probabilities of a reference."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(V, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, torch.randn(V, generator=generator, dtype=torch.float64).log_softmax(0)


def expected_gradient(estimator: str) -> Tensor:
    """Σ_v π(v) ∇k(v): what the gradient of a loss over sampled tokens is on average."""
    logits, reference = pair()
    log_p = logits.log_softmax(0)
    loss = (log_p.detach().exp() * kl_estimate(log_p - reference, estimator)).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


@given(x=st.floats(-5, 5))
def test_each_is_its_formula(x: float) -> None:
    ratio = torch.tensor([x], dtype=torch.float64)
    k1, k2, k3 = (kl_estimate(ratio, name).item() for name in KL_ESTIMATORS)
    assert k1 == x
    assert k2 == pytest.approx(x * x / 2)
    assert k3 == pytest.approx(torch.exp(-ratio).item() - 1 + x, abs=1e-12)
    assert min(k2, k3) >= 0


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_are_the_divergence_in_expectation(name: str) -> None:
    logits, reference = pair()
    log_p = logits.detach().log_softmax(0)
    exact = (log_p.exp() * (log_p - reference)).sum()
    assert (log_p.exp() * kl_estimate(log_p - reference, name)).sum().item() == pytest.approx(exact.item())


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_equal_policies_are_at_no_distance(name: str) -> None:
    assert kl_estimate(torch.zeros(3), name).tolist() == [0.0] * 3


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_equal_policies_have_no_gradient(name: str) -> None:
    ratio = torch.zeros(3, requires_grad=True)
    kl_estimate(ratio, name).sum().backward()
    assert ratio.grad.tolist() == [0.0] * 3


def test_the_gradient_of_k3_is_one_minus_the_ratio_to_the_reference() -> None:
    """GRPO's coefficient of ∇log π is A + β (π_ref/π − 1), Eq. 21 of DeepSeekMath: minus β times this."""
    ratio = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    kl_estimate(ratio, "k3").sum().backward()
    assert torch.allclose(ratio.grad, 1 - torch.exp(-ratio.detach()))


def test_the_gradient_of_k1_pulls_nowhere() -> None:
    assert torch.allclose(expected_gradient("k1"), torch.zeros(V, dtype=torch.float64), atol=1e-12)


def test_the_gradient_of_k2_is_that_of_the_divergence() -> None:
    logits, reference = pair()
    log_p = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((log_p.exp() * (log_p - reference)).sum(), logits)
    assert torch.allclose(expected_gradient("k2"), exact)


def test_the_gradient_of_k3_is_that_of_the_divergence_the_other_way_round() -> None:
    logits, reference = pair()
    (exact,) = torch.autograd.grad((reference.exp() * (reference - logits.log_softmax(0))).sum(), logits)
    assert torch.allclose(expected_gradient("k3"), exact)


def test_another_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="kl_estimator must be one of k1, k2, k3, got 'k4'"):
        kl_estimate(torch.zeros(1), "k4")
