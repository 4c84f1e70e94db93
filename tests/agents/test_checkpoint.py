"""A saved agent: the same predictions, the same future, readable by any tool, whole or not there."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import worlds
from tests.worlds import make
from textenv.agents import BehaviourCloning, LMPolicy, TokenPPO

SETTINGS: dict[str, Any] = {"n_episodes": 4, "batch_size": 2, "n_epochs": 2, "learning_rate": 1e-3}


def environment() -> Any:
    return make(max_new_tokens=6, prompts=["a", "bb", "ccc"], scorer=worlds.even_share)


def given_rule() -> Any:
    return environment().get_wrapper_attr("action_rule")


def agent(model: Any = None, **options: Any) -> TokenPPO:
    return TokenPPO(worlds.llama() if model is None else model, environment(), seed=0, **{**SETTINGS, **options})


def test_a_loaded_agent_predicts_the_same(tmp_path: Path) -> None:
    one = agent(temperature=0.7).learn(30)
    one.save(tmp_path / "a")
    two = TokenPPO.load(tmp_path / "a", environment())
    observation, _ = one.env.reset(seed=1)
    assert worlds.same_weights(one.policy, two.policy)
    assert [one.predict(observation)[0] for _ in range(8)] == [two.predict(observation)[0] for _ in range(8)]
    assert two.policy.temperature == two.reference.temperature == 0.7


def test_a_saved_agent_of_other_tokens_is_refused_by_its_name(tmp_path: Path) -> None:
    other = worlds.tokenizers()["byte_level_bpe"]
    TokenPPO(LMPolicy(worlds.llama(len(other)), other), make(tokenizer=other)).save(tmp_path / "a")
    with pytest.raises(ValueError, match=f"policy '{tmp_path / 'a'}' and environment have different tokenizers"):
        TokenPPO.load(tmp_path / "a", environment())


@pytest.mark.parametrize("options", [{}, {"kl_target": 0.001, "kl_horizon": 10}])
def test_a_loaded_agent_goes_on_as_if_it_had_never_stopped(tmp_path: Path, options: dict[str, Any]) -> None:
    straight = agent(**options).learn(1)
    straight.save(tmp_path / "a")
    straight.learn(30, reset_num_timesteps=False)
    resumed = TokenPPO.load(tmp_path / "a", environment()).learn(30, reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, resumed.policy)
    assert (straight.num_timesteps, straight.n_updates, straight.iteration) == (
        resumed.num_timesteps,
        resumed.n_updates,
        resumed.iteration,
    )
    assert straight.kl.value == resumed.kl.value


def test_settings_survive_and_can_be_overridden(tmp_path: Path) -> None:
    agent(gamma=0.9, target_kl=0.3, kl_coef=0.2, kl_target=5.0).save(tmp_path / "a")
    same, other = TokenPPO.load(tmp_path / "a", environment()), TokenPPO.load(tmp_path / "a", environment(), gamma=0.5)
    assert (same.gamma, same.target_kl, same.kl.value, same.kl.target, same.n_episodes) == (0.9, 0.3, 0.2, 5.0, 4)
    assert other.gamma == 0.5


def test_a_schedule_is_given_again(tmp_path: Path) -> None:
    agent(learning_rate=lambda left: 0.01 * left).save(tmp_path / "a")
    two = TokenPPO.load(tmp_path / "a", environment(), learning_rate=lambda left: 0.02 * left)
    assert two.learning_rate(0.5) == 0.01


def test_a_schedule_that_is_not_given_again_is_named(tmp_path: Path) -> None:
    agent(learning_rate=lambda left: 0.01 * left, clip_range=lambda left: 0.2).save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"clip_range was a function, .*load\(\.\.\., clip_range=\.\.\.\)"):
        TokenPPO.load(tmp_path / "a", environment(), learning_rate=1e-3)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_the_directory_is_an_ordinary_saved_model(tmp_path: Path, model: str) -> None:
    one = agent(getattr(worlds, model)()).learn(1)
    one.save(tmp_path / "a")
    assert worlds.same_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "a"), one.policy.model)
    assert AutoTokenizer.from_pretrained(tmp_path / "a").get_vocab() == worlds.BYTES.get_vocab()


def test_nothing_in_it_is_a_pickle_and_the_model_is_there_once(tmp_path: Path) -> None:
    agent().learn(1).save(tmp_path / "a")
    files = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".jinja"}
    assert {"model.safetensors", "value_head.safetensors", "optimizer.safetensors", "agent.json"} <= files
    json.loads((tmp_path / "a" / "agent.json").read_text())


def test_the_reference_is_loaded_again_by_its_name(tmp_path: Path, llama_directory: Path) -> None:
    one = TokenPPO(str(llama_directory), environment(), seed=0, **SETTINGS).learn(1)
    one.save(tmp_path / "a")
    assert worlds.same_weights(TokenPPO.load(tmp_path / "a", environment()).reference.model, one.reference.model)


def test_a_reference_without_a_name_is_saved_too(tmp_path: Path) -> None:
    one = agent().learn(1)
    one.save(tmp_path / "a")
    assert worlds.same_weights(TokenPPO.load(tmp_path / "a", environment()).reference.model, worlds.llama())


def test_the_reference_of_a_policy_trained_before_is_that_policy(tmp_path: Path, llama_directory: Path) -> None:
    policy = LMPolicy(str(llama_directory))
    BehaviourCloning(policy, ["some text", "more text"], batch_size=2).learn(50)
    one = TokenPPO(policy, environment(), seed=0, **SETTINGS)
    one.save(tmp_path / "a")
    assert not worlds.same_weights(one.reference.model, worlds.llama())
    assert worlds.same_weights(TokenPPO.load(tmp_path / "a", environment()).reference.model, one.reference.model)


REFERENCES: dict[str, Any] = {
    "itself": lambda policy: policy,
    "copy": lambda policy: policy.copy(),
    "frozen copy": lambda policy: policy.frozen_copy(),
    "deep copy": copy.deepcopy,
}


@pytest.mark.parametrize("lora", [None, 2])
@pytest.mark.parametrize("how", REFERENCES)
def test_a_trained_policy_given_as_the_reference_comes_back_trained(
    how: str, lora: int | None, tmp_path: Path, llama_directory: Path
) -> None:
    trained = LMPolicy(str(llama_directory), lora=lora)
    BehaviourCloning(trained, ["some text", "more text"], batch_size=2, learning_rate=0.01).learn(50)
    given = REFERENCES[how](trained)
    assert given.source is None
    agent(LMPolicy(str(llama_directory)), reference=given).save(tmp_path / "a")
    loaded = TokenPPO.load(tmp_path / "a", environment()).reference
    asked = [worlds.ids("bb")], [worlds.ids("text")], given_rule()
    assert torch.allclose(loaded.evaluate(*asked).log_probs, given.evaluate(*asked).log_probs, atol=1e-6)


@pytest.mark.parametrize("how", ["itself", "copy", "frozen copy"])
def test_a_reference_that_nobody_trained_is_found_by_its_name_and_not_written(
    how: str, tmp_path: Path, llama_directory: Path
) -> None:
    given = REFERENCES[how](LMPolicy(str(llama_directory)))
    agent(LMPolicy(str(llama_directory)), reference=given).save(tmp_path / "a")
    assert not (tmp_path / "a" / "reference").exists()
    assert worlds.same_weights(TokenPPO.load(tmp_path / "a", environment()).reference.model, given.model)


def test_a_reference_keeps_its_own_temperature(tmp_path: Path, llama_directory: Path) -> None:
    agent(reference=LMPolicy(str(llama_directory), temperature=0.5)).save(tmp_path / "a")
    two = TokenPPO.load(tmp_path / "a", environment())
    assert (two.policy.temperature, two.reference.temperature) == (1.0, 0.5)


def test_an_agent_saved_over_the_model_it_came_from_keeps_its_reference(tmp_path: Path) -> None:
    worlds.saved(worlds.llama(), tmp_path / "m")
    one = TokenPPO(str(tmp_path / "m"), environment(), seed=0, **SETTINGS).learn(1)
    one.save(tmp_path / "m")
    assert worlds.same_weights(TokenPPO.load(tmp_path / "m", environment()).reference.model, worlds.llama())


def test_saving_again_after_loading_keeps_the_reference(tmp_path: Path) -> None:
    agent().learn(1).save(tmp_path / "a")
    two = TokenPPO.load(tmp_path / "a", environment())
    two.save(tmp_path / "a")
    assert worlds.same_weights(TokenPPO.load(tmp_path / "a", environment()).reference.model, worlds.llama())


def test_files_beside_an_agent_outlive_its_saves_and_its_adapter_does_not(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    directory.mkdir()
    (directory / "notes.md").write_text("mine")
    one = agent(lora=2)
    one.save(directory)
    one.save(directory)
    assert worlds.same_weights(TokenPPO.load(directory, environment()).policy, one.policy)
    one.policy.merged().save_pretrained(directory)
    assert (directory / "notes.md").read_text() == "mine"
    assert not [name for name in ("adapter_config.json", "base", "agent.json") if (directory / name).exists()]


def test_a_failure_while_saving_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    one = agent()
    one.save(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}
    one.learn(1)
    one.policy.value_head.register_buffer("odd", torch.zeros(1).to_sparse())  # safetensors cannot write it
    with pytest.raises(RuntimeError, match="memory format"):
        one.save(tmp_path / "a")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_settings_that_json_cannot_hold_fail_before_anything_is_written(tmp_path: Path) -> None:
    one = agent()
    one.gamma = object()  # type: ignore[assignment]
    with pytest.raises(TypeError):
        one.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_an_agent_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no saved agent"):
        TokenPPO.load(tmp_path, environment())


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_broken_agent_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "agent.json").write_text(content)
    with pytest.raises(ValueError, match=r"agent\.json is not what TokenPPO\.save wrote"):
        TokenPPO.load(tmp_path, environment())


def test_an_agent_of_another_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text('{"agent": "ReST"}')
    with pytest.raises(ValueError, match=r"holds a ReST, not a TokenPPO; load it with ReST\.load"):
        TokenPPO.load(tmp_path, environment())


def test_an_environment_of_other_tokens_is_refused(tmp_path: Path) -> None:
    agent().save(tmp_path / "a")
    with pytest.raises(ValueError, match="tokenizer"):
        TokenPPO.load(tmp_path / "a", make(tokenizer=worlds.tokenizers()["word_piece"]))


def test_weights_come_back_in_their_own_precision(tmp_path: Path) -> None:
    agent(LMPolicy(worlds.llama().to(torch.bfloat16))).save(tmp_path / "a")
    two = TokenPPO.load(tmp_path / "a", environment())
    assert two.policy.model.dtype == two.reference.model.dtype == torch.bfloat16
