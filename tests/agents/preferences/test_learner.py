"""Preference learners: what is frozen is frozen, Stable-Baselines3's contract, and they solve the twin of the smallest world."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import Logger

from tests import worlds
from tests.worlds import BYTES, EOS, Memory, make
from textenv.agents import LMPolicy, evaluate
from textenv.agents.preferences.learner import DPO, TREG, PreferenceLearner, SimPO
from textenv.agents.preferences.pairs import Pair, sample_pairs, with_explored
from textenv.episode import Episode, Prompt

ROWS = [
    {"prompt": "p: ", "chosen": "yes", "rejected": "no"},
    {"prompt": "qq: ", "chosen": "ab", "rejected": "cdefg"},
    {"prompt": "r: ", "chosen": "hijkl", "rejected": "m"},
]
SMALL: dict[str, Any] = {"batch_size": 2, "learning_rate": 1e-3, "seed": 0}
ROUND: dict[str, Any] = {**SMALL, "n_prompts": 4, "n_samples": 3}
LOSSES = pytest.mark.parametrize("loss", ["dpo", "simpo", "tdpo1", "tdpo2"])


def by_parity(episodes: Any) -> list[np.ndarray]:
    """A token source: even ids are good."""
    return [np.where(episode.tokens % 2 == 0, 0.4, -0.4) for episode in episodes]


def policy(model: Any = None, **options: Any) -> LMPolicy:
    return LMPolicy(worlds.llama() if model is None else model, BYTES, **options)


def given(kind: Any = PreferenceLearner, pairs: Any = None, **options: Any) -> Any:
    """A learner of pairs that are there."""
    return kind(options.pop("policy", None) or policy(), None, ROWS if pairs is None else pairs, **{**SMALL, **options})


def sampling(kind: Any = PreferenceLearner, **options: Any) -> Any:
    """A learner that samples its pairs and ranks them."""
    env = options.pop("env", None) or make(max_new_tokens=6, scorer=worlds.even_share)
    return kind(options.pop("policy", None) or policy(), env, **{**ROUND, **options})


class StopAfter(BaseCallback):
    """Ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def _on_step(self) -> bool:
        self.left -= 1
        return self.left > 0


def logged(one: Any, timesteps: int = 1, **options: Any) -> list[dict[str, Any]]:
    memory = Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(timesteps, **options)
    return memory.rows


# --- It learns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "dpo"},
        {"loss": "simpo"},
        {"loss": "tdpo1"},
        {"loss": "tdpo2", "update_reference": True},  # near its first reference, which writes anything, it would stay
        {"loss": "dpo", "treg_alpha": 0.25, "token_source": by_parity},
        {"loss": "dpo", "selm_alpha": 1e-3, "update_reference": True},
    ],
    ids=lambda options: "-".join(name for name in (options["loss"], *list(options)[1:])),
)
def test_it_solves_the_preference_twin_of_the_smallest_world(options: dict[str, Any]) -> None:
    env = make(max_new_tokens=8)
    one = PreferenceLearner(
        policy(worlds.llama(initializer_range=0.02)), env, learning_rate=lambda _: 1e-2, n_prompts=16, n_samples=8, n_epochs=2,
        batch_size=8, seed=0, **options,
    )  # fmt: skip
    while one.num_timesteps < 30_000 and evaluate(one, env, 1, k=16).metrics["mean_score"] < 0.95:
        one.learn(2_000, reset_num_timesteps=False)
    assert evaluate(one, env, 1, k=16).metrics["mean_score"] >= 0.95


@LOSSES
def test_given_pairs_are_told_apart(loss: Any) -> None:
    one = given(loss=loss, learning_rate=1e-2)
    before = one.compare(one.pairs)
    after = one.learn(300).compare(one.pairs)
    assert after["rewards/accuracies"] == 1.0
    assert after["rewards/margins"] > before["rewards/margins"]
    assert after["train/loss"] < before["train/loss"]


