"""Self-critique: the critic is what the policy began as, and training does not reach it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import peft
import pytest
import torch
import transformers

from tests import worlds
from tests.worlds import constant_scorer, ids, make
from textenv.agents import LMPolicy, TokenPPO
from textenv.critics import LanguageModelCritic
from textenv.critics.loading import embedded_name
from textenv.episode import Prompt
from textenv.reward import NotApplicable
from textenv.wrappers import SelfCritiqueReward

pytestmark = [
    pytest.mark.filterwarnings("ignore:critic .* could not be parsed:RuntimeWarning"),  # random models do not keep to a form
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft 0.21, transformers 5.23
]


def self_critique(policy: Any = None, **options: Any) -> Any:
    arguments = {"policy": policy, **options}
    return make(reward=("self_critique", arguments), payment="end", scorer=constant_scorer(0.5), max_new_tokens=8)


def critic_of(env: Any) -> LanguageModelCritic:
    critic: LanguageModelCritic = env.get_wrapper_attr("critic")
    return critic


def said(env: Any, text: str = "some text") -> Any:
    return critic_of(env).answers([text])


def adapted(model: Any) -> Any:
    """A LoRA on the model whose weights are far from zero."""
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def test_by_default_the_critic_is_the_model_that_the_tokenizer_came_with() -> None:
    env = gym.make("textenv/Detox-v0", reward="self_critique")
    assert critic_of(env).name == "textenv/tiny"
    assert critic_of(env).form.instruction == "", "an embedded model is asked in the bare form"
    assert (env.get_wrapper_attr("threshold"), critic_of(env).max_new_tokens) == (0.9, 40)


def test_a_tokenizer_without_a_model_needs_a_policy() -> None:
    with pytest.raises(NotApplicable, match=r'came with no language model; pass reward=\("self_critique", \{"policy": a name'):
        make(reward="self_critique")


def test_an_encoder_decoder_reads_the_question_and_answers(tmp_path: Path) -> None:
    model = worlds.t5()
    for policy in (model, str(worlds.saved(model, tmp_path))):
        env = self_critique(policy, tokenizer="bytes")
        assert critic_of(env).model.config.is_encoder_decoder
        assert said(env) == said(env)
        assert len(said(env)) == 1


@pytest.mark.parametrize("policy", [5, None.__class__, lambda: None])
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    with pytest.raises(TypeError, match="policy must be a name, a directory, a transformers model, or hold one as"):
        self_critique(policy)


def test_a_directory_is_asked_in_the_tasks_own_form_and_shared(llama_directory: Path) -> None:
    envs = [self_critique(str(llama_directory), max_new_tokens=7, threshold=None) for _ in range(2)]
    assert critic_of(envs[0]).model is critic_of(envs[1]).model
    assert (critic_of(envs[0]).max_new_tokens, envs[0].get_wrapper_attr("threshold")) == (7, None)


def test_a_policy_object_is_copied_now_and_its_training_does_not_reach_the_critic() -> None:  # relc §7, 15
    policy = LMPolicy(worlds.llama(max_position_embeddings=256), "bytes")
    env = self_critique(policy)
    before, answer = copy.deepcopy(critic_of(env).model), said(env)
    TokenPPO(policy, env, n_episodes=4, learning_rate=1e-2, seed=0).learn(4 * 8)
    assert not worlds.same_weights(policy.model, before), "the policy has learned"
    assert worlds.same_weights(critic_of(env).model, before)
    assert all(not p.requires_grad and p.grad is None for p in critic_of(env).model.parameters())
    assert said(env) == answer


def test_the_adapter_of_a_policy_does_not_influence_the_critic() -> None:  # relc §7, 15
    base = worlds.llama(max_position_embeddings=256)
    policy = adapted(copy.deepcopy(base))
    with torch.no_grad():
        token = torch.tensor([[1, 2, 3]])
        assert not torch.allclose(policy(token).logits, base(token).logits), "the adapter does something"
    env = self_critique(policy, tokenizer="bytes")
    assert worlds.same_weights(critic_of(env).model, base)
    assert said(env) == said(self_critique(base, tokenizer="bytes"))
    assert isinstance(policy, peft.PeftModel), "the policy itself keeps its adapter"
    with torch.no_grad():
        assert not torch.allclose(policy(token).logits, base(token).logits)


def test_the_moving_policy_is_asked_as_it_is_at_the_moment_adapter_and_all() -> None:  # relc §8, C10
    policy = LMPolicy(worlds.llama(max_position_embeddings=256), "bytes", lora=4, device="cpu")
    env = self_critique(policy, moving=True)
    assert critic_of(env).model is policy.model
    before = said(env)
    assert before == said(self_critique(policy)), "an adapter that has not learned changes nothing"
    TokenPPO(policy, env, n_episodes=4, learning_rate=1e-1, seed=0).learn(4 * 8)
    merged, tokenizer = copy.deepcopy(policy.model), policy.tokenizer
    fresh = self_critique(LMPolicy(worlds.llama(max_position_embeddings=256), "bytes", device="cpu"))
    assert said(env) != before
    assert said(fresh) == before, "the frozen critic is what the policy began as"
    assert said(env) == said(self_critique(merged, tokenizer=tokenizer, moving=True))
    assert any(p.requires_grad for p in policy.model.parameters()), "it goes on learning"


@pytest.mark.parametrize("policy", [None, "textenv/tiny"])
def test_a_moving_policy_must_be_the_policy_itself(policy: Any) -> None:
    with pytest.raises(ValueError, match="moving=True asks the policy that is being trained: pass it as policy="):
        self_critique(policy, moving=True)


def test_an_adapter_put_in_by_transformers_is_switched_off_too() -> None:
    base = worlds.llama(max_position_embeddings=256)
    policy = copy.deepcopy(base)
    policy.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    env = self_critique(policy, tokenizer="bytes")
    token = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(critic_of(env).model(token).logits, base(token).logits)
        assert not torch.allclose(policy(token).logits, base(token).logits)


def test_the_directory_of_an_adapter_leads_to_the_model_it_was_trained_on(llama_directory: Path, tmp_path: Path) -> None:
    model = adapted(transformers.LlamaForCausalLM.from_pretrained(llama_directory))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(llama_directory)
    assert critic_of(self_critique(str(tmp_path))).name == str(llama_directory)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not say which model the adapter belongs to"):
        self_critique(str(tmp_path))


@pytest.mark.parametrize(("threshold", "asked"), [(0.5, 1.0), (0.49, 0.0)])
def test_only_texts_up_to_the_threshold_are_shown(llama_directory: Path, threshold: float, asked: float) -> None:
    env = self_critique(str(llama_directory), threshold=threshold)
    env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(Prompt("p"), ids("some", end=True))])
    assert env.get_wrapper_attr("credit_metrics")()["credit/critic_texts"] == asked


def test_it_takes_no_other_critic() -> None:
    with pytest.raises(ValueError, match="asks no critic"):
        gym.make("textenv/Detox-v0", reward="self_critique", critic="textenv/tiny-critic-insults")


def test_a_model_that_answers_in_form_has_its_spans_paid() -> None:
    model, tokenizer = worlds.parrot(" bad")
    env = make(
        payment="end", scorer=constant_scorer(0.5), max_new_tokens=8,
        reward=lambda env: SelfCritiqueReward(env, policy=model, tokenizer=tokenizer, negative=-0.5, positive=0.5),
    )  # fmt: skip
    (episode,) = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(Prompt("p"), ids("a bad a", end=True))])
    assert np.flatnonzero(episode.rewards[:-1]).tolist() == [2, 3, 4]


def test_the_name_of_an_embedded_model_is_found_from_its_directory() -> None:
    from textenv import embedded

    assert embedded_name(str(embedded.path("textenv/tiny"))) == "textenv/tiny"
    assert embedded_name("textenv/tiny") == "textenv/tiny"
    assert embedded_name("gpt2") is None
    assert embedded_name("") is None
