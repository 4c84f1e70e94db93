"""ReST: it grows, filters and improves as Algorithm 1 says, goes on where it stopped, and solves the smallest world."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import Logger
from transformers import AutoModelForCausalLM

from tests import worlds
from tests.worlds import BYTES, Memory, make
from textenv.agents import BehaviourCloning, LMPolicy, evaluate
from textenv.agents.rest.grown import GrownData
from textenv.agents.rest.grown_files import save_grown
from textenv.agents.rest.rest import ReST
from textenv.episode import Episode, Prompt
from textenv.fitting.training import fit

SMALL: dict[str, Any] = {
    "samples_per_prompt": 8, "updates": 4, "batch_size": 4, "thresholds": (0.7, 0.85), "learning_rate": 1e-3,
    "drop_truncated": False,
}  # fmt: skip
RAFT = {name: value for name, value in SMALL.items() if name != "thresholds"}
PROMPTS = [Prompt("a", references=("bd",)), Prompt("bb", references=("f",)), Prompt("ccc", references=("hjl",))]


def taste(episodes: Sequence[Episode]) -> list[float]:
    """A verdict that differs between all texts, most of them bad."""
    return [float(np.mean((e.tokens * 37 % 101) / 101.0)) ** 3 for e in episodes]


def world(**options: Any) -> Any:
    return make(**{"prompts": PROMPTS, "max_new_tokens": 6, "scorer": taste, **options})


def agent(model: Any = None, *, env: Any = None, seed: int | None = 0, **options: Any) -> ReST:
    return ReST(worlds.llama() if model is None else model, world() if env is None else env, seed=seed, **{**SMALL, **options})


def logged(one: ReST) -> list[dict[str, Any]]:
    memory = Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn()
    return memory.rows


# --- Algorithm 1 -------------------------------------------------------------------------------------------------------


def test_it_grows_g_times_and_improves_i_times_after_each() -> None:
    one = agent(grow_steps=2, improve_steps=1).learn()
    assert [(h["grow"], h["improve"]) for h in one.history] == [(1, 1), (2, 1)]
    assert [(h["grow"], h["improve"]) for h in agent(grow_steps=2).learn().history] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_each_improve_step_learns_from_a_subset_of_what_the_former_learned_from() -> None:
    one = agent(thresholds=(None, 0.7, 0.8, 0.9), updates=2)
    sets: list[set[int]] = []
    one.learn(callback=lambda local, _: not local["improved"] or sets.append(set(one._kept.rows.tolist())) is None)
    assert [len(rows) for rows in sets] == [27, 8, 6, 3]
    assert all(later < former for former, later in itertools.pairwise(sets))


def test_a_grow_step_scores_once_and_its_improve_steps_reuse_the_samples() -> None:
    calls: list[int] = []

    def scorer(episodes: Any) -> list[float]:
        calls.append(len(episodes))
        return taste(episodes)

    agent(env=world(scorer=scorer), thresholds=(0.7, 0.8, 0.9), grow_steps=2).learn()
    assert calls == [24, 3, 24]  # samples, the original data, samples


def test_the_original_data_stay_in_every_grown_data_set() -> None:
    one = agent(grow_steps=2)
    one.learn()
    assert [e.text for e in one.grown.originals.episodes] == ["bd", "f", "hjl"]
    assert len(one.grown.samples) == 24


def test_the_learning_rate_falls_from_one_improve_step_to_the_next_and_begins_anew_after_a_grow() -> None:
    one, rates = agent(grow_steps=2, updates=1), []
    one.learn(callback=lambda local, _: rates.append(one.optimizer.param_groups[0]["lr"]) is None)
    assert list(dict.fromkeys(rates)) == [1.0, 1e-3, 5e-4]  # 1.0: before the first update
    assert rates[-1] == 5e-4


def test_each_improve_step_begins_with_the_previous_policy_or_with_the_base() -> None:
    for start, restarts in (("previous", False), ("base", True)):
        one, found = agent(start=start, learning_rate=1e-30, lr_decay=1.0, weight_decay=0.0), []
        moved = worlds.llama(seed=5)

        def move(local: Any, _: Any, one: ReST = one, found: list[bool] = found, moved: Any = moved) -> None:
            if local["improved"] and local["improved"]["improve"] == 1:
                one.policy.model.load_state_dict(moved.state_dict())
            elif local["improved"]:
                found.append(torch.allclose(one.policy.model.lm_head.weight, worlds.llama().lm_head.weight))

        one.learn(callback=lambda local, g, move=move: move(local, g) is None)
        assert found == [restarts]


def test_no_improve_step_learns_once_from_everything_without_a_filter() -> None:
    """G=1 I=0 is not the supervised baseline: it learns from samples and data."""
    (step,) = agent(improve_steps=0).learn().history
    assert (step["grow"], step["improve"], step["threshold"], step["kept"], step["kept_share"]) == (1, 0, None, 27, 1.0)


def test_without_growing_and_thresholds_it_is_supervised_training_bit_for_bit() -> None:
    """Against the library's supervised loop, on what behaviour cloning makes of the same prompts."""
    one = agent(grow_steps=0, improve_steps=0, updates=20, batch_size=2, seed=3).learn()
    plain, generator = LMPolicy(worlds.llama(), BYTES), torch.Generator().manual_seed(3)
    cloned = BehaviourCloning(LMPolicy(worlds.llama(), BYTES), world())

    def batches() -> Any:
        while True:
            order = torch.randperm(len(cloned.examples), generator=generator).tolist()
            for at in range(0, len(order), 2):
                yield [cloned.examples[i] for i in order[at : at + 2]]

    def loss(policy: Any, batch: Any) -> Any:
        return -policy.evaluate([x for x, _ in batch], [y for _, y in batch], one.rule).log_probs.mean()

    fit(plain, batches(), loss, steps=20, learning_rate=1e-3)
    assert worlds.same_weights(one.policy.model, plain.model)
    assert not worlds.same_weights(one.policy.model, worlds.llama())