def test_treg_moves_the_tokens_of_a_text_apart_as_their_rewards_say() -> None:
    pairs = [{"prompt": "p: ", "chosen": "bcbc", "rejected": "dddd"}]  # "b" is even, "c" is not
    one, base = (given(TREG, pairs, treg_alpha=a, token_source=by_parity, learning_rate=1e-3) for a in (1.0, 0.0))
    (pair,) = one.pairs
    prompt, tokens = [pair.chosen.prompt_tokens], [pair.chosen.tokens]
    start = base.policy.evaluate(prompt, tokens, base.rule).log_probs.detach()
    gains = [a.learn(60).policy.evaluate(prompt, tokens, a.rule).log_probs.detach() - start for a in (one, base)]
    shares = [float(gain[[0, 2]].sum() - gain[[1, 3]].sum()) for gain in gains]
    assert shares[0] > shares[1]


def test_one_step_of_selm_moves_away_from_what_the_reference_writes() -> None:
    one, base = (given(selm_alpha=a, learning_rate=lambda _: 1e-3, batch_size=3) for a in (50.0, 0.0))
    written = with_explored(one.pairs, one.reference, one.rule, one.reading)
    prompts, tokens = [p.explored.prompt_tokens for p in written], [p.explored.tokens for p in written]
    after = [a.learn(1).policy.evaluate(prompts, tokens, a.rule).log_probs.sum().item() for a in (one, base)]
    before = one.reference.evaluate(prompts, tokens, one.rule).log_probs.sum().item()
    assert after[0] < before
    assert after[0] < after[1]


@pytest.mark.parametrize("name", ["t5", "bart"])
@LOSSES
def test_encoder_decoders_learn_preferences(name: str, loss: Any) -> None:
    one = given(policy=policy(worlds.ENCODER_DECODERS[name]()), loss=loss, learning_rate=1e-2)
    assert one.learn(300).compare(one.pairs)["rewards/accuracies"] == 1.0


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs PEFT")
def test_an_adapter_learns_against_its_base_with_the_adapter_off() -> None:
    one = given(TREG, policy=policy(lora=4), token_source=by_parity, learning_rate=1e-2)
    assert one.compare(one.pairs)["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    one.learn(300)
    assert worlds.same_weights(one.reference.model, worlds.llama())
    assert one.compare(one.pairs)["rewards/accuracies"] == 1.0


# --- What is frozen ----------------------------------------------------------------------------------------------------


def test_the_reference_reads_each_text_once() -> None:
    one = given(TREG, token_source=by_parity)
    read: list[int] = []
    plain = one.reference.evaluate

    def counted(prompts: Any, texts: Any, rule: Any) -> Any:
        read.extend(map(len, texts))
        return plain(prompts, texts, rule)

    one.reference.evaluate = counted
    one.learn(200)
    one.learn(200)
    assert sorted(read) == sorted(len(text) for pair in one.pairs for text in (pair.chosen, pair.rejected))


def test_token_rewards_are_asked_for_once_and_carry_no_gradient() -> None:
    asked: list[Episode] = []
    one = given(TREG, token_source=lambda episodes: [asked.append(e) or np.zeros(len(e)) for e in episodes])  # type: ignore[func-returns-value]
    one.learn(200)
    assert len(asked) == 2 * len(ROWS)
    assert all((e.rewards == 0).all() for e in asked)


def test_training_leaves_the_reference_as_it_was() -> None:
    one = given().learn(100)
    assert worlds.same_weights(one.reference.model, worlds.llama())
    assert not worlds.same_weights(one.policy.model, worlds.llama())


def test_a_round_may_begin_with_the_policy_as_its_reference() -> None:
    one = sampling(update_reference=True)
    seen: list[float] = []
    one.learn(150, callback=lambda local, _: seen.append(local["self"].n_updates) is None)
    assert not worlds.same_weights(one.reference.model, worlds.llama())
    assert not worlds.same_weights(one.reference.model, one.policy.model)
    fixed = sampling().learn(150)
    assert worlds.same_weights(fixed.reference.model, worlds.llama())


def test_simpo_holds_no_reference() -> None:
    assert given(SimPO).reference is None


def test_sampled_ids_are_never_tokenized_again() -> None:
    env = make(max_new_tokens=6, scorer=worlds.even_share)
    found = sample_pairs(env, policy(), 8, 4, torch.Generator().manual_seed(0))
    texts = [text.tokens.tolist() for pair in found.pairs for text in (pair.chosen, pair.rejected)]
    assert any(BYTES(BYTES.decode(ids)).input_ids != ids for ids in texts)  # they could not be told from their text
    one = PreferenceLearner(policy(), env, found.pairs, **SMALL)
    assert [text.tokens.tolist() for pair in one.pairs or [] for text in (pair.chosen, pair.rejected)] == texts


def test_a_text_that_ends_before_the_environments_minimum_has_a_finite_loss() -> None:
    env = make(max_new_tokens=6, min_new_tokens=6)
    one = PreferenceLearner(policy(), env, [{"chosen": "ab", "rejected": "c"}], **SMALL)
    assert np.isfinite(one.compare(one.pairs or [])["logps/chosen"])


def test_pad_equal_to_eos_does_not_cut_the_stop_token_off() -> None:
    tokenizer = copy.deepcopy(BYTES)
    tokenizer.pad_token = tokenizer.eos_token
    plain, padded = (given(policy=LMPolicy(worlds.llama(), t), batch_size=3) for t in (BYTES, tokenizer))
    assert padded.pairs[0].chosen.tokens.tolist() == [*b"yes", EOS]
    assert plain.compare(plain.pairs) == padded.compare(padded.pairs)


# --- One run is like another ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_one", [given, sampling])
def test_two_runs_of_one_seed_are_equal_bit_for_bit(make_one: Any) -> None:
    runs = [make_one(TREG, token_source=by_parity, seed=7).learn(150) for _ in range(2)]
    assert worlds.same_weights(runs[0].policy, runs[1].policy)


def test_another_seed_is_another_run() -> None:
    assert not worlds.same_weights(given(seed=1).learn(60).policy, given(seed=2).learn(60).policy)


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002 - watched, not used
    sampling(selm_alpha=0.01).learn(80)
    assert before == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())  # noqa: NPY002


