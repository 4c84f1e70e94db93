"""NLPO: the mask is the smallest set, it is refreshed, and it is the same in sampling and in the update."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger

from tests import worlds
from tests.worlds import EOS, VOCABULARY, Memory, make
from textenv.agents import LMPolicy, TokenPPO, rollout
from textenv.agents.ppo.nlpo import NLPO, MaskedPolicy, top_p_mask

MODELS = {"llama": worlds.llama, "gpt2": worlds.gpt2, "t5": worlds.t5}
HALF = NLPO(top_p=0.5, refresh_every=2)


def environment(**arguments: Any) -> Any:
    return make(**{"max_new_tokens": 6, "scorer": worlds.even_share, "prompts": ["a", "bb", "ccc"], **arguments})


def agent(nlpo: Any = HALF, *, model: Any = None, env: Any = None, **options: Any) -> TokenPPO:
    settings = {"n_episodes": 8, "batch_size": 8, "n_epochs": 1, "learning_rate": 1e-2, **options}
    return TokenPPO(
        worlds.llama() if model is None else model, environment() if env is None else env, seed=0, nlpo=nlpo, **settings
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def parts(episodes: Any) -> tuple[list[Any], list[Any]]:
    return [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]


def unpacked(masks: torch.Tensor) -> np.ndarray[Any, Any]:
    return np.unpackbits(masks.numpy(), axis=1, count=VOCABULARY).astype(bool)


# --- The set -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
def test_the_mask_holds_more_than_p_and_without_its_least_likely_token_no_more(p: float) -> None:
    logits = torch.randn(20, 50, generator=generator(), dtype=torch.float64) * 2
    probabilities, mask = logits.float().softmax(-1), top_p_mask(logits, p)
    held = (probabilities * mask).sum(-1)
    least = probabilities.masked_fill(~mask, 2.0).min(-1).values
    assert (held > p - 1e-6).all()
    assert (held - least <= p + 1e-6).all()


def test_a_floor_lets_so_many_through_and_p_one_lets_all() -> None:
    logits = torch.tensor([[9.0, 0.0, 1.0, 2.0]])
    assert top_p_mask(logits, 0.1, 3).tolist() == [[True, False, True, True]]
    assert top_p_mask(logits, 1.0).all()


# --- Sampling and update -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_masked_token_is_never_sampled(model: str) -> None:
    env, actor = environment(), LMPolicy(MODELS[model]())
    episodes = rollout(env, MaskedPolicy(actor, NLPO(top_p=0.2)), 32, generator())
    rule = env.get_wrapper_attr("action_rule")
    with torch.no_grad():
        _, logits, at = actor.distributions(*parts(episodes), rule)
    mask = top_p_mask(logits, 0.2 + 1e-4)  # the cache rounds otherwise
    mask[:, EOS] = True
    assert mask.gather(1, at.actions[:, None]).all()
    free = rollout(env, actor, 32, generator())
    with torch.no_grad():
        _, logits, at = actor.distributions(*parts(free), rule)
    assert not top_p_mask(logits, 0.2).gather(1, at.actions[:, None]).all()  # without a mask they are


@pytest.mark.parametrize("model", MODELS)
def test_the_masks_that_sampled_are_those_of_the_lagged_policy_read_at_once(model: str) -> None:
    env = environment()
    policy = MaskedPolicy(LMPolicy(MODELS[model]()), HALF)
    prompts, texts = parts(rollout(env, policy, 16, generator()))
    rule = env.get_wrapper_attr("action_rule")
    kept = unpacked(policy.masks(prompts, texts, rule))
    policy.forget()
    assert (kept == unpacked(policy.masks(prompts, texts, rule))).mean() > 0.999  # up to the rounding of a cache


def test_log_probabilities_are_renormalised_over_the_mask() -> None:
    env, actor = environment(), LMPolicy(worlds.llama())
    policy = MaskedPolicy(actor, HALF)
    prompts, texts = parts(rollout(env, policy, 8, generator()))
    rule = env.get_wrapper_attr("action_rule")
    masks = policy.masks(prompts, texts, rule)
    with torch.no_grad():
        now, unmasked = policy.evaluate(prompts, texts, rule, masks=masks, entropy=True)
        _, logits, at = actor.distributions(prompts, texts, rule)
        plain = actor.evaluate(prompts, texts, rule)
    allowed = logits.softmax(-1) * torch.from_numpy(unpacked(masks))
    renormalised = allowed / allowed.sum(-1, keepdim=True)
    assert torch.allclose(now.log_probs.exp(), renormalised.gather(1, at.actions[:, None]).squeeze(1), atol=1e-5)
    assert torch.allclose(unmasked, plain.log_probs, atol=1e-5)
    assert torch.allclose(now.values, plain.values)
    assert now.entropy is not None
    assert torch.allclose(now.entropy, torch.special.entr(renormalised).sum(-1), atol=1e-5)
    assert (now.log_probs >= unmasked - 1e-6).all()


def test_the_update_has_the_very_masks_that_sampled_also_after_a_refresh() -> None:
    one = agent()
    episodes = rollout(one.env, one.sampler, 8, one.generator)
    batch = one.prepare(episodes)
    assert batch.masks is not None
    with torch.no_grad():
        for parameter in one.policy.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    one.sampler.refresh()
    again = one.prepare(episodes)
    assert torch.equal(batch.masks, again.masks)


def test_the_kl_penalty_is_measured_without_the_mask() -> None:
    one = agent(kl_coef=1.0)
    batch = one.prepare(rollout(one.env, one.sampler, 8, one.generator))
    assert not batch.log_ratio.any()
    assert (batch.log_probs > batch.ref_log_probs + 1e-3).any()


def test_the_stop_token_is_always_allowed() -> None:
    model = worlds.llama()
    with torch.no_grad():
        model.lm_head.weight[EOS] = 0
    one = agent(NLPO(top_p=0.01), model=model)
    assert unpacked(one.prepare(rollout(one.env, one.sampler, 4, one.generator)).masks)[:, EOS].all()


def test_a_text_of_others_has_a_probability_under_the_mask() -> None:
    one = agent(NLPO(top_p=0.01))
    env = one.env
    episodes = env.get_wrapper_attr("credit")(
        [env.get_wrapper_attr("episode")(p, [1, 2, EOS]) for p in env.unwrapped.sample_prompts(2)]
    )
    assert torch.isfinite(one.prepare(episodes).log_probs).all()


# --- The lag -----------------------------------------------------------------------------------------------------------


def test_the_mask_is_refreshed_every_so_many_iterations_and_not_before() -> None:
    one = agent(NLPO(top_p=0.5, refresh_every=3))
    changed = []
    for _ in range(6):
        lagged, policy = copy.deepcopy(one.sampler.lagged), copy.deepcopy(one.policy)
        one.learn(1, reset_num_timesteps=False)
        changed.append(not worlds.same_weights(lagged, one.sampler.lagged))
        if changed[-1]:  # before the policy learned from the texts of this iteration
            assert worlds.same_weights(policy, one.sampler.lagged)
    assert changed == [False, False, True, False, False, True]


def test_a_refreshed_mask_is_another_mask() -> None:
    one = agent(NLPO(top_p=0.5, refresh_every=1))
    episodes = rollout(one.env, one.sampler, 8, one.generator)
    old = one.prepare(episodes).masks
    one.learn(100, reset_num_timesteps=False)
    one.sampler.forget()
    assert not torch.equal(old, one.prepare(episodes).masks)


def test_a_mask_that_is_not_to_be_refreshed_stays_the_first_policys() -> None:
    one = agent(NLPO(top_p=0.5, refresh_every=None)).learn(150)
    assert worlds.same_weights(one.sampler.lagged.model, worlds.llama())
    assert not worlds.same_weights(one.policy.model, worlds.llama())


# --- Within PPO --------------------------------------------------------------------------------------------------------


def test_a_mask_that_lets_all_through_is_ppo_bit_for_bit() -> None:
    masked, plain = (agent(nlpo, recompute_log_probs=True).learn(100) for nlpo in (NLPO(top_p=1.0), None))
    assert worlds.same_weights(masked.policy, plain.policy)


def test_under_a_mask_the_first_update_has_ratio_one() -> None:
    memory, one = Memory(), agent(NLPO(top_p=0.3))
    one.set_logger(Logger(None, [memory]))
    one.learn(1)
    assert (memory.rows[0]["val/ratio"], memory.rows[0]["objective/kl"]) == (1.0, 0.0)


def test_a_loaded_agent_goes_on_with_the_same_lag(tmp_path: Path) -> None:
    straight = agent(NLPO(top_p=0.5, refresh_every=3)).learn(1)
    straight.save(tmp_path / "a")
    resumed = TokenPPO.load(tmp_path / "a", environment())
    assert resumed.nlpo == straight.nlpo
    straight.learn(100, reset_num_timesteps=False)
    resumed.learn(100, reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, resumed.policy)
    assert worlds.same_weights(straight.sampler.lagged, resumed.sampler.lagged)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"refresh_every": 0}, "refresh_every must be at least 1, got 0"),
        ({"min_tokens_to_keep": 0}, "min_tokens_to_keep must be at least 1, got 0"),
    ],
)
def test_a_bad_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent(options)
