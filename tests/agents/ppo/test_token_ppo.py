"""TokenPPO: exact where it can be exact, Stable-Baselines3's contract, and it solves the smallest world."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor

from tests import worlds
from tests.worlds import EOS, Memory, make
from textenv.agents import LMPolicy, TokenPPO, evaluate, rollout

NAN = float("nan")
BATCH = {"n_episodes": 8, "batch_size": 4, "n_epochs": 2}


def agent(*, reward: Any = "critic_span", seed: int | None = 0, model: Any = None, env: Any = None, **options: Any) -> TokenPPO:
    env = make(reward=reward, payment="end", max_new_tokens=6, scorer=worlds.even_share) if env is None else env
    return TokenPPO(worlds.llama() if model is None else model, env, seed=seed, **{**BATCH, "learning_rate": 1e-3, **options})


def logged(one: TokenPPO, timesteps: int = 1) -> list[dict[str, Any]]:
    memory = Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(timesteps)
    return memory.rows


# --- Exactness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma2"])
def test_the_first_update_has_ratio_one_and_no_divergence(model: str) -> None:
    (row,) = logged(agent(model=getattr(worlds, model)(), n_epochs=1, batch_size=8, recompute_log_probs=True))
    assert row["val/ratio"] == 1.0
    assert row["train/approx_kl"] == 0.0
    assert row["train/clip_fraction"] == 0.0
    assert row["objective/kl"] == 0.0


def test_an_untrained_policy_pays_no_kl_penalty() -> None:
    one = agent(kl_coef=10.0, normalize_advantage=False, gae_lambda=1.0)
    episodes = rollout(one.env, one.policy, 4, one.generator)
    batch = one.prepare(episodes)
    assert not batch.log_ratio.any()
    to_go = np.concatenate([np.cumsum(e.rewards[::-1])[::-1] for e in episodes])
    assert np.allclose(batch.returns.numpy(), to_go, atol=1e-5)


def test_the_kl_penalty_is_the_signed_log_ratio_of_each_token() -> None:
    one = agent(kl_coef=0.5, normalize_advantage=False, gae_lambda=0.0)
    one.reference = LMPolicy(worlds.llama(seed=1))
    episodes = rollout(one.env, one.policy, 4, one.generator)
    batch = one.prepare(episodes)
    prompts, texts = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
    with torch.no_grad():
        ratio = one.policy.evaluate(prompts, texts, one.rule).log_probs - one.reference.evaluate(prompts, texts, one.rule).log_probs
    assert (ratio < 0).any()
    assert (ratio > 0).any()
    credit = np.concatenate([e.rewards for e in episodes])
    assert np.allclose(batch.advantages.numpy(), credit - 0.5 * ratio.numpy(), atol=1e-5)


@pytest.mark.parametrize("micro", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"ent_coef": 0.1, "clip_range_vf": None}])
def test_micro_batches_of_any_size_make_the_same_update(micro: int, options: dict[str, Any]) -> None:
    whole, parts = (agent(batch_size=8, micro_batch_size=m, n_epochs=3, **options) for m in (8, micro))
    whole.learn(1)
    parts.learn(1)
    for (name, a), b in zip(whole.policy.named_parameters(), parts.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


def test_two_runs_of_one_seed_are_equal_bit_for_bit() -> None:
    runs = [agent(seed=7, env=make(prompts=["a", "bb"], max_new_tokens=6, scorer=worlds.even_share)).learn(120) for _ in range(2)]
    assert worlds.same_weights(runs[0].policy, runs[1].policy)


def test_another_seed_is_another_run() -> None:
    assert not worlds.same_weights(agent(seed=1).learn(1).policy, agent(seed=2).learn(1).policy)


def test_the_global_generators_are_left_alone() -> None:
    one = agent()
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002 - watched, not used
    one.learn(1)
    assert before == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_training_leaves_the_reference_as_it_was() -> None:
    one = agent()
    one.learn(100)
    assert worlds.same_weights(one.reference.model, worlds.llama())
    assert not worlds.same_weights(one.policy.model, worlds.llama())


def test_advantages_are_whitened_over_all_tokens_of_the_batch() -> None:
    one = agent()
    advantages = one.prepare(rollout(one.env, one.policy, 8, one.generator)).advantages
    assert advantages.mean().item() == pytest.approx(0, abs=1e-5)
    assert advantages.std().item() == pytest.approx(1, abs=1e-3)


def test_the_stop_token_carries_credit_and_gradient() -> None:
    env = make(max_new_tokens=6, scorer=lambda episodes: [float(e.finish_reason == "stop") for e in episodes])
    model = worlds.llama(initializer_range=0.02)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[EOS, :] = 0.05  # now and then it stops
    one = agent(env=env, model=model, n_episodes=32, batch_size=8, learning_rate=1e-2, kl_coef=0.0)
    episodes = rollout(env, one.policy, 32, one.generator)
    assert any(e.finish_reason == "stop" for e in episodes)
    before = np.mean([one.policy.evaluate([e.prompt_tokens], [np.array([EOS])], one.rule).log_probs.item() for e in episodes[:1]])
    one.train(one.prepare(episodes))
    after = np.mean([one.policy.evaluate([e.prompt_tokens], [np.array([EOS])], one.rule).log_probs.item() for e in episodes[:1]])
    assert after > before


# --- Settings ----------------------------------------------------------------------------------------------------------


def test_the_epochs_stop_when_the_policy_has_moved_too_far() -> None:
    one = agent(learning_rate=0.05, n_epochs=20, target_kl=0.01)
    one.learn(1)
    assert 1 <= one.n_updates < 20 * 2


def test_an_adaptive_coefficient_rises_with_a_kl_above_its_target() -> None:
    one = agent(kl_coef=0.1, kl_target=1e-6, kl_horizon=8, learning_rate=0.01)
    one.learn(150)
    assert one.kl.value > 0.1


def test_schedules_follow_the_remaining_share_of_the_run() -> None:
    rows = logged(
        agent(learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.1 + 0.1 * left, clip_range_vf=lambda left: left),
        120,
    )
    rates = [row["train/learning_rate"] for row in rows]
    assert rates[0] == 1e-3
    assert len(rates) > 2
    assert rates == sorted(rates, reverse=True)
    assert [row["train/clip_range"] for row in rows] == pytest.approx([0.1 + 100 * rate for rate in rates])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_episodes": 0}, "n_episodes must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"n_epochs": 0}, "n_epochs must be at least 1, got 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be above 0, got -1.0"),
        ({"kl_coef": -1.0}, "kl_coef must be at least 0"),
        ({"kl_coef": NAN}, "kl_coef must be at least 0, got nan"),
        ({"kl_target": 0.0}, "kl_target must be above 0"),
        ({"kl_target": NAN}, "kl_target must be above 0, got nan"),
        ({"kl_target": 6.0, "kl_horizon": 0}, "kl_horizon must be above 0, got 0"),
        ({"target_kl": -1}, "target_kl must be above 0, got -1"),
        ({"target_kl": 0}, "target_kl must be above 0, got 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number, got inf"),
        ({"learning_rate": lambda left: -left}, "learning_rate must be at least 0, got -1.0"),
        ({"value_learning_rate": -1.0}, "value_learning_rate must be at least 0, got -1.0"),
        ({"clip_range": 0.0}, "clip_range must be above 0, got 0.0"),
        ({"clip_range": lambda left: -0.2 * left}, "clip_range must be above 0, got -0.2"),
        ({"clip_range_high": NAN}, "clip_range_high must be above 0, got nan"),
        ({"clip_range_vf": 0.0}, "clip_range_vf must be above 0, got 0.0"),
        ({"ent_coef": NAN}, "ent_coef must be a finite number, got nan"),
        ({"vf_coef": NAN}, "vf_coef must be a finite number, got nan"),
        ({"vf_coef": -0.1}, "vf_coef must be at least 0, got -0.1"),
        ({"temperature": NAN}, "temperature must be above 0, got nan"),
    ],
)
def test_a_bad_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent(**options)


def test_a_negative_bonus_on_the_entropy_can_be_meant() -> None:
    assert agent(ent_coef=-0.01).learn(1).ent_coef == -0.01


def test_no_timesteps_are_refused() -> None:
    with pytest.raises(ValueError, match="total_timesteps must be at least 1, got 0"):
        agent().learn(0)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_lower() -> None:
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        agent(learning_rate=1e30, max_grad_norm=1e30).learn(500)


# --- Stable-Baselines3's contract --------------------------------------------------------------------------------------


def test_timesteps_are_generated_tokens_and_whole_batches() -> None:
    one = agent()
    seen: list[int] = []
    one.learn(100, callback=lambda local, _: seen.append(sum(len(e) for e in local["episodes"])) is None)
    assert one.num_timesteps == sum(seen) >= 100 > sum(seen[:-1])


def test_learning_goes_on_where_it_was_left_unless_told_otherwise() -> None:
    one = agent().learn(50)
    first = one.num_timesteps
    assert one.learn(50, reset_num_timesteps=False).num_timesteps >= first + 50
    assert one.learn(10).num_timesteps < first + 50


def test_a_function_that_says_no_stops_the_run() -> None:
    one = agent()
    one.learn(10_000, callback=lambda local, _: False)
    assert (one.num_timesteps > 0, one.n_updates) == (True, 0)


class Diary(BaseCallback):
    """What was called, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def _on_training_start(self) -> None:
        self.said.append("start")

    def _on_rollout_start(self) -> None:
        self.said.append("rollout")

    def _on_step(self) -> bool:
        self.said.append("step")
        return True

    def _on_rollout_end(self) -> None:
        self.said.append("end")

    def _on_training_end(self) -> None:
        self.said.append("over")