def test_the_gradient_splits_into_those_of_samples_and_data_by_their_share() -> None:
    """∇J = λ ∇J_samples + (1 − λ) ∇J_data, tokens counted."""
    one = agent(improve_steps=0, updates=1, batch_size=1000)
    one.learn()
    grown = one.grown

    def gradient(part: GrownData) -> tuple[int, list[torch.Tensor]]:
        fresh = agent()
        fresh.improver.update(part.episodes, None, rate=0.0, step=0, steps=1)
        fresh.improver.max_grad_norm = 1e9
        fresh.improver.update(part.episodes, None, rate=0.0, step=0, steps=1)
        return sum(map(len, part.episodes)), [p.grad for p in fresh.policy.model.parameters()]

    (n, whole), (a, samples), (b, data) = (gradient(part) for part in (grown, grown.samples, grown.originals))
    for w, s, d in zip(whole, samples, data, strict=True):
        assert torch.allclose(w, a / n * s + b / n * d, atol=1e-5)


def test_the_checkpoint_of_an_improve_step_is_the_best_by_held_out_reward() -> None:
    one, seen = agent(eval_env=world(), eval_every=1, updates=6, learning_rate=0.03, thresholds=(0.7,)), []
    memory = Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(log_interval=1)
    seen = [row["eval/mean_reward"] for row in memory.rows if "eval/mean_reward" in row]
    (step,) = one.history
    assert step["held_out"] == pytest.approx(max(seen))
    again = agent(one.policy, eval_env=world(), updates=1, thresholds=(0.7,), learning_rate=1e-12).learn().history
    assert again[0]["held_out"] == pytest.approx(step["held_out"])


def test_an_improve_step_ends_when_the_held_out_reward_has_stopped_rising() -> None:
    one = agent(eval_env=world(scorer=worlds.constant_scorer(0.5)), eval_every=1, patience=2, updates=50, thresholds=(0.7,))
    (step,) = one.learn().history
    assert (step["updates"], step["best_update"]) == (2, 0)


def test_a_policy_that_did_not_get_better_is_the_one_it_began_with() -> None:
    model = worlds.llama()
    agent(model, eval_env=world(scorer=worlds.constant_scorer(0.5)), learning_rate=0.1).learn()
    assert worlds.same_weights(model, worlds.llama())


def test_thresholds_that_keep_nothing_end_the_improve_steps_with_a_word() -> None:
    one = agent(env=world(scorer=worlds.constant_scorer(0.5)), threshold="absolute", thresholds=(0.5, 0.9))
    with pytest.warns(UserWarning, match="none of 27 texts has a reward above the threshold 0.5"):
        one.learn()
    assert one.history == []
    assert one.finished


def test_a_first_threshold_below_the_mean_reward_is_questioned() -> None:
    with pytest.warns(UserWarning, match=r"keeps rewards down to .*, not above the mean .* \(ReST, A\.3\)"):
        agent(threshold="absolute", thresholds=(0.01,)).learn()


