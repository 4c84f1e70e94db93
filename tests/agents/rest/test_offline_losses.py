"""The losses of an Improve step: each is what its paper writes, whatever the minibatch is cut into."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests import worlds
from tests.worlds import BYTES, make
from textenv.agents import LMPolicy, rollout
from textenv.agents.rest.behaviour_values import behaviour_advantages, discounted
from textenv.agents.rest.improving import Improver
from textenv.agents.rest.offline_losses import BC, BVMPO, GOLD, OfflineAC, best_eta, loss_settings, offline_loss
from textenv.agents.value_head import ValueHead
from textenv.episode import Episode

NAMES = pytest.mark.parametrize("name", ["bc", "gold", "offline_ac", "bvmpo"])
MODELS = pytest.mark.parametrize("model", ["llama", "gpt2", "t5"])


def world() -> Any:
    return make(prompts=["a", "bb", "ccc"], max_new_tokens=6, min_new_tokens=1, scorer=worlds.even_share)


def episodes(policy: LMPolicy, n: int = 6) -> list[Episode]:
    env = world()
    env.reset(seed=1)
    return rollout(env, policy, n, torch.Generator().manual_seed(3))


def improver(policy: LMPolicy, loss: Any, micro: int = 8) -> Improver:
    rule = world().get_wrapper_attr("action_rule")
    return Improver(policy, rule, offline_loss(loss), micro_batch_size=micro, weight_decay=0.0, max_grad_norm=1e9)


def gradients(model: str, loss: Any, micro: int = 8, moved: bool = False) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Statistics and gradients of one update; `moved`: the policy has left what it was after the Grow step."""
    policy = LMPolicy(getattr(worlds, model)(), BYTES)
    one, texts = improver(policy, loss, micro), episodes(policy)
    signal = one.loss.signal(policy, texts, one.rule, torch.Generator().manual_seed(0))
    if moved:
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.1)
    stats = one.update(texts, signal, rate=1e-3, step=0, steps=5)
    return stats, [p.grad.clone() for p in policy.parameters() if p.grad is not None]


# --- Each -----------------------------------------------------------------------------------------------------------------


@MODELS
@NAMES
def test_a_minibatch_in_parts_has_the_gradient_of_the_whole(name: str, model: str) -> None:
    whole, parts = (gradients(model, offline(name), micro, moved=True) for micro in (8, 2))
    assert whole[0] == pytest.approx(parts[0], rel=1e-3, abs=1e-6)
    for a, b in zip(whole[1], parts[1], strict=True):
        assert torch.allclose(a, b, atol=1e-5 * (1 + float(a.abs().max())))


def offline(name: str) -> Any:
    """With a quick value model."""
    return {"name": name, **({"value_updates": 3} if name in ("offline_ac", "bvmpo") else {})}


@NAMES
def test_a_loss_is_made_again_from_its_settings(name: str) -> None:
    loss = offline_loss(name)
    assert offline_loss(loss_settings(loss)) == loss


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("mle", "loss must be one of bc, gold"),
        ({"name": "gold", "kind": "q"}, 'GOLD\'s kind must be "s" or "p", got \'q\''),
        ({"name": "gold", "horizon": -1}, "horizon >= 0"),
        ({"name": "bvmpo", "epsilon": 0.0}, "above 0"),
    ],
)
def test_a_loss_that_cannot_be_meant_is_named(loss: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        offline_loss(loss)


# --- BC -------------------------------------------------------------------------------------------------------------------


def test_the_gradient_of_bc_is_the_policy_gradient_weighted_by_the_filter_without_a_ratio() -> None:
    """Σ over *all* samples of 1[R > τ] ∇log π equals the update on those that were kept."""
    policy = LMPolicy(worlds.llama(), BYTES)
    texts, rule = episodes(policy), world().get_wrapper_attr("action_rule")
    kept = [e.score > np.mean([e.score for e in texts]) for e in texts]
    chosen = [e for e, keep in zip(texts, kept, strict=True) if keep]
    assert 0 < len(chosen) < len(texts)
    one = improver(policy, "bc")
    one.update(chosen, None, rate=0.0, step=0, steps=1)
    found = [p.grad.clone() for p in policy.model.parameters()]
    policy.zero_grad(set_to_none=True)
    log_probs = policy.evaluate([e.prompt_tokens for e in texts], [e.tokens for e in texts], rule).log_probs
    weight = torch.tensor(np.repeat(np.array(kept, float), [len(e) for e in texts]))
    (-(weight * log_probs).sum() / weight.sum()).backward()
    for a, parameter in zip(found, policy.model.parameters(), strict=True):
        assert torch.allclose(a, parameter.grad, atol=1e-5)


def test_unlimited_likelihood_training_on_what_is_kept_recovers_its_distribution() -> None:
    """KL(π^τ ‖ π) → 0: a tabular policy (one token, no prompt to speak of) becomes the filtered empirical distribution."""
    env = make(prompts=["a"], max_new_tokens=1, scorer=worlds.constant_scorer(1.0))
    policy = LMPolicy(worlds.llama(initializer_range=0.02), BYTES)
    kept = env.get_wrapper_attr("credit")(
        [env.unwrapped.episode(env.unwrapped.task.prompts[0], [token]) for token in [97] * 6 + [98] * 3 + [99]]
    )
    one = Improver(policy, env.get_wrapper_attr("action_rule"), BC(), micro_batch_size=16, weight_decay=0.0, max_grad_norm=1.0)
    for step in range(200):
        one.update(kept, None, rate=1e-2, step=step, steps=200)
    with torch.no_grad():
        _, logits, _ = policy.distributions([kept[0].prompt_tokens], [kept[0].tokens], one.rule)
    assert logits.softmax(-1)[0, 97:100].tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.02)