@pytest.mark.parametrize("options", [{}, {"loss": "simpo"}, {"loss": "tdpo2"}, {"selm_alpha": 0.1}])
def test_micro_batches_of_any_size_make_the_same_update(options: dict[str, Any]) -> None:
    whole, parts = (given(TREG, token_source=by_parity, batch_size=3, micro_batch_size=m, **options) for m in (3, 1))
    whole.learn(40)
    parts.learn(40)
    for (name, a), b in zip(whole.policy.named_parameters(), parts.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4), name


@pytest.mark.parametrize("kind", [DPO, SimPO, TREG])
def test_a_saved_learner_goes_on_as_if_nothing_had_happened(kind: Any, tmp_path: Path) -> None:
    source = {"token_source": ("dpo", {"model": str(worlds.saved(worlds.llama(seed=5), tmp_path / "dpo"))})} if kind is TREG else {}
    one = given(kind, learning_rate=lambda _: 1e-3, batch_size=3, **source).learn(40)
    one.save(tmp_path / "agent")
    again = kind.load(tmp_path / "agent", None, pairs=ROWS, learning_rate=lambda _: 1e-3)
    assert (again.num_timesteps, again.n_updates) == (one.num_timesteps, one.n_updates)
    assert not any(path.suffix in (".pkl", ".pt", ".bin") for path in (tmp_path / "agent").rglob("*"))
    for agent in (one, again):
        agent.learn(60, reset_num_timesteps=False)
    assert worlds.same_weights(one.policy, again.policy)


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_a_run_cut_in_the_middle_of_a_pass_goes_on_as_if_it_had_not_been(updates: int, tmp_path: Path) -> None:
    whole = given().learn(150)
    cut = given().learn(150, callback=StopAfter(updates))
    cut.save(tmp_path / "agent")
    again = PreferenceLearner.load(tmp_path / "agent", None, pairs=ROWS)
    again.learn(150 - again.num_timesteps, reset_num_timesteps=False)
    assert (again.num_timesteps, again.n_updates) == (whole.num_timesteps, whole.n_updates)
    assert worlds.same_weights(whole.policy, again.policy)