def test_nothing_that_ended_by_itself_is_an_error_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"nothing to learn from: 8 texts, 8 of them cut at max_new_tokens=1; raise it, pass"):
        agent(env=world(prompts=["a"], max_new_tokens=1), drop_truncated=True).learn()


@pytest.mark.parametrize("loss", ["gold", {"name": "offline_ac", "value_updates": 2}, {"name": "bvmpo", "value_updates": 2}])
@pytest.mark.parametrize("model", ["llama", "t5"])
def test_every_loss_improves_causal_and_encoder_decoder_models(loss: Any, model: str) -> None:
    one = agent(getattr(worlds, model)(), loss=loss).learn()
    assert len(one.history) == 2
    assert not worlds.same_weights(one.policy.model, getattr(worlds, model)())


def test_an_adapter_learns_alone() -> None:
    pytest.importorskip("peft")
    one = ReST(worlds.llama(), world(), seed=0, lora=2, start="base", **SMALL).learn()
    named = dict(worlds.llama().named_parameters())
    frozen = {n.replace(".base_layer", ""): p for n, p in one.policy.model.named_parameters() if not p.requires_grad}
    assert frozen.keys() == named.keys()
    assert all(torch.equal(p, named[n]) for n, p in frozen.items())
    assert one._base.keys() == {n for n, p in one.policy.named_parameters() if p.requires_grad}


# --- Presets -----------------------------------------------------------------------------------------------------------


def test_raft_learns_from_the_best_of_k_samples_of_each_prompt_and_from_nothing_else() -> None:
    one = ReST.raft(worlds.llama(), world(), seed=0, grow_steps=1, **RAFT).learn()
    best = {p.text: max(e.score for e in one.grown.samples.episodes if e.prompt.text == p.text) for p in PROMPTS}
    kept = [one.grown.episodes[i] for i in one._kept.rows]
    assert {e.prompt.text for e in kept} == set(best)
    assert all(e.score == best[e.prompt.text] for e in kept)
    assert len(one.grown.originals) == 0


def test_raft_by_quantile_is_one_improve_step_after_each_grow() -> None:
    one = ReST.raft(worlds.llama(), world(), quantile=0.85, grow_steps=2, seed=0, **RAFT)
    assert [(h["improve"], h["level"]) for h in one.learn().history] == [(1, 0.85), (1, 0.85)]


def test_rest_em_learns_from_what_is_right_each_time_from_the_base() -> None:
    env = world(scorer=lambda es: [float(e.tokens[0] % 2 == 0) for e in es])
    one = ReST.rest_em(worlds.llama(), env, seed=0, updates=2, drop_truncated=False, max_per_prompt=3, grow_steps=1).learn()
    assert (one.start, one.history[0]["threshold"], one.history[0]["kept_reward"]) == ("base", 0.0, 1.0)
    assert one.history[0]["kept"] == 9


# --- Grown data again --------------------------------------------------------------------------------------------------


def test_grown_data_from_a_file_are_used_without_sampling(tmp_path: Path) -> None:
    first = agent().learn()
    path = save_grown(first.grown, tmp_path / "grown.jsonl")

    def never(_: Any) -> Any:
        raise AssertionError("judged again")

    one = agent(env=world(scorer=never), grown=path)
    one.learn()
    assert [h["kept"] for h in one.history] == [h["kept"] for h in first.history]
    assert [h["threshold"] for h in one.history] == [h["threshold"] for h in first.history]


def test_two_agents_on_the_same_saved_data_learn_the_same(tmp_path: Path) -> None:
    path = save_grown(agent().learn().grown, tmp_path / "grown.parquet")
    one, two = (agent(grown=path, seed=4).learn() for _ in range(2))
    assert worlds.same_weights(one.policy, two.policy)
    assert one.history == two.history


# --- Stable-Baselines3's contract --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["llama", "gpt2", "t5"])
def test_two_runs_of_one_seed_are_equal_bit_for_bit(model: str) -> None:
    one, two = (agent(getattr(worlds, model)(), grow_steps=2, eval_env=world()).learn() for _ in range(2))
    assert worlds.same_weights(one.policy, two.policy)
    assert one.history == two.history


def test_another_seed_is_another_run_and_the_global_generators_are_left_alone() -> None:
    one, two = agent(seed=1), agent(seed=2)
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002 - watched, not used
    one.learn()
    two.learn()
    assert before == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert not worlds.same_weights(one.policy, two.policy)


