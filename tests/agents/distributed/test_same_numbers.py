"""The same run on one process, 2 × DDP, 2 × FSDP2 and two nodes that meet over loopback: the same rewards and weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.agents.distributed import runs
from tests.agents.distributed.launch import Done, torchrun
from textenv.agents import TokenPPO

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torchrun")]
ON_ONE_NODE = [
    "ppo/ddp", "ppo/fsdp2", "grpo/ddp", "grpo/fsdp2", "separate/ddp", "separate/fsdp2", "recomputed/fsdp2", "t5/fsdp2",
    "nlpo/ddp", "lora/ddp", "frozen/ddp",
]  # fmt: skip
ON_TWO_NODES = ["ppo/ddp", "grpo/fsdp2"]
SCRIPT = ("-m", "tests.agents.distributed.runs")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an agent that one process has saved after an iteration."""
    directory = tmp_path_factory.mktemp("runs")
    one = runs.agent()
    one.learn(1)
    one.save(directory / "saved")
    return directory


@pytest.fixture(scope="module")
def one_node(saved: Path) -> tuple[Path, Done]:
    asked = [*ON_ONE_NODE, "resumed/fsdp2", "bf16/fsdp2", "unseeded/ddp", "refused/fsdp2", "loud/fsdp2"]
    return saved, torchrun(*SCRIPT, str(saved), *asked, processes=2)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    directory = tmp_path_factory.mktemp("nodes")
    return directory, torchrun(*SCRIPT, str(directory), *ON_TWO_NODES, nodes=2)


@functools.cache
def of_one_process(name: str) -> dict[str, torch.Tensor]:
    return runs.learned(runs.agent(name))


def assert_same(found: dict[str, Any], wanted: dict[str, Any], *, atol: float = 1e-6) -> None:
    """Rewards and weights; what is logged, too (sums over texts, so less close), but for calls, and a mean of the ranks' own."""
    assert found.keys() == wanted.keys()
    for key in wanted:
        if not any(part in key for part in ("time/", "critic_seconds", "critic_calls", "credit/intrinsic_to_score")):
            close = 1e-5 if key[0].isdigit() else atol
            torch.testing.assert_close(found[key], wanted[key], rtol=1e-6, atol=close, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("asked", ON_ONE_NODE)
def test_two_processes_learn_what_one_learns(one_node: tuple[Path, Done], asked: str) -> None:
    directory, done = one_node
    assert done.code == 0, done.err[-3000:]
    assert_same(load_file(directory / f"{asked.replace('/', '-')}.safetensors"), of_one_process(asked.split("/")[0]))


@pytest.mark.parametrize("asked", ON_TWO_NODES)
def test_two_nodes_learn_what_one_process_learns(two_nodes: tuple[Path, Done], asked: str) -> None:
    directory, done = two_nodes
    assert done.code == 0, done.err[-3000:]
    assert_same(load_file(directory / f"{asked.replace('/', '-')}.safetensors"), of_one_process(asked.split("/")[0]))


@pytest.mark.parametrize("asked", ["ppo-ddp", "ppo-fsdp2", "separate-fsdp2"])
def test_a_run_of_two_processes_goes_on_in_one(one_node: tuple[Path, Done], asked: str) -> None:
    directory, done = one_node
    assert done.code == 0, done.err[-3000:]
    loaded = TokenPPO.load(directory / asked, runs.environment())
    one = runs.agent(asked.split("-")[0])
    runs.learned(one)
    assert_same(runs.learned(loaded, 1), runs.learned(one, 1), atol=2e-6)


def test_a_sharded_run_saves_an_ordinary_directory(one_node: tuple[Path, Done]) -> None:
    directory, done = one_node
    assert done.code == 0, done.err[-3000:]
    files = {place: sorted(str(f.relative_to(directory / place)) for f in (directory / place).rglob("*") if f.is_file())
             for place in ("saved", "ppo-fsdp2")}  # fmt: skip
    assert files["saved"] == files["ppo-fsdp2"]


def test_a_run_of_one_process_goes_on_in_two_that_share_its_weights(one_node: tuple[Path, Done]) -> None:
    directory, done = one_node
    assert done.code == 0, done.err[-3000:]
    one = TokenPPO.load(directory / "saved", runs.environment())
    assert_same(load_file(directory / "resumed-fsdp2.safetensors"), runs.learned(one))


def test_the_first_process_alone_logs_and_shows_progress(one_node: tuple[Path, Done]) -> None:
    directory, done = one_node
    assert done.out.count("total_timesteps") == 1
    assert done.out.count("tokens/s") == 1
    assert [place.name for place in (directory / "loud-fsdp2").iterdir()] == ["TokenPPO_1"]


def test_what_shares_or_copies_weights_is_refused_where_they_are_in_pieces(one_node: tuple[Path, Done]) -> None:
    assert one_node[1].out.count("distributed='fsdp2' takes no lora, frozen_layers, nlpo or engine") == 2 * 4


def test_a_rank_that_raises_ends_all_with_its_traceback(tmp_path: Path) -> None:
    done = torchrun(*SCRIPT, str(tmp_path), "failing/ddp", processes=2)
    assert done.code != 0
    assert "ZeroDivisionError: the scorer of rank 1 is broken" in done.err


def test_a_rank_that_says_nothing_is_not_waited_for_longer_than_the_timeout(tmp_path: Path) -> None:
    done = torchrun(*SCRIPT, str(tmp_path), "silent/ddp", processes=2, timeout=150)
    assert done.code != 0
    assert "Timed out" in done.err