# --- GOLD -----------------------------------------------------------------------------------------------------------------


def test_golds_returns_look_five_tokens_ahead_and_nothing_stands_behind_the_end() -> None:
    rewards = np.arange(1.0, 9.0)
    expected = [sum(rewards[t + j] for j in range(6) if t + j < 8) for t in range(8)]
    assert GOLD().returns(rewards).tolist() == expected
    assert GOLD(horizon=1, gamma=0.5).returns(np.array([1.0, 2.0])).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("kind", ["s", "p"])
def test_gold_is_its_formula(kind: Any) -> None:
    loss = GOLD(kind=kind, horizon=2, floor=0.003, reward_floor=0.004, baseline=-3.0)
    policy = LMPolicy(worlds.llama(), BYTES)
    one, texts = improver(policy, loss), episodes(policy)
    stats = one.update(texts, loss.signal(policy, texts, one.rule, torch.Generator()), rate=0.0, step=0, steps=1)
    total, tokens = 0.0, 0
    for e in texts:
        with torch.no_grad():
            log_p = policy.evaluate([e.prompt_tokens], [e.tokens], one.rule).log_probs.double().tolist()
        reward = [max(0.004, math.exp(x) if kind == "s" else x + 3.0) for x in log_p]
        for t, x in enumerate(log_p):
            total -= max(0.003, math.exp(x)) * sum(reward[t : t + 3]) * x
            tokens += 1
    assert stats["loss"] == pytest.approx(total / tokens, rel=1e-3)


def test_the_lagged_copy_is_renewed_every_so_many_updates_and_not_before() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    one, texts = improver(policy, GOLD(sync_every=3)), episodes(policy)
    signal = one.loss.signal(policy, texts, one.rule, torch.Generator())
    same = []
    for step in range(5):
        before = {name: value.clone() for name, value in policy.named_parameters()}
        one.update(texts, signal, rate=1e-2, step=step, steps=5)
        assert one.lagged is not None
        same.append(all(torch.equal(before[name], value) for name, value in one.lagged.named_parameters()))
    assert same == [True, False, False, True, False]


# --- Actor-critic and BVMPO -----------------------------------------------------------------------------------------------


def test_returns_are_the_credit_to_come() -> None:
    assert discounted(np.array([1.0, 0.0, 2.0]), 1.0).tolist() == [3.0, 2.0, 2.0]


def test_without_a_fitted_value_the_advantages_are_the_credit_to_come() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    texts, rule = episodes(policy), world().get_wrapper_attr("action_rule")
    found = behaviour_advantages(policy, texts, rule, torch.Generator(), updates=0)
    for e, a in zip(texts, found, strict=True):
        assert a == pytest.approx(discounted(e.rewards, 1.0))


def test_a_fitted_value_explains_the_data_and_leaves_the_policy_alone() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    texts, rule = episodes(policy), world().get_wrapper_attr("action_rule")
    before, fitted = (
        behaviour_advantages(policy, texts, rule, torch.Generator().manual_seed(0), updates=n, learning_rate=3e-3) for n in (0, 60)
    )
    assert np.square(np.concatenate(fitted)).mean() < 0.3 * np.square(np.concatenate(before)).mean()
    assert worlds.same_weights(policy.model, worlds.llama())


def test_the_fitted_value_is_the_same_whichever_value_head_the_policy_has() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    texts, rule, found = episodes(policy), world().get_wrapper_attr("action_rule"), []
    for head in (policy.value_head, ValueHead(policy.width, policy.device)):
        policy.value_head = head
        found.append(behaviour_advantages(policy, texts, rule, torch.Generator().manual_seed(0), updates=5, learning_rate=3e-3))
    assert np.concatenate(found[0]).tolist() == np.concatenate(found[1]).tolist()


