"""An environment with a large scorer holds one copy of it, however often it is made from its spec."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import pytest
import torch

from tests.worlds import ids, walk
from textenv.episode import Episode

MEGABYTES = 100


class Large:
    """A scorer with weights that says nothing about how it is copied."""

    def __init__(self) -> None:
        self.weights = torch.empty(MEGABYTES * 250_000)  # float32; pages that nobody writes cost nothing

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        return [episode.text.count("a") / 4 for episode in episodes]


def copies() -> int:
    """How many storages of this size are alive."""
    gc.collect()
    storages = {
        found.untyped_storage().data_ptr()
        for found in gc.get_objects()
        if issubclass(type(found), torch.Tensor) and found.untyped_storage().nbytes() == 4 * MEGABYTES * 250_000
    }
    return len(storages)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tensors of this size that were deep-copied: one that is thrown away again is one too many at its time."""
    found: list[int] = []
    original = torch.Tensor.__deepcopy__

    def counted(tensor: torch.Tensor, memo: Any) -> Any:
        if tensor.numel() == MEGABYTES * 250_000:
            found.append(tensor.numel())
        return original(tensor, memo)

    monkeypatch.setattr(torch.Tensor, "__deepcopy__", counted)
    return found


def test_a_second_copy_would_be_seen(copied: list[int]) -> None:
    import copy

    scorer = Large()
    other = copy.deepcopy(scorer)
    assert (copies(), len(copied)) == (2, 1)
    assert other is not scorer


@pytest.mark.parametrize(
    "place",
    [
        lambda scorer: {"scorer": scorer},
        lambda scorer: {"reward": [("redistributed", {"reward_model": scorer}), "length_penalty"]},
        lambda scorer: {"reward": [("redistributed", {"reward_model": scorer}), ("delta", {"scorer": scorer})]},
    ],
    ids=["scorer", "in a list of rewards", "in two of a list"],
)
@pytest.mark.parametrize("vector", [False, True])
def test_an_environment_made_twice_holds_one_copy_of_its_scorer(place: Any, vector: bool, copied: list[int]) -> None:
    scorer = Large()
    arguments = {**place(scorer), "max_new_tokens": 4, "payment": "end"}
    if vector:
        env: Any = gym.make_vec("textenv/CountLetter-v0", num_envs=2, vectorization_mode="vector_entry_point", **arguments)
        env.reset(seed=0)
        assert env.spec is not None
        assert (copies(), copied) == (1, [])
        return
    env = gym.make("textenv/CountLetter-v0", **arguments)
    assert env.spec is not None
    again: Any = gym.make(env.spec)
    paid = [walk(made, ids("aaba"), seed=0) for made in (env, again)]
    assert paid[0][0] == paid[1][0]
    assert paid[0][1] is not None
    assert (copies(), copied) == (1, [])
