"""A value that reads the policy's states and leaves them alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import worlds
from tests.agents.ppo.test_value_model import agent
from textenv.agents import LMPolicy, TokenPPO
from textenv.agents.value_head import RATE, ValueHead, head_like, linear_head

CPU = torch.device("cpu")


def states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_it_is_zero_before_it_has_learned() -> None:
    assert ValueHead(8, CPU)(states(5, 8)).tolist() == [[0.0]] * 5


def test_it_gives_its_states_no_gradient() -> None:
    head, read = ValueHead(8, CPU), states(5, 8).requires_grad_()
    torch.nn.init.ones_(head.weight)
    head(read).sum().backward()
    assert read.grad is None
    assert all(p.grad is not None for p in head.parameters())


def test_making_one_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    ValueHead(8, CPU)
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_made_on_the_cpu_whatever_its_device() -> None:
    seen: list[str] = []

    class Watched(ValueHead):
        def reset_parameters(self) -> None:
            seen.append(self.weight.device.type)

    head = Watched(8, torch.device("meta"))
    assert seen == ["cpu"]
    assert {p.device.type for p in head.parameters()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_making_one_leaves_the_generator_of_its_gpu_alone() -> None:
    before = torch.cuda.get_rng_state()
    ValueHead(8, torch.device("cuda"))
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_it_learns_what_no_linear_head_can() -> None:
    read = torch.tensor([[a, b, 0.0, 1.0] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    wanted, head = read[:, :1] * read[:, 1:2], ValueHead(4, CPU)
    optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
    for _ in range(300):
        optimizer.zero_grad()
        ((head(read) - wanted) ** 2).mean().backward()
        optimizer.step()
    assert torch.allclose(head(read), wanted, atol=0.1)


@pytest.mark.parametrize("head", [linear_head(8, CPU), ValueHead(8, CPU), ValueHead(8, CPU, inner=3)])
def test_its_weights_tell_which_head_they_are_of(head: Any) -> None:
    torch.nn.init.normal_(head.weight)
    assert torch.equal(head_like(head.state_dict(), CPU)(states(2, 8)), head(states(2, 8)))


def test_the_first_step_of_the_policy_is_as_without_a_value_loss() -> None:
    alone, learning = agent(vf_coef=0.0, n_epochs=1, batch_size=8), agent(vf_coef=100.0, n_epochs=1, batch_size=8)
    for one in (alone, learning):
        one.learn(1)
    assert worlds.same_weights(alone.policy.model, learning.policy.model)
    assert learning.policy.value_head.weight.any()


def test_a_shared_one_changes_the_trunk() -> None:
    alone, learning = (agent(value_model="shared", vf_coef=c, n_epochs=1, batch_size=8) for c in (0.0, 100.0))
    for one in (alone, learning):
        one.learn(1)
    assert not worlds.same_weights(alone.policy.model, learning.policy.model)


@pytest.mark.parametrize(("value_model", "rates"), [(None, [1e-3, RATE]), ("shared", [1e-3]), ("separate", [1e-3, 1e-3])])
def test_its_learning_rate_is_its_own(value_model: Any, rates: list[float]) -> None:
    assert agent(value_model=value_model).rates(1.0) == rates


def test_no_head_is_made_where_texts_are_compared() -> None:
    one = agent(advantage="rloo", group_size=4)
    assert not isinstance(one.policy.value_head, ValueHead)
    assert one.rates(1.0) == [1e-3]


@pytest.mark.parametrize("value_model", [None, "shared"])
def test_a_saved_agent_goes_on_with_the_head_it_has(value_model: Any, tmp_path: Path) -> None:
    whole, first = agent(value_model=value_model), agent(value_model=value_model)
    first.learn(1)
    first.save(tmp_path)
    cut = TokenPPO.load(tmp_path, first.env)
    assert type(cut.policy.value_head) is type(first.policy.value_head)
    whole.learn(1)
    whole.learn(1, reset_num_timesteps=False)
    cut.learn(1, reset_num_timesteps=False)
    assert worlds.same_weights(cut.policy, whole.policy)


def test_an_agent_of_before_its_value_had_a_name_goes_on_with_the_shared_head(tmp_path: Path) -> None:
    one = agent(value_model="shared").learn(1)
    one.save(tmp_path)
    said = json.loads((tmp_path / "agent.json").read_text())
    del said["settings"]["value_model"]
    (tmp_path / "agent.json").write_text(json.dumps(said))
    two = TokenPPO.load(tmp_path, one.env)
    assert two.policy.value_head.weight.any()
    for each in (one, two):
        each.env.reset(seed=1)
        each.learn(1, reset_num_timesteps=False)
    assert worlds.same_weights(one.policy, two.policy)


@pytest.mark.parametrize(("first", "second"), [(None, "shared"), ("shared", None)])
def test_a_second_agent_on_the_same_policy_leaves_the_head_of_the_first_alone(first: Any, second: Any) -> None:
    one = agent(value_model=first)
    head = one.policy.value_head
    two = TokenPPO(one.policy, one.env, value_model=second)
    assert one.policy.value_head is head
    assert two.policy.model is one.policy.model
    assert isinstance(two.policy.value_head, ValueHead) == (second is None)
    one.learn(1)
    assert head.weight.any()


def test_a_policy_that_has_one_keeps_it() -> None:
    policy = LMPolicy(worlds.llama())
    policy.value_head = head = ValueHead(policy.width, CPU)
    env = agent().env
    assert TokenPPO(policy, env).policy.value_head is head
    assert not isinstance(TokenPPO(policy, env, value_model="shared").policy.value_head, ValueHead)