def test_timesteps_are_tokens_generated_and_learned_from() -> None:
    one = agent(thresholds=(None,), updates=3, batch_size=27).learn()
    grown = sum(map(len, one.grown.samples.episodes))
    assert one.num_timesteps == grown + 3 * sum(map(len, one.grown.episodes))
    assert one.num_timesteps <= agent(thresholds=(None,), updates=3, batch_size=27)._planned()


def test_a_run_cut_short_by_its_timesteps_goes_on_where_it_stopped() -> None:
    straight, cut = agent(grow_steps=2).learn(), agent(grow_steps=2)
    cut.learn(150)
    assert not cut.finished
    while not cut.finished:
        cut.learn(40, reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, cut.policy)
    assert straight.history == cut.history


def test_after_a_finished_plan_another_one_begins_from_the_policy_of_now() -> None:
    one = agent().learn()
    weights = [p.clone() for p in one.policy.parameters()]
    one.learn(reset_num_timesteps=False)
    assert len(one.history) == 4
    assert not all(torch.equal(a, b) for a, b in zip(weights, one.policy.parameters(), strict=True))


def test_a_callback_can_stop_it_while_it_grows_and_while_it_improves(monkeypatch: pytest.MonkeyPatch) -> None:
    one = agent()
    with monkeypatch.context() as patch:
        patch.setattr("textenv.agents.rest.grown.CHUNK", 10)
        one.learn(callback=lambda local, _: False)
    assert (one.num_timesteps, one.n_updates, one.progress.is_grown) == (60, 0, False)
    one.learn(callback=lambda local, _: False)
    assert (one.n_updates, len(one.grown)) == (0, 27)  # the last part: nothing is sampled again
    one.learn(callback=lambda local, _: one.n_updates < 2)
    assert one.n_updates == 2


