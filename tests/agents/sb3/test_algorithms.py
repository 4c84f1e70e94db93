"""Stable-Baselines3's and sb3-contrib's algorithms, unmodified, train on the environments; their losses are ours."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from tests import worlds
from tests.worlds import EOS, VOCABULARY, make
from textenv.agents import TokenRewards
from textenv.agents.ppo.loss import ppo_loss
from textenv.agents.sb3.actor_critic import (
    LanguageModelActorCritic,
    MaskableLanguageModelActorCritic,
    RecurrentLanguageModelActorCritic,
)
from textenv.agents.sb3.vocabulary import PackedMaskBuffer, VecTopKActions

SHORT: dict[Any, dict[str, Any]] = {
    PPO: {"n_steps": 8, "batch_size": 16, "n_epochs": 2},
    A2C: {"n_steps": 8},
    MaskablePPO: {"n_steps": 8, "batch_size": 16, "n_epochs": 2},
    RecurrentPPO: {"n_steps": 8, "batch_size": 16, "n_epochs": 2},
}
MODELS = {
    PPO: LanguageModelActorCritic,
    A2C: LanguageModelActorCritic,
    MaskablePPO: MaskableLanguageModelActorCritic,
    RecurrentPPO: RecurrentLanguageModelActorCritic,
}


def random_llama() -> Any:
    return worlds.llama(initializer_range=0.02)


def world(**options: Any) -> gym.Env[Any, Any]:
    arguments = {"reward": "critic_span", "payment": "end", "prompts": ["p", "longer"], "scorer": worlds.even_share}
    return make(**{**arguments, "max_new_tokens": 6, **options})


def agent(algorithm: Any, policy: Any = None, envs: Any = None, **options: Any) -> Any:
    envs = make_vec_env(world, 2, seed=0) if envs is None else envs
    if policy is None:
        policy, options = MODELS[algorithm], {"policy_kwargs": {"model": random_llama}, **options}
    return algorithm(policy, envs, **{**SHORT[algorithm], "seed": 0, "device": "cpu", **options})


def moved(one: Any, steps: int = 48) -> bool:
    before = {name: value.clone() for name, value in one.policy.state_dict().items()}
    one.learn(steps, callback=TokenRewards())
    return any(not torch.equal(before[name], value) for name, value in one.policy.state_dict().items())


# --- They train ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SHORT)
def test_it_trains_a_language_model(algorithm: Any) -> None:
    assert moved(agent(algorithm))


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(PPO, "MlpPolicy"), (A2C, "MlpPolicy"), (MaskablePPO, "MlpPolicy"), (RecurrentPPO, "MlpLstmPolicy")],
)
def test_it_trains_a_plain_policy(algorithm: Any, policy: str) -> None:
    assert moved(agent(algorithm, policy))


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO])
@pytest.mark.parametrize("plain", [False, True])
def test_it_trains_on_offered_tokens(algorithm: Any, plain: bool) -> None:
    envs = VecTopKActions(make_vec_env(world, 2, seed=0), 8, worlds.llama())
    assert moved(agent(algorithm, "MlpPolicy" if plain else None, envs))


def test_it_makes_the_environment_by_its_id() -> None:
    assert make_vec_env("textenv/CountLetter-v0", 2).action_space.n == VOCABULARY
    assert PPO("MlpPolicy", "textenv/CountLetter-v0", n_steps=8, batch_size=8, device="cpu").action_space.n == VOCABULARY


def test_two_seeded_runs_are_equal() -> None:
    one, other = (agent(PPO).learn(32) for _ in range(2))
    assert worlds.same_weights(one.policy, other.policy)


def test_masks_keep_every_text_as_long_as_it_must_be() -> None:
    envs = make_vec_env(lambda: world(min_new_tokens=3), 4, seed=0)
    one, lengths = agent(MaskablePPO, envs=envs, policy_kwargs={"model": lambda: likes([EOS], 20.0)}), list[int]()

    def note(local: Any, _: Any) -> bool:
        lengths.extend(len(info["text_episode"]) for info in local["infos"] if "text_episode" in info)
        return True

    one.learn(32, callback=note)
    assert set(lengths) == {4}  # three tokens, and the end as soon as it may


# --- They solve the smallest world -----------------------------------------------------------------------------------------


def solved(one: Any, total: int, part: int) -> bool:
    """Whether the last texts hold the letter alone, after `total` tokens at most."""
    scores: list[float] = []
    while one.num_timesteps < total and (len(scores) < 20 or np.mean(scores[-20:]) < 0.95):
        one.learn(part, callback=TokenRewards(), reset_num_timesteps=False)
        scores = [entry["r"] / 2 for entry in one.ep_info_buffer]  # the score, and as much from the critic
    return float(np.mean(scores[-20:])) >= 0.95


def smallest(n: int = 8, **options: Any) -> Any:
    arguments = {"reward": "critic_span", "payment": "end", "max_new_tokens": 8, **options}
    return make_vec_env(lambda: make(**arguments), n, seed=0)


LONG: dict[str, Any] = {"n_steps": 32, "batch_size": 64, "n_epochs": 4, "learning_rate": 1e-2, "gamma": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO, RecurrentPPO])
def test_a_language_model_solves_the_smallest_world(algorithm: Any) -> None:
    assert solved(agent(algorithm, envs=smallest(), **LONG), 12_000, 1024)


@pytest.mark.slow
def test_a_language_model_solves_the_smallest_world_with_a2c() -> None:
    options = {"n_steps": 16, "learning_rate": 1e-2, "gamma": 1.0, "gae_lambda": 0.95, "use_rms_prop": False}
    assert solved(agent(A2C, envs=smallest(), normalize_advantage=True, **options), 24_000, 2048)


@pytest.mark.slow
def test_a_plain_policy_solves_the_smallest_world_among_offered_tokens() -> None:
    envs = VecTopKActions(smallest(), 16, likes(b"zyxwvutsrqponma"))
    assert solved(agent(MaskablePPO, "MlpPolicy", envs, **{**LONG, "learning_rate": 3e-3}), 24_000, 2048)


def likes(ids: Sequence[int], weight: float = 1.0) -> Any:
    """A model that finds these ids likeliest, in this order, whatever was said."""
    model = worlds.gpt2(tie_word_embeddings=False)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1 / 32)
        model.lm_head.weight.zero_()
        for rank, token in enumerate(ids):
            model.lm_head.weight[token] = weight * (1.0 - 0.01 * rank)
    return model


# --- Losses ----------------------------------------------------------------------------------------------------------------


def collected(algorithm: Any, **options: Any) -> Any:
    """An agent with a full buffer; plain gradient steps of size 0.1."""
    plain = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}
    one = agent(
        algorithm, envs=make_vec_env(lambda: world(min_new_tokens=2), 2, seed=0), n_steps=16, learning_rate=0.1, max_grad_norm=1e9,
        policy_kwargs={"model": random_llama, **plain}, **options,
    )  # fmt: skip
    one.set_logger(Logger(None, []))
    _, callback = one._setup_learn(32)
    one.collect_rollouts(one.env, callback, one.rollout_buffer, n_rollout_steps=16)
    return one


def step(policy: Any, loss: torch.Tensor) -> None:
    loss.backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad


def assert_same(ours: Any, theirs: Any) -> None:
    for (name, a), b in zip(ours.named_parameters(), theirs.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


def noisy(buffer: Any) -> None:
    """Old probabilities and values that are not the present ones, so that both clips bite."""
    noise = np.random.default_rng(0)
    buffer.log_probs += noise.normal(0, 0.1, buffer.log_probs.shape).astype(np.float32)
    buffer.values += noise.normal(0, 0.1, buffer.values.shape).astype(np.float32)


@pytest.mark.parametrize("case", [{}, {"vf_coef": 1.5, "ent_coef": 0.01, "clip_range_vf": 0.1, "clip_range": 0.1}], ids=str)
@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO])
def test_one_update_of_a_language_model_is_one_step_on_our_loss(algorithm: Any, case: dict[str, Any]) -> None:
    theirs = collected(algorithm, batch_size=32, n_epochs=1, normalize_advantage=False, **case)
    noisy(theirs.rollout_buffer)
    ours = copy.deepcopy(theirs.policy)
    (batch,) = theirs.rollout_buffer.get(32)

    theirs.train()

    masks = {"action_masks": batch.action_masks} if algorithm is MaskablePPO else {}
    values, log_probs, entropy = ours.evaluate_actions(batch.observations, batch.actions.long().flatten(), **masks)
    settings = {"clip_range": 0.2, "vf_coef": 0.5, "ent_coef": 0.0, **case}
    loss, stats = ppo_loss(
        log_probs=log_probs, old_log_probs=batch.old_log_prob, advantages=batch.advantages, values=values.flatten(),
        old_values=batch.old_values, returns=batch.returns, entropy=entropy, **settings,
    )  # fmt: skip
    step(ours, loss)
    assert_same(ours, theirs)
    logged = theirs.logger.name_to_value
    for name in ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "loss"):
        assert {**stats, "loss": loss}[name].item() == pytest.approx(logged[f"train/{name}"], abs=1e-5), name


@pytest.mark.parametrize("case", [{}, {"vf_coef": 1.5, "ent_coef": 0.01}], ids=str)
def test_one_update_of_a2c_is_one_step_on_our_loss_at_ratio_one(case: dict[str, Any]) -> None:
    """∇ρ = ∇log π where the old policy is the present one: A2C is PPO's first step."""
    theirs = collected(A2C, use_rms_prop=False, **case)
    ours = copy.deepcopy(theirs.policy)
    (batch,) = theirs.rollout_buffer.get(None)

    theirs.train()

    values, log_probs, entropy = ours.evaluate_actions(batch.observations, batch.actions.long().flatten())
    loss, stats = ppo_loss(
        log_probs=log_probs, old_log_probs=log_probs.detach(), advantages=batch.advantages, values=values.flatten(),
        old_values=batch.old_values, returns=batch.returns, entropy=entropy, **{"vf_coef": 0.5, "ent_coef": 0.0, **case},
    )  # fmt: skip
    step(ours, loss)
    assert_same(ours, theirs)
    logged = theirs.logger.name_to_value
    assert stats["value_loss"].item() == pytest.approx(logged["train/value_loss"], abs=1e-5)
    assert stats["entropy_loss"].item() == pytest.approx(logged["train/entropy_loss"], abs=1e-5)
    expected = -(batch.advantages * log_probs.detach()).mean().item()
    assert logged["train/policy_loss"] == pytest.approx(expected, abs=1e-5)


