"""Causal models and encoder–decoders are policies of every task: sampled, trained, held to their reference, evaluated."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests import worlds
from textenv import ENVIRONMENTS
from textenv.agents import BehaviourCloning, LMPolicy, TokenPPO, evaluate, rollout
from textenv.agents.rest.grown import reference_episodes

FAMILIES = {"causal": "textenv/tiny", "encoder-decoder": "textenv/tiny-translation"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:prompt of .* tokens exceeds max_prompt_tokens")  # a task's prompts in the other family's tokens
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_policy_of_either_family_learns_and_is_evaluated_on_every_task(environment: str, family: str) -> None:
    name = FAMILIES[family]
    budget = {"max_prompt_tokens": 96, "max_new_tokens": 8, "min_new_tokens": 1}
    env: Any = gym.make(environment, tokenizer=name, reward="redistributed", **budget)
    agent = TokenPPO(name, env, n_episodes=4, batch_size=2, n_epochs=1, learning_rate=1e-4, seed=0)
    assert bool(agent.policy.model.config.is_encoder_decoder) == (family == "encoder-decoder")
    agent.learn(1)
    assert 4 <= agent.num_timesteps <= 4 * 8
    assert not worlds.same_weights(agent.policy.model, agent.reference.model)
    found = evaluate(agent, env, 1, k=2, reference=name, seed=1)
    assert len(found.episodes) == 2
    assert all(np.isfinite(episode.score) and 1 <= len(episode) <= 8 for episode in found.episodes)
    assert set(env.get_wrapper_attr("task").metrics(found.episodes)) < set(found.metrics)
    assert found.metrics["perplexity"] > 1


@pytest.mark.parametrize(("task", "name"), [("Translation", "textenv/tiny-translation"), ("Summarization", "textenv/tiny")])
def test_a_learner_of_references_sees_the_tokens_that_the_model_writes(task: str, name: str) -> None:
    env, policy = gym.make(f"textenv/{task}-v0", split="test"), LMPolicy(name)
    prompts = env.get_wrapper_attr("task").prompts[:48]
    written = rollout(env, policy, len(prompts), prompts=prompts, deterministic=True)
    grown, _ = reference_episodes(env, policy, prompts)
    cloned = {tuple(target.tolist()) for _, target in BehaviourCloning(policy, prompts).examples}
    learned = {tuple(e.tokens.tolist()) for e in grown}
    right = [e for e in written if e.text.strip() in {reference.strip() for reference in e.prompt.references}]
    assert right
    assert {tuple(e.tokens.tolist()) for e in right} <= learned
    assert learned == cloned