class Entries(BaseCallback):
    """The entries that the ends of Improve steps bring."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Any] = []

    def _on_step(self) -> bool:
        if self.locals["improved"]:
            self.entries.append(self.locals["improved"])
        return True


def test_callbacks_see_the_end_of_each_improve_step() -> None:
    entries = Entries()
    one = agent().learn(callback=entries)
    assert entries.entries == one.history


def test_what_is_logged_has_the_fields_names() -> None:
    rows = logged(agent(eval_env=world(), grow_steps=1))
    seen = {name for row in rows for name in row}
    expected = (
        "rollout/ep_rew_mean rollout/ep_len_mean objective/scores rest/grown rest/grow rest/improve rest/threshold rest/kept_share "
        "rest/coverage rest/kept_reward rest/held_out rest/nll eval/mean_reward train/loss train/nll train/learning_rate "
        "train/grad_norm"
    )
    assert set(expected.split()) - seen == set()


def test_tensorboard_and_the_progress_bar_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    agent(tensorboard_log=str(tmp_path)).learn(progress_bar=True)
    (directory,) = tmp_path.iterdir()
    tags = EventAccumulator(str(directory)).Reload().Tags()
    assert {"rest/threshold", "rest/kept_share", "objective/scores"} <= set(tags["scalars"])
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grow_steps": -1}, "grow_steps must be at least 0, got -1"),
        ({"improve_steps": 3}, "improve_steps=3 need as many thresholds"),
        ({"thresholds": ()}, "at least one level"),
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"samples_per_prompt": 0}, "samples_per_prompt must be at least 1"),
        ({"grow_temperature": 0.0}, "grow_temperature must be above 0"),
        ({"keep_data": "some"}, "keep_data must be one of filtered, all, none"),
        ({"start": "again"}, "start must be one of previous, base"),
        ({"filter_by": "bleu"}, "filter_by must be"),
        ({"grow_steps": 0, "keep_data": "none"}, "grow_steps=0 learns from the original data alone"),
    ],
)
def test_a_bad_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent(**options)


# --- Checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bc", {"name": "gold", "sync_every": 3}, {"name": "bvmpo", "value_updates": 2}])
def test_a_loaded_agent_goes_on_as_if_it_had_never_stopped(tmp_path: Path, loss: Any) -> None:
    options: dict[str, Any] = {"loss": loss, "grow_steps": 2, "updates": 6}
    straight, stopped = agent(eval_env=world(), **options).learn(), agent(eval_env=world(), **options)
    stopped.learn(callback=lambda local, _: stopped.n_updates < 4)  # in the middle of an Improve step, and of an epoch
    assert stopped.progress.begun
    stopped.save(tmp_path / "a")
    loaded = ReST.load(tmp_path / "a", world(), eval_env=world())
    loaded.learn(reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, loaded.policy)
    assert straight.history == loaded.history


def test_a_checkpoint_between_two_steps_holds_the_grown_data(tmp_path: Path) -> None:
    straight = agent(start="base").learn()

    class Saved(BaseCallback):
        def _on_step(self) -> bool:
            if self.locals["improved"] and not (tmp_path / "a").exists():
                self.model.save(tmp_path / "a")
            return True

    agent(start="base").learn(callback=Saved())
    loaded = ReST.load(tmp_path / "a", world(scorer=worlds.constant_scorer(0.0)))  # nobody judges again
    assert len(loaded.grown) == 27
    loaded.learn(reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, loaded.policy)


def test_an_adapter_goes_on_too_and_stays_on_its_base(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    worlds.saved(worlds.llama(), tmp_path / "base")
    for place in ("a", "base"):  # beside its base, and in its place
        made = [ReST(str(tmp_path / "base"), world(), seed=0, lora=2, start="base", **SMALL) for _ in range(2)]
        straight, stopped = made[0].learn(), made[1]
        stopped.learn(callback=lambda local, _, one=stopped: one.n_updates < 2)
        stopped.save(tmp_path / place)
        loaded = ReST.load(tmp_path / place, world()).learn(reset_num_timesteps=False)
        assert worlds.same_weights(straight.policy.merged(), loaded.policy.merged()), place


def test_a_saved_adapter_names_the_base_beside_it_and_is_read_elsewhere_too(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    one = agent(lora=2).learn()
    one.save(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == tmp_path / "a" / "base"
    asked = torch.tensor([worlds.ids("bb: text")])
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "a")(asked).logits
        assert torch.allclose(theirs, one.policy.model(asked).logits, atol=1e-5)
    (tmp_path / "a").rename(tmp_path / "b")
    assert worlds.same_weights(one.policy.merged(), ReST.load(tmp_path / "b", world()).policy.merged())


def test_settings_survive_and_nothing_is_a_pickle(tmp_path: Path) -> None:
    one = agent(loss={"name": "gold", "horizon": 2}, threshold="source_gamma", thresholds=(0.1, 0.5), max_per_prompt=4).learn()
    one.save(tmp_path / "a")
    two = ReST.load(tmp_path / "a", world())
    for name in ReST.settings_names:
        assert list(np.atleast_1d(getattr(one, name))) == list(np.atleast_1d(getattr(two, name))), name
    assert one.loss == two.loss
    assert two.finished
    assert {path.suffix for path in (tmp_path / "a").iterdir()} <= {".json", ".jsonl", ".safetensors", ".jinja"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    one = agent(loss={"name": "offline_ac", "value_updates": 1})
    one.learn(callback=lambda local, _: one.n_updates < 2)
    one.save(tmp_path / "a")
    lines = (tmp_path / "a" / "grown.jsonl").read_text().splitlines()
    (tmp_path / "a" / "grown.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="it is damaged"):
        ReST.load(tmp_path / "a", world())
    (tmp_path / "a" / "rest.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no rest\.safetensors"):
        ReST.load(tmp_path / "a", world())


def test_checkpoints_are_written_while_learning(tmp_path: Path) -> None:
    agent().learn(callback=CheckpointCallback(save_freq=3, save_path=str(tmp_path), name_prefix="rest"))
    for path in tmp_path.iterdir():
        assert ReST.load(path, world()).learn(reset_num_timesteps=False).finished


# --- It learns ---------------------------------------------------------------------------------------------------------


def solve(**options: Any) -> float:
    env = make(max_new_tokens=6)
    settings: dict[str, Any] = {
        "samples_per_prompt": 256, "grow_steps": 8, "thresholds": (0.9,), "updates": 12, "batch_size": 32, "learning_rate": 1e-2,
        "grow_temperature": 1.0, "drop_truncated": False, "seed": 0,
    }  # fmt: skip
    one = ReST(worlds.llama(initializer_range=0.02), env, **{**settings, **options})
    one.learn(callback=lambda local, _: not local["improved"] or local["improved"]["kept_reward"] < 1.0)
    return float(evaluate(one, env, 1, k=32).metrics["mean_score"])


@pytest.mark.filterwarnings("ignore:the first threshold", "ignore:none of")
def test_it_solves_the_smallest_world() -> None:
    assert solve() >= 0.95


def test_without_a_filter_it_does_not() -> None:
    assert solve(thresholds=(None,)) < 0.3