# --- Masks in memory ---------------------------------------------------------------------------------------------------------


def test_packed_masks_are_the_same_masks_in_a_thirty_second_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    space, actions = gym.spaces.Box(-1, VOCABULARY - 1, (5,), np.int64), gym.spaces.Discrete(VOCABULARY)
    packed, plain = (kind(6, space, actions, "cpu", n_envs=2) for kind in (PackedMaskBuffer, MaskableRolloutBuffer))
    random = np.random.default_rng(0)
    for t in range(6):
        masks = random.random((2, VOCABULARY)) < 0.5
        rest = (np.zeros((2, 5)), np.zeros((2, 1)), np.zeros(2), np.zeros(2), torch.full((2,), float(t)), torch.zeros(2))
        for buffer in (packed, plain):
            buffer.add(*rest, action_masks=masks if t != 3 else None)  # None: all are allowed
    assert packed.action_masks.nbytes < plain.action_masks.nbytes / 31
    batches = []
    for buffer in (packed, plain):
        monkeypatch.setattr(np.random, "permutation", lambda n: np.random.default_rng(0).permutation(n))  # SB3's shuffle
        batches.append([*buffer.get(5), *buffer.get(12)])
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.action_masks, b.action_masks.bool())
        assert torch.equal(a.old_values, b.old_values)


def test_packed_masks_train_the_same_policy() -> None:
    envs = [make_vec_env(lambda: world(min_new_tokens=2), 2, seed=0) for _ in range(2)]
    one = agent(MaskablePPO, envs=envs[0], rollout_buffer_class=PackedMaskBuffer).learn(32)
    other = agent(MaskablePPO, envs=envs[1]).learn(32)
    assert worlds.same_weights(one.policy, other.policy)


def test_packed_masks_of_other_actions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"PackedMaskBuffer holds masks of Discrete actions, not of MultiBinary\(3\)"):
        PackedMaskBuffer(2, gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiBinary(3), "cpu")
