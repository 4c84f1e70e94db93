"""Behaviour cloning learns texts, references and where they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import worlds
from tests.worlds import BYTES, EOS, make
from textenv.agents import BehaviourCloning, LMPolicy, TokenPPO, rollout
from textenv.episode import Prompt


def policy(**options: object) -> LMPolicy:
    return LMPolicy(worlds.llama(initializer_range=0.02, **options), BYTES)


def test_it_lowers_the_loss_and_learns_to_stop() -> None:
    one = BehaviourCloning(
        policy(), [Prompt("hi: ", references=("yes",)), Prompt("ho: ", references=("no",))], learning_rate=1e-2, batch_size=2
    )
    before = one.loss()
    one.learn(400)
    assert one.loss() < 0.05 < before
    texts = rollout(
        make(prompts=["hi: ", "ho: "], max_new_tokens=8),
        one.policy,
        2,
        prompts=[Prompt("hi: "), Prompt("ho: ")],
        deterministic=True,
    )
    assert [(e.text, e.finish_reason) for e in texts] == [("yes", "stop"), ("no", "stop")]


def test_the_loss_is_the_mean_over_target_tokens() -> None:
    one = BehaviourCloning(policy(), ["ab", Prompt("p", references=("xyz",))], batch_size=1)
    with torch.no_grad():
        logits = [one.policy.model(torch.tensor([row])).logits[0].log_softmax(-1) for row in ([257, 97, 98], [112, 120, 121, 122])]
    log_probs = [logits[0][i, t] for i, t in enumerate([97, 98, EOS])] + [
        logits[1][i, t] for i, t in enumerate([120, 121, 122, EOS])
    ]
    assert one.loss() == pytest.approx(-torch.stack(log_probs).mean().item(), abs=1e-4)


def test_every_reference_of_a_prompt_is_an_example() -> None:
    assert len(BehaviourCloning(policy(), [Prompt("p", references=("a", "b", "c"))]).examples) == 3


def test_the_prompts_of_an_environment_are_learned() -> None:
    assert len(BehaviourCloning(policy(), make(prompts=["one", "two"])).examples) == 2


def test_examples_end_where_the_models_positions_do() -> None:
    one = BehaviourCloning(
        policy(), ["x" * 300, Prompt("y" * 125, references=("zzzzzz",)), Prompt("y" * 200, references=("z" * 100,))]
    )
    assert all(len(start) + len(target) <= 128 for start, target in one.examples)
    one.learn(10)


def test_about_as_many_tokens_are_read_as_asked_for_whatever_the_batch_size() -> None:
    for batch_size in (1, 2, 3, 16):
        read = BehaviourCloning(policy(), ["abcd"] * 3, batch_size=batch_size).learn(60).num_timesteps
        assert 60 <= read <= 75


def test_two_runs_of_one_seed_are_equal() -> None:
    runs = [BehaviourCloning(policy(), ["abc", "de", "fghi", "j k"], batch_size=2, seed=3).learn(40) for _ in range(2)]
    assert worlds.same_weights(runs[0].policy, runs[1].policy)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_of_any_size_make_the_same_update(size: int) -> None:
    whole, parts = (BehaviourCloning(policy(), TEXTS, batch_size=5, micro_batch_size=n, learning_rate=1e-2) for n in (None, size))
    assert whole.loss() == pytest.approx(parts.loss(), abs=1e-6)
    widest, read = 0, parts.policy.evaluate

    def counted(starts: Any, targets: Any, rule: Any) -> Any:
        nonlocal widest
        widest = max(widest, len(starts))
        return read(starts, targets, rule)

    parts.policy.evaluate = counted  # type: ignore[method-assign]
    whole.learn(30)
    parts.learn(30)
    assert widest == size
    for (name, a), b in zip(whole.policy.named_parameters(), parts.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4), name


@pytest.mark.parametrize("model", [worlds.llama, worlds.gpt2])  # GPT-2 has dropout
def test_the_global_generator_is_left_alone(model: Any) -> None:
    one = BehaviourCloning(LMPolicy(model(), BYTES), ["abc", "de"], batch_size=2)
    before = torch.get_rng_state().tolist()
    one.learn(20)
    assert torch.get_rng_state().tolist() == before


def test_a_callback_can_stop_it() -> None:
    one = BehaviourCloning(policy(), ["abc"] * 8, batch_size=2)
    assert one.learn(10_000, callback=lambda local, _: False).num_timesteps < 100


def test_what_it_saves_is_an_ordinary_model_and_a_warm_start(tmp_path: Path) -> None:
    one = BehaviourCloning(policy(), ["abc", "abd"], batch_size=2, learning_rate=1e-2).learn(50)
    one.save(tmp_path / "m")
    assert worlds.same_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "m"), one.policy.model)
    assert worlds.same_weights(TokenPPO(str(tmp_path / "m"), make(), seed=0).policy.model, one.policy.model)


TEXTS = ["abc", "de", "fghi", "j k", "lm"]


def test_a_loaded_agent_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    straight = BehaviourCloning(policy(), TEXTS, batch_size=2, seed=3).learn(6)  # in the middle of a pass
    straight.save(tmp_path / "m")
    straight.learn(40, reset_num_timesteps=False)
    resumed = BehaviourCloning.load(tmp_path / "m", TEXTS).learn(40, reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, resumed.policy)
    assert (straight.num_timesteps, straight.n_updates) == (resumed.num_timesteps, resumed.n_updates)


def test_a_run_that_was_cut_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    whole, cut = (BehaviourCloning(policy(), TEXTS, batch_size=2, seed=3) for _ in range(2))
    whole.learn(60)
    cut.learn(60, callback=lambda local, _: local["self"].n_updates < 3)
    cut.save(tmp_path / "m")
    resumed = BehaviourCloning.load(tmp_path / "m", TEXTS)
    resumed.learn(60 - resumed.num_timesteps, reset_num_timesteps=False)
    assert worlds.same_weights(whole.policy, resumed.policy)


def test_the_rate_rises_and_falls_to_nothing() -> None:
    one, rates = BehaviourCloning(policy(), ["abcd"] * 40, batch_size=1, learning_rate=1.0e-3), []
    one.learn(200, callback=lambda local, _: rates.append(one.optimizer.param_groups[0]["lr"]) is None)
    top = rates.index(max(rates))
    assert 0 < top < 5
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 1e-5 < 0.99e-3 < max(rates)


def test_it_predicts_in_the_environment_whose_prompts_it_learned() -> None:
    env = make(prompts=["ab", "cd"], max_new_tokens=6)
    one = BehaviourCloning(policy(), env)
    observation, _ = env.reset(seed=0)
    token, _ = one.predict(observation, deterministic=True)
    assert env.action_space.contains(token)


def test_what_sampling_forbids_does_not_bind_what_is_given() -> None:
    env = make(prompts=["ab"], max_new_tokens=6, min_new_tokens=5)
    assert BehaviourCloning(policy(), env).loss() < 10


def test_an_environment_of_other_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="different tokenizers"):
        BehaviourCloning(policy(), make(tokenizer=worlds.tokenizers()["word_piece"]))


def test_an_adapter_alone_learns_the_texts_and_comes_back(tmp_path: Path, llama_directory: Path) -> None:
    options = {"batch_size": 2, "learning_rate": 3e-2, "lora": 8, "gradient_checkpointing": True}
    one = BehaviourCloning(str(llama_directory), ["abc", "abd"], **options)
    before = one.loss()
    one.learn(400)
    assert one.loss() < before / 2
    assert worlds.same_weights(one.policy.base().model, worlds.llama())
    one.save(tmp_path / "m")
    assert BehaviourCloning.load(tmp_path / "m", ["abc", "abd"]).loss() == pytest.approx(one.loss(), abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_weights() -> None:
    one = BehaviourCloning(policy(), ["abc"])
    with torch.no_grad():
        one.policy.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"the loss became nan.*lower learning_rate \(0\.0001\)"):
        one.learn(10)
    assert one.n_updates == 0
    assert not one.policy.training


@pytest.mark.parametrize("setting", ["batch_size", "micro_batch_size", "max_tokens"])
def test_a_bad_setting_is_named(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        BehaviourCloning(policy(), ["abc"], **{setting: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [[], [""]])
def test_no_texts_are_refused(data: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one text"):
        BehaviourCloning(policy(), data)


def test_a_policy_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no tokenizer to read texts with: LMPolicy\(model, tokenizer\)"):
        BehaviourCloning(LMPolicy(worlds.llama()), ["abc"])


def test_no_timesteps_are_refused() -> None:
    with pytest.raises(ValueError, match="total_timesteps must be at least 1"):
        BehaviourCloning(policy(), ["abc"]).learn(0)