def test_the_fit_reads_no_more_texts_at_once_than_it_may_and_is_the_same() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    texts, rule, widest, read = episodes(policy), world().get_wrapper_attr("action_rule"), [], LMPolicy.evaluate
    options: dict[str, Any] = {"updates": 5, "learning_rate": 3e-3, "batch_size": 4}

    def fitted(micro: int) -> Any:
        return behaviour_advantages(policy, texts, rule, torch.Generator().manual_seed(0), **options, micro_batch_size=micro)

    whole = fitted(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LMPolicy, "evaluate", lambda self, p, *rest, **kw: widest.append(len(p)) or read(self, p, *rest, **kw))
        parts = fitted(2)
    assert max(widest) == 2
    assert np.concatenate(parts) == pytest.approx(np.concatenate(whole), abs=1e-5)


class Waits(TorchDispatchMode):
    """Counts how often a number is fetched from a tensor, for which a device would be waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_device_is_not_waited_for_in_the_search_of_vmpos_temperature() -> None:
    with Waits() as waits:
        best_eta(torch.tensor([0.0, 3.0, 1.0, 2.0]), 0.1)
    assert waits.count <= 1


def test_offline_actor_critic_weighs_likelihood_by_the_advantage() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    one, texts = improver(policy, OfflineAC(value_updates=0)), episodes(policy)
    advantages = one.loss.signal(policy, texts, one.rule, torch.Generator())
    stats = one.update(texts, advantages, rate=0.0, step=0, steps=1)
    with torch.no_grad():
        log_p = policy.evaluate([e.prompt_tokens for e in texts], [e.tokens for e in texts], one.rule).log_probs
    assert stats["loss"] == pytest.approx(-(np.concatenate(advantages) * log_p.numpy()).mean(), rel=1e-4)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=20), st.floats(0.02, 0.3))
def test_the_temperature_of_vmpo_minimises_its_dual(values: list[float], epsilon: float) -> None:
    a = torch.tensor(values, dtype=torch.float64)

    def dual(eta: float) -> float:
        return eta * epsilon + eta * (float((a / eta).logsumexp(0)) - math.log(len(a)))

    eta = best_eta(a, epsilon)
    scale = max(float(a.max() - a.min()), 1e-8)
    assert all(dual(eta) <= dual(other * scale) + 1e-6 * (1 + scale) for other in (0.01, 0.1, 0.5, 1.0, 3.0, 10.0))


def test_vmpos_weights_go_from_the_argmax_to_equal_ones_over_the_better_half() -> None:
    """η → 0 (a large ε): the argmax; η → ∞ (ε → 0): equal weights on the half that is kept, nothing elsewhere."""
    advantages = torch.tensor([0.0, 3.0, 1.0, 2.0])
    sharp, flat = (BVMPO(epsilon=e).weights(advantages, None) / 4 for e in (5.0, 1e-6))
    assert sharp.tolist() == pytest.approx([0, 1, 0, 0], abs=1e-3)
    assert flat.tolist() == pytest.approx([0, 0.5, 0, 0.5], abs=1e-2)


def test_equal_advantages_have_equal_weights() -> None:
    weights = BVMPO().weights(torch.zeros(4), None)
    assert sorted(weights.tolist()) == pytest.approx([0.0, 0.0, 2.0, 2.0])


def test_bvmpos_hold_on_the_behaviour_policy_falls_from_one_to_a_hundred_thousandth() -> None:
    loss = BVMPO()
    assert [loss.anchor(x) for x in (0.0, 0.5, 1.0)] == pytest.approx([1.0, math.sqrt(1e-5), 1e-5])


@MODELS
def test_the_divergence_from_the_behaviour_policy_is_the_exact_sum_over_the_vocabulary(model: str) -> None:
    assert gradients(model, offline("bvmpo"))[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    policy = LMPolicy(getattr(worlds, model)(), BYTES)
    one, texts = improver(policy, offline("bvmpo")), episodes(policy, 2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.2)
    stats = one.update(texts, [np.zeros(len(e)) for e in texts], rate=0.0, step=0, steps=1)
    expected = []
    for e in texts:
        with torch.no_grad():
            new, old = (
                p.distributions([e.prompt_tokens], [e.tokens], one.rule)[1].softmax(-1).double() for p in (policy, one.anchor)
            )
        expected += (old * (old.clamp(min=1e-300).log() - new.clamp(min=1e-300).log())).sum(-1).tolist()
    assert stats["kl"] == pytest.approx(np.mean(expected), rel=1e-3)
    assert stats["kl"] > 1e-3


def test_after_a_grow_step_the_behaviour_policy_is_the_one_that_grew() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    one, texts = improver(policy, offline("bvmpo")), episodes(policy, 2)
    signal = [np.zeros(len(e)) for e in texts]
    for step in range(2):
        one.update(texts, signal, rate=1e-2, step=step, steps=9)
    assert one.update(texts, signal, rate=0.0, step=2, steps=9)["kl"] > 1e-6
    one.grown()
    assert one.update(texts, signal, rate=0.0, step=3, steps=9)["kl"] == pytest.approx(0.0, abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_lower() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    one, texts = improver(policy, "bc"), episodes(policy)
    one.update(texts, None, rate=1e30, step=0, steps=2)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        one.update(texts, None, rate=1e30, step=1, steps=2)
