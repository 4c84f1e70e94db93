"""A value apart from the policy: what it reads, how fast it learns, and that it comes back from disk."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.logger import Logger

from tests import worlds
from tests.worlds import Memory, make
from textenv.agents import LMPolicy, TokenPPO, rollout
from textenv.agents.ppo.value_model import ValueModel
from textenv.agents.value_head import ValueHead

KINDS = {"llama": worlds.llama, "gpt2": worlds.gpt2, "gemma2": worlds.gemma2, **worlds.ENCODER_DECODERS}


def environment(**arguments: Any) -> Any:
    return make(**{"max_new_tokens": 6, "scorer": worlds.even_share, "prompts": ["a", "bb", "ccc"], **arguments})


def agent(**options: Any) -> TokenPPO:
    settings = {"n_episodes": 8, "batch_size": 4, "n_epochs": 2, "learning_rate": 1e-3, **options}
    return TokenPPO(worlds.llama(), environment(), seed=0, **settings)


def read(model: Any, policy: LMPolicy, env: Any) -> tuple[Any, Any, Any]:
    episodes = rollout(env, policy, 4, torch.Generator().manual_seed(0))
    return [e.prompt_tokens for e in episodes], [e.tokens for e in episodes], env.get_wrapper_attr("action_rule")


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_what_a_head_on_a_policy_of_the_same_weights_reads(kind: str) -> None:
    env, policy = environment(), LMPolicy(KINDS[kind]())
    value = ValueModel("separate", policy, env)
    for head in (policy.value_head, value.reader.value_head):
        torch.nn.init.ones_(head.weight)
    texts = read(value, policy, env)
    assert torch.allclose(value(*texts), policy.evaluate(*texts).values, atol=1e-5)


def test_it_begins_at_zero_and_leaves_the_model_it_was_given_alone() -> None:
    env, policy, given = environment(), LMPolicy(worlds.llama()), worlds.llama(seed=1)
    value = ValueModel(given, policy, env)
    texts = read(value, policy, env)
    assert not value(*texts).any()
    value(*texts).sum().backward()
    assert all(p.grad is None for p in given.parameters())
    assert given.lm_head(torch.zeros(1, 32)).shape[-1] == worlds.VOCABULARY


def test_a_saved_reward_model_will_do_though_it_has_no_language_head(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    config = worlds.llama().config
    config.num_labels, config.tie_word_embeddings = 1, False
    worlds.saved(LlamaForSequenceClassification(config), tmp_path)
    env, policy = environment(), LMPolicy(worlds.llama())
    value = ValueModel(tmp_path, policy, env)
    assert not value(*read(value, policy, env)).any()


def test_it_makes_no_logits_but_those_of_one_position() -> None:
    env, policy = environment(), LMPolicy(worlds.llama())
    value = ValueModel(True, policy, env)
    value(*read(value, policy, env))  # the first time, the head is checked
    shapes: list[Any] = []
    value.reader.layout.head.register_forward_hook(lambda _, __, output: shapes.append(output.shape[:-1].numel()))
    value(*read(value, policy, env))
    assert shapes == [1]


def test_every_weight_it_uses_learns_and_none_of_the_policys() -> None:
    one = agent(value_model="separate", n_epochs=1)
    first = [p.detach().clone() for p in one.value_model.reader.model.model.parameters()]
    one.learn(150)
    assert not any(torch.equal(a, b) for a, b in zip(first, one.value_model.reader.model.model.parameters(), strict=True))
    assert not one.policy.value_head.weight.any()


def test_a_separate_value_leaves_the_first_step_of_the_policy_as_it_is_without_a_value_loss() -> None:
    """No gradient of the value reaches the policy."""
    alone, apart = agent(vf_coef=0.0, n_epochs=1, batch_size=8), agent(value_model="separate", n_epochs=1, batch_size=8)
    for one in (alone, apart):
        one.learn(1)
    assert worlds.same_weights(alone.policy.model, apart.policy.model)


@pytest.mark.parametrize("value_model", [None, "separate"])
def test_the_value_has_a_learning_rate_of_its_own(value_model: Any) -> None:
    memory, one = Memory(), agent(value_model=value_model, value_learning_rate=0.0)
    one.set_logger(Logger(None, [memory]))
    one.learn(1)
    head = one.policy.value_head if one.value_model is None else one.value_model.reader.value_head
    assert not head.weight.any()
    assert not worlds.same_weights(one.policy.model, worlds.llama())
    assert (memory.rows[0]["train/learning_rate"], memory.rows[0]["train/value_learning_rate"]) == (1e-3, 0.0)


def test_its_rate_may_be_a_schedule() -> None:
    memory, one = Memory(), agent(value_learning_rate=lambda left: 0.5 * left)
    one.set_logger(Logger(None, [memory]))
    one.learn(100)
    rates = [row["train/value_learning_rate"] for row in memory.rows]
    assert rates[0] == 0.5
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("value_model", [None, "separate"])
def test_while_it_warms_up_the_value_alone_learns(value_model: Any) -> None:
    one = agent(value_model=value_model, value_warmup=2)
    head = one.policy.value_head if one.value_model is None else one.value_model.reader.value_head
    for expected in (True, True, False):
        before = head.weight.detach().clone()
        one.learn(1, reset_num_timesteps=False)
        assert worlds.same_weights(one.policy.model, worlds.llama()) is expected
        assert not torch.equal(before, head.weight)


def test_a_warm_up_leaves_the_kl_coefficient_alone() -> None:
    one = agent(value_warmup=1, kl_target=1.0, kl_horizon=8)
    assert one.learn(1).kl.value == 0.1
    assert one.learn(1, reset_num_timesteps=False).kl.value != 0.1


@pytest.mark.parametrize("named", [True, False])
def test_a_value_model_comes_back_from_disk(tmp_path: Path, llama_directory: Path, named: bool) -> None:
    options: dict[str, Any] = {"value_model": str(llama_directory) if named else "separate", "value_learning_rate": 5e-3}
    straight = agent(**options).learn(1)
    straight.save(tmp_path / "a")
    resumed = TokenPPO.load(tmp_path / "a", environment())
    straight.learn(60, reset_num_timesteps=False)
    resumed.learn(60, reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, resumed.policy)
    assert worlds.same_weights(straight.value_model, resumed.value_model)


def test_a_value_model_without_a_name_has_to_be_given_again(tmp_path: Path) -> None:
    one = agent(value_model=worlds.gpt2()).learn(1)
    one.save(tmp_path / "a")
    with pytest.raises(ValueError, match="has no name to make it by"):
        TokenPPO.load(tmp_path / "a", environment())
    again = TokenPPO.load(tmp_path / "a", environment(), value_model=worlds.gpt2(seed=4))
    assert worlds.same_weights(one.value_model, again.value_model)


def test_states_is_a_name_of_the_default() -> None:
    one = agent(value_model="states")
    assert (one.value_model, type(one.policy.value_head)) == (None, ValueHead)


def moments(one: TokenPPO) -> list[Any]:
    """What the optimizer knows of each weight of the policy's model that learns."""
    return [one.optimizer.state[p]["exp_avg"] for p in one.policy.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("model", [{}, {"lora": 2}, {"frozen_layers": 1}], ids=str)
@pytest.mark.parametrize(("was", "now"), list(itertools.permutations([None, "shared", "separate"], 2)))
def test_a_value_of_another_kind_begins_anew_and_the_policy_goes_on(
    was: Any, now: Any, model: dict[str, Any], tmp_path: Path
) -> None:
    one = agent(value_model=was, **model).learn(1)
    one.save(tmp_path / "a")
    with pytest.warns(UserWarning, match=f"saved with value_model={was!r}, not {now!r}: the value begins anew"):
        two = TokenPPO.load(tmp_path / "a", environment(), value_model=now)
    assert all(torch.equal(a, b) for a, b in zip(moments(one), moments(two), strict=True))
    assert worlds.same_weights(one.policy.model, two.policy.model)
    head = two.policy.value_head if two.value_model is None else two.value_model.reader.value_head
    assert not head.weight.any()
    two.learn(1, reset_num_timesteps=False)
    assert head.weight.any()


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(TypeError, match=r"value_model takes None, .* got 3"):
        agent(value_model=3)