def test_a_token_source_that_is_no_name_must_be_passed_again(tmp_path: Path) -> None:
    given(TREG, token_source=by_parity).save(tmp_path / "agent")
    with pytest.raises(ValueError, match="pass token_source="):
        TREG.load(tmp_path / "agent", None, pairs=ROWS)
    assert TREG.load(tmp_path / "agent", None, pairs=ROWS, token_source=by_parity).treg_alpha == 0.25


def test_a_named_model_is_its_own_reference_in_a_checkpoint(tmp_path: Path, llama_directory: Path) -> None:
    PreferenceLearner(str(llama_directory), None, ROWS, **SMALL).learn(30).save(tmp_path / "agent")
    assert not (tmp_path / "agent" / "reference").exists()
    again = PreferenceLearner.load(tmp_path / "agent", None, pairs=ROWS)
    assert again.reference is not None
    assert worlds.same_weights(again.reference.model, worlds.llama())


# --- Stable-Baselines3's contract ----------------------------------------------------------------------------------------


def test_timesteps_are_tokens_learned_from_where_pairs_are_given() -> None:
    one = given()
    seen: list[int] = []
    one.learn(100, callback=lambda local, _: seen.append(sum(map(len, local["pairs"]))) is None)
    assert one.num_timesteps == sum(seen) >= 100 > sum(seen[:-1])


def test_timesteps_are_generated_tokens_where_pairs_are_sampled() -> None:
    one = sampling()
    seen: dict[int, int] = {}
    one.learn(100, callback=lambda local, _: seen.update({id(local["episodes"]): sum(map(len, local["episodes"]))}) is None)
    assert one.num_timesteps >= 100
    assert one.num_timesteps % (4 * 3) == 0 or one.num_timesteps >= max(seen.values())


@pytest.mark.parametrize("make_one", [given, sampling])
def test_a_function_that_says_no_stops_the_run(make_one: Any) -> None:
    assert make_one().learn(100_000, callback=lambda local, _: False).n_updates == 1


def test_checkpoints_are_written_while_learning(tmp_path: Path) -> None:
    given().learn(200, callback=CheckpointCallback(save_freq=2, save_path=str(tmp_path), name_prefix="dpo"))
    assert PreferenceLearner.load(min(tmp_path.iterdir()), None, pairs=ROWS).num_timesteps > 0


def test_the_progress_bar_counts_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    given().learn(50, progress_bar=True)
    assert "tokens/s" in capsys.readouterr().out


def test_predict_takes_one_observation_or_several() -> None:
    one = sampling()
    observation, _ = one.env.reset()
    alone, _ = one.predict(observation, deterministic=True)
    several, _ = one.predict(np.stack([observation] * 3), deterministic=True)
    assert several.tolist() == [int(alone)] * 3


def test_the_fields_metrics_are_logged_by_their_names() -> None:
    names = "rewards/chosen rewards/rejected rewards/margins rewards/accuracies logps/chosen logps/rejected logps/lowest_token"
    usual = f"{names} train/loss train/learning_rate train/grad_norm train/n_updates time/fps time/total_timesteps"
    treg, tdpo = logged(given(TREG, token_source=by_parity), log_interval=1)[0], logged(given(loss="tdpo2"), log_interval=1)[0]
    online = logged(sampling(selm_alpha=0.01))[0]
    assert set(f"{usual} treg/regularizer treg/weight treg/mean_abs_reward".split()) - set(treg) == set()
    assert set(f"{usual} kl/chosen kl/rejected".split()) - set(tdpo) == set()
    expected = f"{usual} selm/log_ratio logps/explored objective/scores rollout/ep_len_mean pairs/share pairs/score_gap"
    assert set(expected.split()) - set(online) == set()
    assert treg["rewards/margins"] == pytest.approx(treg["rewards/chosen"] - treg["rewards/rejected"], abs=1e-5)