def test_callbacks_are_called_in_order() -> None:
    diary = Diary()
    agent().learn(1, callback=[diary])
    assert diary.said == ["start", "rollout", "step", "end", "over"]


def test_checkpoints_are_written_while_learning(tmp_path: Path) -> None:
    agent().learn(150, callback=CheckpointCallback(save_freq=2, save_path=str(tmp_path), name_prefix="ppo"))
    (first, *_) = sorted(tmp_path.iterdir())
    assert TokenPPO.load(first, make(max_new_tokens=6)).num_timesteps > 0


def test_an_evaluation_can_stop_the_run() -> None:
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1.0)
    one = agent()
    one.learn(
        10_000,
        callback=EvalCallback(
            Monitor(make(max_new_tokens=6)), callback_on_new_best=stop, n_eval_episodes=1, eval_freq=1, verbose=0
        ),
    )
    assert one.num_timesteps < 10_000


def test_callbacks_that_count_timesteps_see_tokens() -> None:
    diary = Diary()
    one = agent()
    one.learn(100, callback=EveryNTimesteps(n_steps=100, callback=diary))
    assert diary.said.count("step") == 1


def test_the_progress_bar_gives_the_terminal_back_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(local: Any, _: Any) -> bool:
        raise KeyboardInterrupt

    one = agent()
    with pytest.raises(KeyboardInterrupt):
        one.learn(100, callback=broken, progress_bar=True)
    one.learn(1, progress_bar=True)
    assert "tokens/s" in capsys.readouterr().out


