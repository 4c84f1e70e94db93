"""The identities of DPO, SimPO, TDPO, SELM and T-REG, on the code that trains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import EOS, VOCABULARY, make
from textenv.agents import LMPolicy
from textenv.agents.policy import Evaluated
from textenv.agents.preferences.losses import PreferenceLoss, Texts, optimism, sequence_kl
from textenv.agents.preferences.objective import PairObjective, Prepared, distributions
from textenv.agents.preferences.pairs import Pair
from textenv.agents.preferences.token_regularization import regularizer, squash
from textenv.episode import Prompt
from textenv.generation import ActionRule

RULE = ActionRule(VOCABULARY, EOS, 16)
ENV = make().unwrapped
TEXTS = ([97, 98, 99, EOS], [100, EOS], [101, 102, 103, 104, 105, 106, EOS], [97, 120, 121], [98, 99, 100], [97])


def prepared(chosen: list[list[int]], rejected: list[list[int]], seed: int = 0) -> list[Prepared]:
    """Pairs with random references and token rewards."""
    draw, out = np.random.default_rng(seed), []
    for a, b in zip(chosen, rejected, strict=True):
        pair = Pair(ENV.episode(Prompt("p: "), a), ENV.episode(Prompt("p: "), b))
        texts = [pair.chosen, pair.rejected]
        out.append(Prepared(pair, texts, draw.normal(-10, 2, 2).tolist(), [draw.uniform(-0.5, 0.5, len(t)) for t in texts]))
    return out


def rewarded(part: list[Prepared], chosen: float, rejected: float) -> list[Prepared]:
    """The pairs with one token reward all through each text."""
    return [one._replace(rewards=[np.full(len(one.texts[0]), chosen), np.full(len(one.texts[1]), rejected)]) for one in part]


PAIRS = prepared(list(TEXTS[:3]), list(TEXTS[3:]))


class Table:
    """A policy whose log-probabilities are numbers of our own: the gradient is read where the loss meets them."""

    def __init__(self, n: int, seed: int = 1) -> None:
        values = -torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 3
        self.log_probs = values.double().requires_grad_()

    def evaluate(self, *_: Any) -> Evaluated:
        return Evaluated(self.log_probs, torch.zeros_like(self.log_probs), None)


def pushes(objective: PairObjective, part: list[Prepared]) -> tuple[list[Any], list[Any], Any]:
    """−∂L/∂log π of every token, chosen and rejected, pair by pair; and w of each pair."""
    lengths = [len(one.texts[side]) for side in (0, 1) for one in part]
    policy: Any = Table(sum(lengths))
    out = objective.losses(part, policy, None, RULE)
    out["train/loss"].sum().backward()
    gradient = [-g.numpy() for g in policy.log_probs.grad.split(lengths)]
    return gradient[: len(part)], gradient[len(part) :], torch.sigmoid(-margin_of(objective, part, policy)).numpy()


def margin_of(objective: PairObjective, part: list[Prepared], policy: Table) -> torch.Tensor:
    """m, worked out text by text."""
    lengths = [len(one.texts[side]) for side in (0, 1) for one in part]
    sums = [values.detach().sum() for values in policy.log_probs.split(lengths)]
    base, out = objective.base, []
    for i, one in enumerate(part):
        w, l, n = sums[i], sums[len(part) + i], lengths  # noqa: E741 - the loser
        if base.base == "simpo":
            out.append(base.beta * (w / n[i] - l / n[len(part) + i]) - base.gamma_ratio * base.beta)
        else:
            out.append(base.beta * (w - one.reference[0] - l + one.reference[1]))
    return torch.stack(out)


def real(objective: PairObjective, part: list[Prepared], seed: int = 0) -> tuple[torch.Tensor, list[torch.Tensor], Any]:
    """Losses and gradients on a real model, against another one as its reference."""
    policy, reference = LMPolicy(worlds.llama(seed=seed)), LMPolicy(worlds.llama(seed=3))
    out = objective.losses(part, policy, reference, RULE)
    out["train/loss"].mean().backward()
    return out["train/loss"].detach(), [p.grad for p in policy.model.parameters() if p.grad is not None], out


# --- T-REG ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 3.0])
def test_treg_reweights_the_gradient_of_dpo_token_by_token(alpha: float) -> None:
    beta = 0.1
    better, worse, w = pushes(PairObjective(PreferenceLoss("dpo", beta), treg_alpha=alpha), PAIRS)
    for i, one in enumerate(PAIRS):
        assert np.allclose(better[i], beta * w[i] * (1 + alpha * one.rewards[0]), atol=1e-7)
        assert np.allclose(worse[i], beta * w[i] * (-1 + alpha * one.rewards[1]), atol=1e-7)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_treg_reweights_the_gradient_of_simpo_token_by_token(alpha: float) -> None:
    beta = 2.0
    better, worse, w = pushes(PairObjective(PreferenceLoss("simpo", beta), treg_alpha=alpha), PAIRS)
    for i, one in enumerate(PAIRS):
        assert np.allclose(better[i], beta / len(better[i]) * w[i] * (1 + alpha * one.rewards[0]), atol=1e-6)
        assert np.allclose(worse[i], beta / len(worse[i]) * w[i] * (-1 + alpha * one.rewards[1]), atol=1e-6)


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_up_to_one_half_alpha_changes_a_push_by_a_quarter_at_most(seed: int, alpha: float) -> None:
    part = prepared([TEXTS[0]], [TEXTS[2]], seed)
    beta = 0.1
    better, worse, w = pushes(PairObjective(PreferenceLoss("dpo", beta), treg_alpha=alpha), part)
    assert ((better[0] / (beta * w[0]) >= 0.75 - 1e-6) & (better[0] / (beta * w[0]) <= 1.25 + 1e-6)).all()
    assert ((worse[0] / (beta * w[0]) >= -1.25 - 1e-6) & (worse[0] / (beta * w[0]) <= -0.75 + 1e-6)).all()


def test_only_above_two_can_alpha_turn_a_push_round() -> None:
    part = rewarded(PAIRS[:1], -0.5, -0.5)
    for alpha, turned in ((1.99, False), (2.01, True)):
        better, _, _ = pushes(PairObjective(PreferenceLoss("dpo"), treg_alpha=alpha), part)
        assert bool((better[0] < 0).all()) is turned


@pytest.mark.parametrize("base", ["dpo", "simpo", "tdpo1", "tdpo2"])
@pytest.mark.parametrize("without", ["alpha", "rewards"])
def test_treg_without_alpha_or_without_rewards_is_its_base_bit_for_bit(base: Any, without: str) -> None:
    part = rewarded(PAIRS, 0.0, 0.0) if without == "rewards" else PAIRS
    loss, gradient, _ = real(PairObjective(PreferenceLoss(base)), PAIRS)
    same, also, _ = real(PairObjective(PreferenceLoss(base), treg_alpha=0.0 if without == "alpha" else 0.25), part)
    assert torch.equal(loss, same)
    assert all(torch.equal(a, b) for a, b in zip(gradient, also, strict=True))


def test_the_reward_is_the_share_of_the_better_probability_and_bounded() -> None:
    better, worse = np.array([0.3, 0.5, 1e-6]), np.array([0.1, 0.5, 0.9])
    assert np.allclose(squash(np.log(better) - np.log(worse)), better / (better + worse) - 0.5)
    extreme = squash(np.array([-1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4]))
    assert (np.diff(extreme) >= 0).all()
    assert (extreme[0], extreme[3], extreme[-1]) == (-0.5, 0.0, 0.5)


def test_a_shift_of_both_sequence_rewards_changes_nothing() -> None:
    loss = PreferenceLoss("dpo", beta=0.1)
    chosen, rejected = (Texts(torch.tensor([v]), torch.tensor([0.0]), torch.tensor([3.0])) for v in (-4.0, -6.0))
    shifted = [side._replace(log_probs=side.log_probs + 5.0) for side in (chosen, rejected)]
    assert torch.allclose(loss.margin(chosen, rejected), loss.margin(*shifted))


def test_leaving_the_reference_out_of_the_regularizer_keeps_its_gradient() -> None:
    log_probs, reference, rewards = (torch.randn(5) for _ in range(3))
    gradients = []
    for term in (0.0, 1.0):
        leaf = log_probs.clone().requires_grad_()
        regularizer(leaf - term * reference, rewards, [2, 3], 0.1).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_equal_rewards_on_the_chosen_text_alone_are_weighted_supervised_learning() -> None:
    k, alpha, beta = 0.4, 0.25, 0.1
    part = rewarded(PAIRS, k, 0.0)
    plain, _, _ = real(PairObjective(PreferenceLoss("dpo", beta)), part)
    loss, _, out = real(PairObjective(PreferenceLoss("dpo", beta), treg_alpha=alpha), part)
    expected = k * alpha * beta * out["treg/weight"] * -out["logps/chosen"]
    assert torch.allclose(loss - plain, expected.detach(), atol=1e-5)


def test_the_regularizer_has_one_sign_in_both_texts() -> None:
    part = rewarded(PAIRS, 0.0, 0.5)
    _, worse, w = pushes(PairObjective(PreferenceLoss("dpo"), treg_alpha=1.0), part)
    assert all(np.allclose(push, -0.5 * 0.1 * w[i], atol=1e-7) for i, push in enumerate(worse))  # pushed down half as hard


def test_static_weighting_is_a_weight_of_one() -> None:
    better, _, w = pushes(PairObjective(PreferenceLoss("dpo", 0.1), treg_alpha=0.5, treg_weight="static"), PAIRS)
    assert np.allclose(better[0], 0.1 * (w[0] + 0.5 * PAIRS[0].rewards[0]), atol=1e-7)


@pytest.mark.parametrize("base", ["dpo", "simpo", "tdpo1", "tdpo2"])
def test_pairs_of_any_lengths_in_one_batch_are_what_they_are_alone(base: Any) -> None:
    objective = PairObjective(PreferenceLoss(base), treg_alpha=0.25)
    together, gradient, _ = real(objective, PAIRS)
    alone = [real(objective, [one]) for one in PAIRS]
    assert torch.allclose(together, torch.cat([loss for loss, _, _ in alone]), atol=1e-5)
    for i, found in enumerate(gradient):
        assert torch.allclose(found, torch.stack([other[i] for _, other, _ in alone]).mean(0), atol=1e-5)


# --- DPO, SimPO, TDPO, SELM ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["dpo", "tdpo1", "tdpo2"])
def test_a_policy_that_is_its_reference_has_loss_log_two_and_weight_one_half(base: Any) -> None:
    policy = LMPolicy(worlds.llama())
    objective = PairObjective(PreferenceLoss(base), treg_alpha=0.25)
    part = objective.prepare([one.pair for one in PAIRS], policy, lambda es: [np.zeros(len(e)) for e in es], RULE, 4)
    out = objective.losses(part, policy, policy, RULE)
    assert torch.allclose(out["train/loss"], torch.full((3,), math.log(2)), atol=1e-5)
    assert torch.allclose(out["treg/weight"], torch.full((3,), 0.5), atol=1e-5)
    if base != "dpo":
        assert torch.allclose(out["kl/chosen"], torch.zeros(3), atol=1e-5)


def test_dpo_is_the_closed_form() -> None:
    losses, _, out = real(PairObjective(PreferenceLoss("dpo", 0.3)), PAIRS)
    reference = torch.tensor([one.reference for one in PAIRS])
    z = 0.3 * (out["logps/chosen"] - reference[:, 0] - out["logps/rejected"] + reference[:, 1])
    assert torch.allclose(losses, torch.log1p(torch.exp(-z)).detach(), atol=1e-5)


def test_simpo_reads_no_reference() -> None:
    objective = PairObjective(PreferenceLoss("simpo"))
    other = [one._replace(reference=[0.0, 0.0]) for one in PAIRS]
    assert not objective.needs_reference
    assert torch.equal(real(objective, PAIRS)[0], real(objective, other)[0])


def tdpo(base: Any, alpha: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return real(PairObjective(PreferenceLoss(base, tdpo_alpha=alpha)), PAIRS)[:2]


def test_tdpo2_without_alpha_is_dpo() -> None:
    loss, gradient = tdpo("tdpo2", 0.0)
    same, also = tdpo("dpo", 0.0)
    assert torch.allclose(loss, same, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradient, also, strict=True))


def test_tdpo_1_and_2_agree_at_alpha_one_in_value_and_not_in_gradient() -> None:
    (loss, gradient), (same, also) = tdpo("tdpo1", 1.0), tdpo("tdpo2", 1.0)
    assert torch.equal(loss, same)
    assert not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(gradient, also, strict=True))


def test_the_stop_gradient_of_tdpo2_is_on_the_chosen_text_alone() -> None:
    sides = [Texts(torch.zeros(1), torch.zeros(1), torch.ones(1), torch.ones(1, requires_grad=True)) for _ in range(2)]
    PreferenceLoss("tdpo2").margin(*sides).sum().backward()
    assert (sides[0].kl.grad, sides[1].kl.grad.item()) == (None, pytest.approx(-0.05))  # type: ignore[union-attr]


@pytest.mark.parametrize("least", [0, 3])
def test_the_sequence_kl_is_the_sum_over_tokens_and_the_whole_vocabulary(least: int) -> None:
    rule = ActionRule(VOCABULARY, EOS, 16, least)
    prompts, texts = [np.array([112]), np.array([112, 58, 32])], [np.array([97, 98, 99, 100]), np.array([101, 102, 103])]
    (p, _), (q, _) = (distributions(LMPolicy(worlds.llama(seed=s)), prompts, texts, rule) for s in (0, 1))
    found = sequence_kl(p, q, [4, 3])
    each = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=x) for x in (q, p)))
    expected = torch.stack([each[:4].sum(), each[4:].sum()])
    assert (found >= 0).all()
    assert torch.allclose(found, expected, atol=1e-4)


def test_distributions_are_those_that_evaluate_reads() -> None:
    policy = LMPolicy(worlds.llama(), temperature=0.7)
    prompts, texts = [np.array([112]), np.array([112, 58, 32])], [np.array([97, 98, EOS]), np.array([101])]
    log_p, actions = distributions(policy, prompts, texts, RULE)
    assert torch.allclose(log_p.gather(1, actions[:, None])[:, 0], policy.evaluate(prompts, texts, RULE).log_probs, atol=1e-5)


def test_selms_term_is_zero_at_the_reference_and_its_gradient_is_not() -> None:
    log_probs = torch.tensor([-7.0], requires_grad=True)
    term = optimism(Texts(log_probs, torch.tensor([-7.0]), torch.tensor([4.0])), beta=0.1)
    term.sum().backward()
    assert (term.item(), log_probs.grad.item()) == (0.0, pytest.approx(0.1))  # type: ignore[union-attr]


def test_selms_gradient_averages_to_zero_over_texts_sampled_at_the_reference() -> None:
    logits = torch.randn(5, requires_grad=True)
    log_p = logits.log_softmax(0)
    every_text = optimism(Texts(log_p, log_p.detach(), torch.ones(5)), beta=0.1)
    (log_p.detach().exp() * every_text).sum().backward()
    assert torch.allclose(logits.grad, torch.zeros(5), atol=1e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "ipo"}, "loss must be one of dpo, simpo, tdpo1, tdpo2, got 'ipo'"),
        ({"beta": 0.0}, "beta must be above 0, got 0.0"),
        ({"gamma_ratio": -1.0}, "gamma_ratio and tdpo_alpha must not be negative, got -1.0"),
    ],
)
def test_a_bad_setting_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceLoss(**arguments)
