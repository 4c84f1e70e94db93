import sys
from typing import Any

import pytest
import torch
from torch import nn

from tests import worlds
from tests.agents.distributed.runs import environment
from textenv.agents import ETPO, TokenPPO
from textenv.agents.distributed.world import World, join
from textenv.agents.ppo.batch import metrics_of_all


def test_one_process_is_a_world_where_everything_is_its_own() -> None:
    world, numbers = World(), torch.ones(2)
    assert world.first
    assert world.share([3, 1, 2]) == [3, 1, 2]
    assert world.gather([3, 1, 2], 3) == [3, 1, 2]
    assert world.everyones("a") == ["a"]
    assert world.firsts("a") == "a"
    assert world.sum(numbers) is numbers
    world.wait()


def test_one_process_leaves_gradients_as_they_are() -> None:
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad
    World().sum_gradients(layer.parameters())
    assert layer.weight.grad is before


def test_what_each_rank_has_counted_is_added_and_means_are_averaged() -> None:
    class Two(World):
        def everyones(self, thing: Any) -> Any:
            return [thing, {"credit/spans": 3, "credit/return_shift": 0.5, "credit/late": 1}]

    found = metrics_of_all(Two(), {"credit/spans": 2, "credit/return_shift": 0.25})
    assert found == {"credit/spans": 5, "credit/return_shift": 0.375, "credit/late": 1}


def test_the_shares_of_all_ranks_are_the_batch() -> None:
    batch = list(range(7))
    shares = [World(rank, 3).share(batch) for rank in range(3)]
    assert [shares[i % 3][i // 3] for i in batch] == batch


def test_every_rank_makes_as_many_passes_as_the_one_that_makes_most() -> None:
    plans = [[[0, 3], [6]], [[1, 4]], []]
    assert [World(rank, 3).passes(plans) for rank in range(3)] == [[[0, 3], [6]], [[1, 4], []], [[], []]]


def test_without_torchrun_nothing_is_joined_and_accelerate_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert join() == World()


def test_several_processes_without_accelerate_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"torchrun started 2 processes.*pip install accelerate"):
        join()


def test_a_process_group_of_another_size_than_torchrun_said_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone:
        num_processes = 1

        def __init__(self, **_: object) -> None: ...

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", Alone)
    with pytest.raises(RuntimeError, match="torchrun started 2 processes, but Accelerate's process group has 1"):
        join("cpu")


@pytest.mark.parametrize("size", ["two", "0", ""])
def test_a_world_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=f"WORLD_SIZE='{size}'"):
        join()


def test_a_learner_of_one_process_refuses_several_and_names_the_one_that_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    env = environment()
    with pytest.raises(RuntimeError, match=r"torchrun started 2 processes, but ETPO learns in one.*TokenPPO"):
        ETPO(worlds.gpt2(), env)


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="distributed must be one of auto, ddp, fsdp2, got 'horovod'"):
        TokenPPO(worlds.gpt2(), environment(), distributed="horovod")