def test_predict_takes_one_observation_or_several() -> None:
    one = agent()
    observation, _ = one.env.reset()
    alone, state = one.predict(observation, deterministic=True)
    several, _ = one.predict(np.stack([observation] * 3), deterministic=True)
    assert state is None
    assert np.ndim(alone) == 0
    assert several.tolist() == [int(alone)] * 3
    one.env.step(alone)


def test_the_fields_metrics_are_logged_by_their_names() -> None:
    (row,) = logged(agent())
    expected = (
        "rollout/ep_rew_mean rollout/ep_len_mean time/fps time/iterations time/time_elapsed time/total_timesteps train/loss "
        "train/policy_gradient_loss train/value_loss train/entropy_loss train/approx_kl train/clip_fraction train/clip_range "
        "train/explained_variance train/learning_rate train/n_updates objective/kl objective/scores objective/entropy "
        "objective/non_score_reward objective/rlhf_reward credit/nonzero_share credit/spans credit/critic_seconds "
        "credit/critic_parse_failures val/ratio val/num_eos_tokens"
    )
    assert set(expected.split()) - set(row) == set()


def test_the_score_is_logged_apart_from_what_was_paid() -> None:
    env = make(reward=("critic_span", {"positive": 100.0}), payment="end", max_new_tokens=6, scorer=worlds.constant_scorer(0.25))
    seen: list[Any] = []
    one = agent(env=env)
    memory = Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(1, callback=lambda local, _: seen.extend(local["episodes"]) is None)
    assert memory.rows[0]["objective/scores"] == 0.25
    assert memory.rows[0]["rollout/ep_rew_mean"] == pytest.approx(np.mean([e.rewards.sum() for e in seen]))


def test_tensorboard_shows_the_numbers_and_the_texts(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    agent(tensorboard_log=str(tmp_path), env=make(prompts=["<script>|x"], max_new_tokens=6)).learn(1)
    (directory,) = tmp_path.iterdir()
    events = EventAccumulator(str(directory)).Reload()
    assert "objective/scores" in events.Tags()["scalars"]
    (tag,) = events.Tags()["tensors"]
    (table,) = events.Tensors(tag)[0].tensor_proto.string_val
    assert b"&lt;script&gt;&#124;x" in table
    assert b"<script>" not in table


# --- It learns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["sparse", "critic_span"])
def test_it_solves_the_smallest_world(reward: str) -> None:
    env = make(reward=reward, payment="end", max_new_tokens=8)
    options = {"n_episodes": 32, "batch_size": 16, "n_epochs": 2, "learning_rate": 1e-2, "kl_coef": 0.0}
    one = agent(env=env, model=worlds.llama(initializer_range=0.02), **options)
    while one.num_timesteps < 40_000 and evaluate(one, env, 1, k=16).metrics["mean_score"] < 0.95:
        one.learn(2_000, reset_num_timesteps=False)
    assert evaluate(one, env, 1, k=16).metrics["mean_score"] >= 0.95


def test_pad_equal_to_eos_does_not_cut_the_stop_token_off() -> None:
    tokenizer = copy.deepcopy(worlds.BYTES)
    tokenizer.pad_token = tokenizer.eos_token
    env = make(tokenizer=tokenizer, max_new_tokens=6)
    episodes: Sequence[Any] = [env.get_wrapper_attr("episode")(p, [97, EOS]) for p in env.get_wrapper_attr("sample_prompts")(2)]
    one = agent(env=env)
    assert len(one.prepare(env.get_wrapper_attr("credit")(episodes)).log_probs) == 4
