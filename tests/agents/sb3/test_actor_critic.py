"""A language model behind Stable-Baselines3's calls: its numbers, its memory, its files."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib.common.maskable.distributions import MaskableCategorical
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from torch import nn
from torch.distributions import Categorical

from tests import worlds
from tests.worlds import EOS, VOCABULARY, make
from textenv.actions import TopKActions
from textenv.agents import TokenPPO, evaluate
from textenv.agents.sb3.actor_critic import (
    LanguageModelActorCritic,
    MaskableLanguageModelActorCritic,
    RecurrentLanguageModelActorCritic,
)

PROMPTS = ["p", "a longer one", "mid "]
BUDGET = 5


def world(**options: Any) -> gym.Env[Any, Any]:
    return make(**{"prompts": PROMPTS, "max_new_tokens": BUDGET, **options})


def policy(model: Any = worlds.llama, env: Any = None, kind: Any = LanguageModelActorCritic, **options: Any) -> Any:
    env = world() if env is None else env
    out = kind(env.observation_space, env.action_space, lambda _: 1e-3, model=model, **options)
    with worlds.seeded(), torch.no_grad():
        out.lm.value_head.weight.normal_()
    out.set_training_mode(False)
    return out


def twin(one: Any, **options: Any) -> Any:
    """The same numbers, other settings."""
    other = policy(**options)
    other.load_state_dict(one.state_dict())
    return other


def states(n: int = 30, seed: int = 0) -> list[torch.Tensor]:
    """What SB3 sees of four environments with prompts of unequal lengths; texts end, and others begin, at unequal times."""
    envs, random = make_vec_env(world, 4, seed=seed), np.random.default_rng(seed)
    out, ended = [envs.reset()], np.zeros(4)
    for _ in range(n):
        actions = np.where(random.random(4) < 0.2, EOS, random.integers(VOCABULARY, size=4))
        observations, _, dones, _ = envs.step(actions)
        ended += dones
        out.append(observations)
    assert len(set(ended)) > 1
    return [torch.from_numpy(rows) for rows in out]


# --- Numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [worlds.llama, worlds.gpt2, worlds.gemma2])
def test_with_and_without_the_cache_the_numbers_are_the_same(model: Any) -> None:
    kept = policy(model)
    whole = twin(kept, model=model, cache=False)
    read = 0
    with torch.no_grad():
        for observations in states():
            (logits, values), (other, plain) = kept.look(observations), whole.look(observations)
            assert torch.allclose(logits, other, atol=1e-5)
            assert torch.allclose(values, plain, atol=1e-5)
            assert torch.allclose(kept.predict_values(observations), plain, atol=1e-5)
            read += int((observations >= 0).sum())
    assert kept._memory.tokens_read < read / 2
    assert whole._memory.tokens_read == 0


def test_a_seeded_collection_is_the_same_with_and_without_the_cache() -> None:
    def collected(cache: bool) -> Any:
        envs = make_vec_env(world, 3, seed=0)
        options = {"model": worlds.llama, "cache": cache}
        agent = PPO(LanguageModelActorCritic, envs, n_steps=16, batch_size=48, policy_kwargs=options, seed=0, device="cpu")
        return filled(agent)

    kept, whole = collected(True), collected(False)
    assert np.array_equal(kept.observations, whole.observations)
    assert np.array_equal(kept.actions, whole.actions)
    assert np.allclose(kept.log_probs, whole.log_probs, atol=1e-5)
    assert np.allclose(kept.values, whole.values, atol=1e-5)


def filled(agent: Any) -> Any:
    """The agent's buffer after one collection."""
    agent.set_logger(Logger(None, []))
    _, callback = agent._setup_learn(1)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent.rollout_buffer


def texts(n: int = 4) -> tuple[list[Any], list[Any]]:
    random = np.random.default_rng(0)
    prompts = [np.array(worlds.ids(PROMPTS[i % 3]), np.int64) for i in range(n)]
    return prompts, [random.integers(VOCABULARY - 3, size=random.integers(1, BUDGET + 1)) for _ in range(n)]


