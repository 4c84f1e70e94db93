"""TokenPPO on texts that somebody else has sampled: it learns, logs how far apart the two are, and says so when they are too far.

The server is a stand-in on loopback, not vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.logger import Logger

from tests import worlds
from tests.agents.engines.stand_in import StandIn
from tests.worlds import BYTES, Memory, make
from textenv.agents import LMPolicy, TokenPPO, evaluate
from textenv.agents.engines.vllm import VLLMEngine

BATCH = {"n_episodes": 8, "batch_size": 4, "n_epochs": 2, "learning_rate": 1e-3, "seed": 0, "device": "cpu"}
GAP = ("engine/logprob_diff_mean", "engine/logprob_diff_max", "engine/ratio_mean", "engine/ratio_max")


def agent(engine: Any, *, model: Any = None, env: Any = None, **options: Any) -> TokenPPO:
    env = make(reward="critic_span", payment="end", max_new_tokens=6, scorer=worlds.even_share) if env is None else env
    return TokenPPO(worlds.llama() if model is None else model, env, engine=engine, **{**BATCH, **options})


def logged(one: TokenPPO, timesteps: int) -> list[dict[str, Any]]:
    memory = Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(timesteps)
    return memory.rows


@pytest.fixture
def server(llama_directory: Path) -> Iterator[StandIn]:
    with StandIn(llama_directory) as server:
        yield server


def test_it_solves_the_smallest_world_on_the_servers_texts(tmp_path: Path) -> None:
    model = worlds.llama(initializer_range=0.02)
    env = make(reward="critic_span", payment="end", max_new_tokens=4)
    with StandIn(worlds.saved(worlds.llama(seed=3), tmp_path / "other")) as server:  # its first weights are of no use
        one = agent(VLLMEngine(server.url), model=model, env=env, n_episodes=32, batch_size=16, learning_rate=2e-2, kl_coef=0.0)
        while one.num_timesteps < 6_000 and evaluate(one, env, 1, k=16).metrics["mean_score"] < 0.9:
            one.learn(500, reset_num_timesteps=False)
        assert evaluate(one, env, 1, k=16).metrics["mean_score"] >= 0.9


def test_the_gap_to_the_engine_is_logged(server: StandIn) -> None:
    rows = logged(agent(VLLMEngine(server.url)), 96)
    assert len(rows) >= 2
    for row in rows:
        assert row["engine/logprob_diff_mean"] <= row["engine/logprob_diff_max"] < 1e-4
        assert row["engine/ratio_mean"] == pytest.approx(1.0, abs=1e-4)
        assert row["engine/ratio_max"] == pytest.approx(1.0, abs=1e-4)
        assert row["val/num_eos_tokens"] >= 0


def test_texts_are_judged_by_whoever_waits_while_the_server_writes_more(server: StandIn) -> None:
    judged: list[int] = []

    def scorer(episodes: Any) -> list[float]:
        judged.append(len(episodes))
        return worlds.even_share(episodes)

    scorer.waits = True  # type: ignore[attr-defined]
    env = make(reward="critic_span", payment="end", max_new_tokens=6, scorer=scorer)
    parts, whole = agent(VLLMEngine(server.url, concurrency=3), env=env), agent(VLLMEngine(server.url))
    parts.learn(1)
    assert judged == [3, 3, 2]
    assert worlds.same_weights(parts.policy, whole.learn(1).policy)


def test_weights_that_do_not_arrive_show_in_the_log(llama_directory: Path) -> None:
    with StandIn(llama_directory, stale=True) as server:
        first, second, *_ = logged(agent(VLLMEngine(server.url), learning_rate=3e-5), 96)
    assert first["engine/logprob_diff_mean"] < 1e-4
    assert second["engine/logprob_diff_mean"] > 5e-4
    assert second["engine/ratio_max"] > 1.0005


def test_log_probs_of_another_distribution_are_warned_of(llama_directory: Path) -> None:
    with StandIn(llama_directory, logprobs_mode="raw_logprobs") as server:
        one = agent(VLLMEngine(server.url), temperature=0.5)
        with pytest.warns(UserWarning, match=r"nats from the policy's.*processed_logprobs"):
            one.learn(1)


def test_two_runs_of_one_seed_are_equal_bit_for_bit(llama_directory: Path) -> None:
    runs = []
    for _ in range(2):
        with StandIn(llama_directory) as server:
            runs.append(agent(VLLMEngine(server.url)).learn(96))
    assert worlds.same_weights(runs[0].policy, runs[1].policy)


def test_another_policy_as_engine_is_the_same_run_as_none() -> None:
    other = LMPolicy(worlds.llama(seed=9), BYTES, device="cpu")
    with_engine, alone = agent(other).learn(96), agent(None, recompute_log_probs=True).learn(96)
    assert worlds.same_weights(with_engine.policy, alone.policy)
    assert not worlds.same_weights(other.model, worlds.llama(seed=9))


def test_a_policy_without_an_engine_logs_no_gap() -> None:
    (row,) = logged(agent(None), 1)
    assert not [name for name in row if name.startswith("engine/")]


def test_the_ratio_of_the_first_update_is_one_whoever_sampled(llama_directory: Path) -> None:
    with StandIn(llama_directory, stale=True) as server:
        one = agent(VLLMEngine(server.url), n_epochs=1, batch_size=8, learning_rate=3e-5)
        rows = logged(one, 96)
    assert rows[1]["engine/ratio_max"] > 1.0001
    assert all(row["val/ratio"] == pytest.approx(1.0, abs=1e-5) for row in rows)


def test_truncated_importance_weights_change_nothing_on_policy(server: StandIn) -> None:
    capped = agent(VLLMEngine(server.url), engine_is_cap=2.0).learn(48)
    plain = agent(VLLMEngine(server.url)).learn(48)
    for (name, a), b in zip(capped.policy.named_parameters(), plain.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


def test_off_policy_they_make_another_update(llama_directory: Path) -> None:
    trained = []
    for cap in (None, 2.0):
        with StandIn(llama_directory, stale=True) as server:
            one = agent(VLLMEngine(server.url), engine_is_cap=cap, learning_rate=3e-5)
            trained.append(one.learn(96).policy)
    assert not worlds.same_weights(*trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine_is_cap": 2.0, "engine": None}, r"engine_is_cap=2\.0 weights the texts of an engine="),
        ({"engine_is_cap": 0.5}, r"engine_is_cap=0\.5 weights .* a number from 1 on"),
        ({"nlpo": {"top_p": 0.9}}, "nlpo samples under a mask"),
    ],
)
def test_a_bad_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent(**{"engine": VLLMEngine("http://127.0.0.1:9/v1"), **options})
