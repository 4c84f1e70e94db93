"""The objective against Stable-Baselines3's own `PPO.train`, on the same tensors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from tests.worlds import make
from textenv.agents.ppo.loss import ppo_loss

CASES = [
    {},
    {"ent_coef": 0.05},
    {"clip_range": 0.02},
    {"clip_range_vf": 0.05},
    {"vf_coef": 1.5, "ent_coef": 0.01, "clip_range_vf": 0.1, "clip_range": 0.1},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_update_of_stable_baselines_is_one_step_on_our_loss(case: dict[str, Any]) -> None:
    theirs = PPO(
        "MlpPolicy", make(max_new_tokens=4, reward="critic_span"), n_steps=64, batch_size=64, n_epochs=1, learning_rate=0.1,
        normalize_advantage=False, max_grad_norm=1e9, seed=0, device="cpu", **case,
        policy_kwargs={"net_arch": [8], "optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}},
    )  # fmt: skip
    theirs.set_logger(Logger(None, []))
    _, callback = theirs._setup_learn(64)
    theirs.collect_rollouts(theirs.env, callback, theirs.rollout_buffer, n_rollout_steps=64)
    # Old probabilities and values that are not the present ones, so that both clips bite.
    noise = np.random.default_rng(0)
    theirs.rollout_buffer.log_probs += noise.normal(0, 0.1, theirs.rollout_buffer.log_probs.shape).astype(np.float32)
    theirs.rollout_buffer.values += noise.normal(0, 0.1, theirs.rollout_buffer.values.shape).astype(np.float32)
    ours = copy.deepcopy(theirs.policy)
    (batch,) = theirs.rollout_buffer.get(64)

    theirs.train()

    values, log_probs, entropy = ours.evaluate_actions(batch.observations, batch.actions.long().flatten())
    settings = {"clip_range": 0.2, "vf_coef": 0.5, "ent_coef": 0.0, **case}
    loss, stats = ppo_loss(
        log_probs=log_probs, old_log_probs=batch.old_log_prob, advantages=batch.advantages, values=values.flatten(),
        old_values=batch.old_values, returns=batch.returns, entropy=entropy, **settings,
    )  # fmt: skip
    loss.backward()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter -= 0.1 * parameter.grad
    for (name, a), b in zip(ours.named_parameters(), theirs.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    logged = theirs.logger.name_to_value
    for name in ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction"):
        assert stats[name].item() == pytest.approx(logged[f"train/{name}"], abs=1e-5), name
    assert loss.item() == pytest.approx(logged["train/loss"], abs=1e-5)


def arguments(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = ("log_probs", "old_log_probs", "advantages", "values", "old_values", "returns")
    return {name: torch.randn(n, generator=generator) for name in names}


def test_parts_of_a_minibatch_add_up_to_the_whole() -> None:
    whole = arguments(10)
    loss, stats = ppo_loss(**whole, clip_range_vf=0.2)
    parts = [ppo_loss(**{k: v[at : at + 3] for k, v in whole.items()}, clip_range_vf=0.2, tokens=10) for at in range(0, 10, 3)]
    assert sum(part.item() for part, _ in parts) == pytest.approx(loss.item(), rel=1e-5)
    for name, value in stats.items():
        assert sum(part[name].item() for _, part in parts) == pytest.approx(value.item(), rel=1e-5, abs=1e-6)


def test_equal_policies_have_ratio_one_and_no_divergence() -> None:
    same = arguments(5)
    same["old_log_probs"] = same["log_probs"]
    _, stats = ppo_loss(**same)
    assert (stats["ratio"], stats["approx_kl"], stats["clip_fraction"]) == (1.0, 0.0, 0.0)


def test_a_gain_beyond_the_clip_has_no_gradient_and_a_loss_has() -> None:
    log_probs = torch.tensor([1.0, -1.0, 1.0, -1.0], requires_grad=True)  # ratios e and 1/e
    zero = torch.zeros(4)
    loss, _ = ppo_loss(log_probs=log_probs, old_log_probs=zero, advantages=torch.tensor([1.0, 1.0, -1.0, -1.0]), values=zero,
                       old_values=zero, returns=zero)  # fmt: skip
    loss.backward()
    assert (log_probs.grad != 0).tolist() == [False, True, True, False]


def test_without_entropy_its_bonus_is_left_out_and_estimated_for_the_log() -> None:
    given = arguments(5)
    with_bonus, stats = ppo_loss(**given, ent_coef=1.0)
    assert with_bonus.item() == ppo_loss(**given, ent_coef=0.0)[0].item()
    assert stats["entropy_loss"].item() == pytest.approx(given["log_probs"].mean().item())


def test_with_clip_higher_a_gain_is_clipped_above_and_a_loss_below() -> None:
    """The gradient vanishes above 1 + 0.28 where A > 0, and below 1 − 0.2 where A < 0, and nowhere else."""
    ratios = torch.tensor([1.25, 1.3, 0.7, 0.75, 0.85, 1.25])
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    log_probs = ratios.log().requires_grad_()
    loss, stats = ppo_loss(log_probs=log_probs, old_log_probs=torch.zeros(6), advantages=advantages, clip_range_high=0.28)
    loss.backward()
    assert (log_probs.grad != 0).tolist() == [True, False, True, False, True, True]
    assert [stats[name].item() for name in ("clip_low", "clip_high", "clip_fraction")] == pytest.approx([2 / 6, 1 / 6, 3 / 6])


def test_without_values_there_is_no_value_loss() -> None:
    whole = arguments(5)
    policy = {name: whole[name] for name in ("log_probs", "old_log_probs", "advantages")}
    loss, stats = ppo_loss(**policy)
    assert stats["value_loss"] == 0
    assert loss.item() == ppo_loss(**whole, vf_coef=0.0)[0].item()


@pytest.mark.parametrize(("left_out", "clip"), [("returns", None), ("old_values", 0.2)])
def test_a_value_without_its_target_is_refused(left_out: str, clip: float | None) -> None:
    with pytest.raises(ValueError, match=f"pass {left_out}="):
        ppo_loss(**{k: v for k, v in arguments(5).items() if k != left_out}, clip_range_vf=clip)