def as_states(prompts: list[Any], tokens: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The observation before each token, and the token."""
    rows, actions = [], []
    for prompt, text in zip(prompts, tokens, strict=True):
        for t, token in enumerate(text):
            row = np.full(16 + BUDGET, -1)
            row[16 - len(prompt) : 16], row[16 : 16 + t] = prompt, text[:t]
            rows.append(row)
            actions.append(token)
    return torch.from_numpy(np.array(rows)), torch.tensor(actions)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_its_numbers_are_those_of_this_librarys_policy(temperature: float) -> None:
    one = policy(temperature=temperature)
    prompts, tokens = texts()
    observations, actions = as_states(prompts, tokens)
    values, log_probs, entropy = one.evaluate_actions(observations.float(), actions)  # SB3's buffers give float32
    rule = world().get_wrapper_attr("action_rule")
    ours = one.evaluate(prompts, tokens, rule, entropy=True)
    assert torch.allclose(log_probs, ours.log_probs, atol=1e-5)
    assert torch.allclose(values.squeeze(1), ours.values, atol=1e-5)
    assert torch.allclose(entropy, ours.entropy, atol=1e-5)


def test_its_distribution_is_stable_baselines_own() -> None:
    one = policy()
    observations, actions = as_states(*texts())
    _, log_probs, entropy = one.evaluate_actions(observations, actions)
    theirs = one.get_distribution(observations)
    assert isinstance(theirs.distribution, Categorical)
    assert torch.allclose(theirs.log_prob(actions), log_probs, atol=1e-5)
    assert torch.allclose(theirs.entropy(), entropy, atol=1e-5)


def test_its_masked_distribution_is_sb3_contribs_own() -> None:
    one = policy(kind=MaskableLanguageModelActorCritic)
    observations, actions = as_states(*texts())
    masks = np.random.default_rng(0).random((len(actions), VOCABULARY)) < 0.5
    masks[np.arange(len(actions)), actions] = True
    _, log_probs, entropy = one.evaluate_actions(observations, actions, torch.from_numpy(masks).float())
    theirs = one.get_distribution(observations, masks)
    assert isinstance(theirs.distribution, MaskableCategorical)
    assert torch.allclose(theirs.log_prob(actions), log_probs, atol=1e-5)
    assert torch.allclose(theirs.entropy(), entropy, atol=1e-5)
    entropy.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in one.lm.model.parameters() if parameter.grad is not None)


def test_tokens_are_sampled_as_often_as_the_distribution_says() -> None:
    env = world(tokenizer=worlds.tokenizers()["bytes"])
    one = policy(lambda: worlds.llama(initializer_range=0.5), env)
    row = torch.from_numpy(env.reset(seed=0)[0])[None]
    with torch.no_grad():
        probabilities = one.look(row)[0].softmax(-1)[0]
        drawn = torch.cat([one(row.expand(2000, -1))[0] for _ in range(2)])
    shares = torch.bincount(drawn, minlength=VOCABULARY) / len(drawn)
    assert (shares - probabilities).abs().sum() < 0.3
    assert (shares - probabilities).abs().max() < 0.03


def test_what_is_masked_is_never_said() -> None:
    env = world(min_new_tokens=BUDGET)
    one = policy(env=env, kind=MaskableLanguageModelActorCritic)
    row = torch.from_numpy(env.reset(seed=0)[0])[None].expand(50, -1)
    masks = np.zeros((50, VOCABULARY), bool)
    masks[:, [7, 9]] = True
    with torch.no_grad():
        actions, _, log_probs = one(row, action_masks=masks)
    assert set(actions.tolist()) == {7, 9}
    assert torch.isfinite(log_probs).all()


def test_a_state_in_which_nothing_is_allowed_is_refused() -> None:
    one = policy(kind=MaskableLanguageModelActorCritic)
    with pytest.raises(ValueError, match="allow no action in a state"):
        one.look(states(1)[0], np.zeros((4, VOCABULARY), bool))


def test_ids_that_the_tokenizer_does_not_have_are_never_said() -> None:
    one = policy(lambda: worlds.llama(VOCABULARY + 40))
    assert one.look(states(1)[0])[0].shape == (4, VOCABULARY)


def test_among_offered_tokens_it_chooses_as_likely_as_it_finds_them() -> None:
    env = TopKActions(world(), 6, worlds.gpt2())
    one = policy(env=env)
    observation, _ = env.reset(seed=0)
    logits, values = one.look(torch.from_numpy(observation)[None])
    full, same = policy().look(torch.from_numpy(observation[:-6])[None])
    assert torch.allclose(logits[0], full[0, env.candidates], atol=1e-5)
    assert torch.allclose(values, same, atol=1e-5)


def test_deterministic_is_the_likeliest_token() -> None:
    one = policy()
    observation = world().reset(seed=0)[0]
    action, state = one.predict(observation, deterministic=True)
    assert state is None
    assert int(action) == int(one.look(torch.from_numpy(observation)[None])[0].argmax())


def test_the_steps_of_one_text_are_read_as_one_text() -> None:
    one = policy()
    prompts, tokens = texts()
    seen: list[int] = []
    one.lm.model.register_forward_pre_hook(lambda _, __, inputs: seen.append(len(inputs["input_ids"])), with_kwargs=True)
    observations, actions = as_states(prompts, tokens)
    one.evaluate_actions(observations, actions)
    assert max(seen) == len(prompts) < len(actions)  # a head is a call of one row


def test_the_padding_of_a_recurrent_minibatch_is_not_read_as_text() -> None:
    one = policy(kind=RecurrentLanguageModelActorCritic)
    widths: list[int] = []
    one.lm.model.register_forward_pre_hook(lambda _, __, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True)
    one.evaluate_actions(torch.zeros(3, 16 + BUDGET), torch.zeros(3), None, torch.zeros(3))
    assert set(widths) == {1}


# --- While it learns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_what_was_remembered_does_not_outlive_the_weights(fused: bool) -> None:
    one = policy(optimizer_class=torch.optim.Adam, optimizer_kwargs={"fused": fused})
    first, second, *_ = states(2)
    with torch.no_grad():
        one.look(first)
    one.set_training_mode(True)
    one.optimizer.param_groups[0]["lr"] = 0.1
    one.evaluate_actions(first, torch.zeros(4))[1].sum().backward()
    one.optimizer.step()
    one.set_training_mode(False)
    with torch.no_grad():
        assert torch.allclose(one.look(second)[0], twin(one, cache=False).look(second)[0], atol=1e-5)


def test_the_ratio_of_the_first_update_is_one() -> None:
    envs = make_vec_env(world, 2, seed=0)
    options = {"model": worlds.gpt2}
    agent = PPO(LanguageModelActorCritic, envs, n_steps=16, batch_size=32, policy_kwargs=options, device="cpu", seed=0)
    (batch,) = filled(agent).get(32)
    agent.policy.set_training_mode(True)  # a GPT-2 has dropout
    values, log_probs, _ = agent.policy.evaluate_actions(batch.observations, batch.actions.flatten())
    assert torch.allclose(log_probs, batch.old_log_prob, atol=1e-5)
    assert torch.allclose(values.flatten(), batch.old_values, atol=1e-5)


def test_a_trained_agents_policy_is_evaluated_in_batches_like_any_other() -> None:
    agent = PPO(LanguageModelActorCritic, world(), policy_kwargs={"model": worlds.llama}, device="cpu")
    ours = [episode.tokens.tolist() for episode in evaluate(agent.policy, world(), 2, k=2).episodes]
    expected = [episode.tokens.tolist() for episode in evaluate(agent.policy.lm, world(), 2, k=2).episodes]
    assert ours == expected
    assert len(ours) == 4


def test_among_offered_tokens_it_is_evaluated_step_by_step() -> None:
    one = policy(env=TopKActions(world(), 6, worlds.llama()))
    with pytest.raises(ValueError, match=r"chooses among 6 tokens .* evaluate it step by step"):
        one.generate([np.array([5])], world().get_wrapper_attr("action_rule"), None)


# --- Bad input -----------------------------------------------------------------------------------------------------------


def test_a_model_object_is_refused_since_checkpoints_would_hold_it_twice() -> None:
    with pytest.raises(TypeError, match=r"model=LlamaForCausalLM\(\.\.\.\) would be pickled into every checkpoint .* a directory"):
        policy(worlds.llama())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (worlds.t5, "is an encoder–decoder; LanguageModelActorCritic acts with a causal model"),
        (lambda: worlds.llama(100), f"the model knows 100 ids, the environment's tokenizer {VOCABULARY}"),
        (lambda: worlds.llama(max_position_embeddings=20), "the model has 20: lower max_prompt_tokens or max_new_tokens"),
    ],
)
def test_a_model_that_cannot_act_here_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(model)


def test_actions_that_nobody_names_are_refused() -> None:
    with pytest.raises(ValueError, match=f"6 actions for {VOCABULARY} ids, and the observation names 0 of them: TopKActions"):
        policy(env=TopKActions(world(), 6, worlds.llama(), observe=False))


def test_another_kind_of_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="a language model acts in text environments"):
        policy(env=gym.make("CartPole-v1"))


# --- Files ---------------------------------------------------------------------------------------------------------------


def agent_of(source: Any, **options: Any) -> Any:
    settings = {"n_steps": 4, "batch_size": 8, "n_epochs": 1, "device": "cpu", "seed": 0, **options}
    return PPO(LanguageModelActorCritic, make_vec_env(world, 2, seed=0), policy_kwargs={"model": str(source)}, **settings)


def test_a_checkpoint_holds_the_weights_once(llama_directory: Path, tmp_path: Path) -> None:
    agent = agent_of(llama_directory)
    agent.save(tmp_path / "agent.zip")
    weights = sum(p.numel() * 4 for p in agent.policy.parameters())
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert sizes["data"] < weights / 4
    assert weights < sizes["policy.pth"] < 1.5 * weights


def test_an_agent_is_loaded_as_it_was_saved(llama_directory: Path, tmp_path: Path) -> None:
    agent = agent_of(llama_directory).learn(8)
    agent.save(tmp_path / "agent.zip")
    loaded = PPO.load(tmp_path / "agent.zip", env=agent.env, device="cpu")
    assert worlds.same_weights(agent.policy, loaded.policy)
    assert loaded.learn(8, reset_num_timesteps=False).num_timesteps == 16


class Bomb:
    """Whoever unpickles it runs it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_parameters_of_a_stranger_are_read_without_running_what_came_with_them(llama_directory: Path, tmp_path: Path) -> None:
    import base64

    agent, exploded = agent_of(llama_directory).learn(8), tmp_path / "exploded"
    agent.save(tmp_path / "honest.zip")
    bomb = {"policy_kwargs": {":type:": "dict", ":serialized:": base64.b64encode(pickle.dumps(Bomb(exploded))).decode()}}
    with zipfile.ZipFile(tmp_path / "honest.zip") as honest, zipfile.ZipFile(tmp_path / "strange.zip", "w") as strange:
        for name in honest.namelist():
            strange.writestr(name, json.dumps(bomb) if name == "data" else honest.read(name))
    other = agent_of(llama_directory, seed=1)
    other.set_parameters(tmp_path / "strange.zip", device="cpu")
    assert worlds.same_weights(agent.policy, other.policy)
    assert not exploded.exists()


def test_weights_that_would_run_code_are_refused(llama_directory: Path, tmp_path: Path) -> None:
    agent, exploded = agent_of(llama_directory), tmp_path / "exploded"
    evil = io.BytesIO()
    torch.save({"weights": Bomb(exploded)}, evil)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("policy.pth", evil.getvalue())
    with pytest.raises(pickle.UnpicklingError):
        agent.set_parameters(tmp_path / "evil.zip", device="cpu")
    assert not exploded.exists()


@pytest.mark.parametrize("kind", [LanguageModelActorCritic, MaskableLanguageModelActorCritic, RecurrentLanguageModelActorCritic])
def test_a_policy_is_a_directory_without_pickle(kind: Any, tmp_path: Path) -> None:
    one = policy(kind=kind, temperature=0.7)
    one.save(tmp_path / "policy")
    assert {path.suffix for path in (tmp_path / "policy").iterdir()} == {".json", ".safetensors"}
    loaded = kind.load(tmp_path / "policy", device="cpu")
    (observations, *_) = states(1)
    for a, b in zip(one.look(observations), loaded.look(observations), strict=True):
        assert torch.equal(a, b)
    assert loaded.observation_space == one.observation_space
    assert loaded.action_space == one.action_space


def test_a_policy_among_offered_tokens_is_saved_with_its_spaces(tmp_path: Path) -> None:
    one = policy(env=TopKActions(world(), 6, worlds.llama()))
    one.save(tmp_path / "policy")
    loaded = LanguageModelActorCritic.load(tmp_path / "policy", device="cpu")
    assert loaded.observation_space == one.observation_space
    assert loaded.action_space == one.action_space


def test_training_goes_on_from_a_saved_directory_value_head_and_all(tmp_path: Path) -> None:
    one = policy()
    one.save(tmp_path / "policy")
    assert worlds.same_weights(policy(tmp_path / "policy").lm.model, one.lm.model)
    fresh = agent_of(tmp_path / "policy")
    assert torch.equal(fresh.policy.lm.value_head.weight, one.lm.value_head.weight)


def test_training_goes_on_from_an_agent_of_this_library(tmp_path: Path) -> None:
    ours = TokenPPO(worlds.llama(), world())
    with torch.no_grad():
        ours.policy.value_head.weight.normal_()
    ours.save(tmp_path / "ours")
    fresh = agent_of(tmp_path / "ours").policy.lm
    assert worlds.same_weights(fresh.model, ours.policy.model)
    assert torch.equal(fresh.value_head.weight, ours.policy.value_head.weight)


@pytest.mark.parametrize("named", [True, False], ids=["base by name", "base beside it"])
def test_training_goes_on_from_an_agent_with_an_adapter(named: bool, llama_directory: Path, tmp_path: Path) -> None:
    ours = TokenPPO(str(llama_directory) if named else worlds.llama(), world(), lora=4)
    with torch.no_grad():
        for name, parameter in ours.policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    ours.save(tmp_path / "ours")
    one = agent_of(tmp_path / "ours", ent_coef=0.1)
    assert worlds.same_weights(one.policy.lm.model, ours.policy.model)
    one.learn(16)
    assert not worlds.same_weights(one.policy.lm.model, ours.policy.model), "the adapter learns"
    one.policy.save(tmp_path / "policy")
    again = LanguageModelActorCritic.load(tmp_path / "policy", device="cpu")
    assert worlds.same_weights(again.lm, one.policy.lm)


def test_a_configuration_makes_a_model_of_random_weights() -> None:
    config = worlds.llama().config
    one, other = (policy(config) for _ in range(2))
    assert one.lm.model.config.hidden_size == config.hidden_size
    assert not worlds.same_weights(one.lm.model, other.lm.model)


def test_a_directory_without_a_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no actor_critic\.json; LanguageModelActorCritic\.save"):
        LanguageModelActorCritic.load(tmp_path)


def test_a_policy_of_another_class_is_named(tmp_path: Path) -> None:
    policy().save(tmp_path / "policy")
    with pytest.raises(ValueError, match="holds another policy than MaskableLanguageModelActorCritic"):
        MaskableLanguageModelActorCritic.load(tmp_path / "policy")


def test_only_the_language_model_learns() -> None:
    one = policy()
    assert {name.split(".")[0] for name, _ in one.named_parameters()} == {"lm"}
    assert not [m for m in one.modules() if isinstance(m, nn.LSTM)]


def test_precision_is_that_of_the_language_model_and_is_saved(tmp_path: Path) -> None:
    exact, half = policy(), policy(precision="bf16")
    half.load_state_dict(exact.state_dict())
    for rows in states(4):
        (near, _), (logits, _) = half.look(rows), exact.look(rows)
        assert near.dtype == torch.float32
        assert torch.allclose(near, logits, atol=0.3)
        assert not torch.equal(near, logits)
    half.save(tmp_path / "policy")
    assert type(half).load(tmp_path / "policy", device="cpu").lm.precision == "bf16"