def test_tensorboard_shows_the_margins(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given(TREG, token_source=by_parity, tensorboard_log=str(tmp_path)).learn(30, log_interval=1)
    (directory,) = tmp_path.iterdir()
    assert directory.name == "TREG_1"
    assert "rewards/margins" in EventAccumulator(str(directory)).Reload().Tags()["scalars"]


def test_a_rate_that_is_a_number_rises_and_falls() -> None:
    rates = [row["train/learning_rate"] for row in logged(given(batch_size=1, learning_rate=1e-3), 300, log_interval=1)]
    assert rates[0] < 2e-4
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[-1] < 1e-4
    assert np.argmax(rates) < len(rates) / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 1}, "n_samples must be at least 2, got 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1, got 0"),
        ({"treg_alpha": -0.1}, "treg_alpha and selm_alpha must not be negative, got -0.1"),
        ({"treg_weight": "none"}, 'treg_weight must be "pair" or "static", got \'none\''),
        ({"loss": "ipo"}, "loss must be one of"),
        ({"update_reference": True}, "update_reference=True .* pairs that are given make no rounds"),
        ({"learning_rate": lambda left: -left}, "learning_rate must be at least 0, got -1.0"),
    ],
)
def test_a_bad_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given(**options)


def test_a_reference_that_no_loss_reads_is_not_renewed() -> None:
    with pytest.raises(ValueError, match=r"update_reference=True .* loss='simpo' reads no reference"):
        sampling(SimPO, update_reference=True)


def test_neither_pairs_nor_an_environment_are_refused() -> None:
    with pytest.raises(ValueError, match="give pairs="):
        PreferenceLearner(policy())


def test_texts_that_all_score_alike_are_no_pairs_and_that_is_said() -> None:
    with pytest.raises(ValueError, match="no two texts of one prompt differed in score"):
        sampling(env=make(max_new_tokens=6, scorer=worlds.constant_scorer(0.5))).learn(50)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_lower() -> None:
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        given(learning_rate=lambda _: 1e30, max_grad_norm=1e30).learn(500)


def test_the_example_runs_at_small_scale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from examples import treg_preferences

    monkeypatch.setattr("sys.argv", ["treg_preferences.py", "--prompts", "4", "--samples", "3", "--steps", "2", "--held-out", "2"])
    treg_preferences.main()
    assert "T-REG" in capsys.readouterr().out


def test_pairs_of_one_prompt_are_the_best_and_the_worst_by_the_environments_score() -> None:
    env = make(max_new_tokens=6, scorer=worlds.even_share)
    found = sample_pairs(env, policy(), 5, 4, torch.Generator().manual_seed(1))
    groups = [[e.score for e in found.episodes[at : at + 4]] for at in range(0, 20, 4)]
    expected = [(max(group), min(group)) for group in groups if max(group) > min(group)]
    assert [(pair.chosen.score, pair.rejected.score) for pair in found.pairs] == expected


def test_the_explored_text_joins_the_ranking_and_is_kept() -> None:
    env = make(max_new_tokens=6, scorer=worlds.even_share)
    found = sample_pairs(env, policy(), 5, 2, torch.Generator().manual_seed(1), explorer=policy(worlds.llama(seed=3)))
    assert len(found.episodes) == 15
    assert all(isinstance(pair, Pair) and pair.explored is not None for pair in found.pairs)
    assert any(pair.explored in (pair.chosen, pair.rejected) for pair in found.pairs)


def test_prompts_of_an_environment_are_read_as_its_policies_read_them() -> None:
    env = make(max_new_tokens=6)
    one = PreferenceLearner(policy(), env, ROWS, **SMALL)
    assert [p.chosen.prompt_tokens.tolist() for p in one.pairs or []] == [
        env.get_wrapper_attr("prompt_tokens")(Prompt(row["prompt"])).tolist() for row in ROWS
    ]
    assert json.dumps(one._state())
