"""What every agent does alike: solves the smallest world, learns in bfloat16 as in float32, and takes a pad token that is EOS."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, LogEveryNTimesteps, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from tests import worlds
from tests.worlds import BYTES, VOCABULARY, make
from textenv.agents import (
    DPO,
    ETPO,
    NLPO,
    TREG,
    BehaviourCloning,
    BestOfN,
    LanguageModelActorCritic,
    LMPolicy,
    MaskableLanguageModelActorCritic,
    RecurrentLanguageModelActorCritic,
    ReST,
    RewardGuidedSearch,
    SimPO,
    StepSearch,
    TokenPPO,
    TokenRewards,
    evaluate,
)
from textenv.episode import Prompt

PROMPTS = [Prompt("a", references=("yes", "no")), Prompt("bb", references=("maybe",)), Prompt("ccc", references=("so",))]
MODELS = {"llama": worlds.llama, "t5": worlds.t5}
BATCH: dict[str, Any] = {"n_episodes": 6, "batch_size": 3, "learning_rate": 1e-3, "seed": 0}
PAIRS: dict[str, Any] = {"n_prompts": 3, "n_samples": 3, "batch_size": 3, "learning_rate": 1e-3, "seed": 0}
GROWN: dict[str, Any] = {"samples_per_prompt": 2, "thresholds": (None,), "updates": 2, "batch_size": 3, "learning_rate": 1e-3,
                         "drop_truncated": False, "seed": 0}  # fmt: skip

LEARNERS: dict[str, Callable[[LMPolicy, Any], Any]] = {
    "TokenPPO": lambda policy, env: TokenPPO(policy, env, **BATCH),
    "TokenPPO, its own value model": lambda policy, env: TokenPPO(policy, env, value_model="separate", **BATCH),
    "GRPO": lambda policy, env: TokenPPO(policy, env, advantage="grpo", group_size=3, **BATCH),
    "NLPO": lambda policy, env: TokenPPO(policy, env, nlpo=NLPO(), **BATCH),
    "ETPO": lambda policy, env: ETPO(policy, env, **BATCH),
    "ReST": lambda policy, env: ReST(policy, env, **GROWN),
    "ReST, gold": lambda policy, env: ReST(policy, env, loss="gold", **GROWN),
    "ReST, bvmpo": lambda policy, env: ReST(policy, env, loss={"name": "bvmpo", "value_updates": 2}, **GROWN),
    "BehaviourCloning": lambda policy, env: BehaviourCloning(policy, env, batch_size=4, learning_rate=1e-3),
    "DPO": lambda policy, env: DPO(policy, env, **PAIRS),
    "SimPO": lambda policy, env: SimPO(policy, env, **PAIRS),
    "TDPO": lambda policy, env: DPO(policy, env, loss="tdpo2", **PAIRS),
    "T-REG": lambda policy, env: TREG(policy, env, token_source=("contrastive", {"prompts": ("+{prompt}", "-{prompt}")}), **PAIRS),
}
EVERY = pytest.mark.parametrize("name", LEARNERS)


def world(tokenizer: Any = BYTES) -> Any:
    return make(tokenizer=tokenizer, prompts=PROMPTS, max_new_tokens=6, scorer=worlds.even_share)


def learned(name: str, policy: LMPolicy, tokenizer: Any = BYTES) -> Any:
    """The learner after a little training."""
    one = LEARNERS[name](policy, world(tokenizer))
    return one.learn() if isinstance(one, ReST) else one.learn(30)


# --- Precision -----------------------------------------------------------------------------------------------------------


def check_bf16(name: str, model: str, device: str) -> None:
    policy = LMPolicy(MODELS[model](), BYTES, precision="bf16", device=device)
    before = [p.detach().clone() for p in policy.model.parameters()]
    learned(name, policy)
    after = list(policy.model.parameters())
    assert {p.dtype for p in after} == {torch.float32}
    assert all(bool(p.isfinite().all()) for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@EVERY
@pytest.mark.parametrize("model", MODELS)
def test_every_learner_learns_in_bfloat16(name: str, model: str) -> None:
    check_bf16(name, model, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EVERY
@pytest.mark.parametrize("model", MODELS)
def test_every_learner_learns_in_bfloat16_on_a_gpu(name: str, model: str) -> None:
    check_bf16(name, model, "cuda")


@EVERY
def test_every_learner_computes_gradients_in_the_precision_of_its_policy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backward, seen = torch.Tensor.backward, []

    def watched(loss: torch.Tensor, *arguments: Any, **options: Any) -> None:
        seen.append(torch.get_float32_matmul_precision())
        backward(loss, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "backward", watched)
    learned(name, LMPolicy(worlds.llama(), BYTES, precision="medium"))
    assert set(seen) == {"medium"}


# --- A pad token that is EOS ---------------------------------------------------------------------------------------------


def padded_by_eos() -> Any:
    tokenizer = copy.deepcopy(BYTES)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@EVERY
@pytest.mark.parametrize("model", MODELS)
def test_no_learner_asks_which_token_pads(name: str, model: str) -> None:
    plain, padded = (learned(name, LMPolicy(MODELS[model](), t), t) for t in (BYTES, padded_by_eos()))
    assert worlds.same_weights(plain.policy, padded.policy)


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [
        (PPO, LanguageModelActorCritic),
        (A2C, LanguageModelActorCritic),
        (MaskablePPO, MaskableLanguageModelActorCritic),
        (RecurrentPPO, RecurrentLanguageModelActorCritic),
    ],
)
def test_no_algorithm_of_stable_baselines3_asks_which_token_pads(algorithm: Any, policy: Any) -> None:
    agents = []
    for tokenizer in (BYTES, padded_by_eos()):
        arguments = {"prompts": PROMPTS, "max_new_tokens": 6, "reward": "critic_span", "payment": "end", "tokenizer": tokenizer}
        envs = make_vec_env(lambda given=arguments: make(**given), 2, seed=0)
        options = {"n_steps": 8, "seed": 0, "device": "cpu", **({} if algorithm is A2C else {"batch_size": 16, "n_epochs": 1})}
        agents.append(algorithm(policy, envs, policy_kwargs={"model": worlds.llama}, **options).learn(16, callback=TokenRewards()))
    assert worlds.same_weights(agents[0].policy, agents[1].policy)


# --- They solve the smallest world; the other learners do so in their own files ------------------------------------------


def eight_letters() -> LMPolicy:
    """Writes a … h, each as often as the others."""
    model = worlds.llama(initializer_range=0.02)
    bias = torch.full((VOCABULARY,), -1e4)
    bias[worlds.ids("abcdefgh")] = 0.0
    model.lm_head.bias = torch.nn.Parameter(bias)
    return LMPolicy(model, BYTES)


def characters(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(text))]


def test_behaviour_cloning_solves_the_smallest_world() -> None:
    env = make(max_new_tokens=8, prompts=[Prompt("Say a: ", references=("a" * 8,))])
    policy = LMPolicy(worlds.llama(initializer_range=0.02), BYTES)
    assert float(evaluate(policy, env, 1, k=8).metrics["mean_score"]) < 0.1
    BehaviourCloning(policy, env, batch_size=1, learning_rate=1e-2).learn(1200)
    assert float(evaluate(policy, env, 1, k=8).metrics["mean_score"]) >= 0.95


DECODERS: dict[str, tuple[int, Callable[[Any], Any]]] = {  # tokens a text
    "best of 400": (2, lambda env: BestOfN(eight_letters(), env, 400)),
    "ARGS, greedy": (8, lambda env: RewardGuidedSearch(eight_letters(), env, k=8, weight=100.0)),
    "ARGS, stochastic": (8, lambda env: RewardGuidedSearch(eight_letters(), env, k=8, weight=100.0, mode="stochastic")),
    "step search": (8, lambda env: StepSearch(eight_letters(), env, segmenter=characters, branching=12, token_budget=2000)),
}


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_solves_the_smallest_world_with_a_policy_that_does_not(name: str) -> None:
    tokens, decoder = DECODERS[name]
    env = make(max_new_tokens=tokens)
    assert float(evaluate(eight_letters(), env, 1, k=16).metrics["mean_score"]) < 0.3
    assert float(evaluate(decoder(env), env, 1, k=8).metrics["mean_score"]) >= 0.95


# --- Runs that are cut ---------------------------------------------------------------------------------------------------


class Interrupted(BaseCallback):
    """Ctrl-C after two steps."""

    def _on_step(self) -> bool:
        if self.n_calls == 2:
            raise KeyboardInterrupt
        return True


@EVERY
def test_an_interrupted_run_can_be_saved_loaded_and_gone_on_with(name: str, tmp_path: Path) -> None:
    one = LEARNERS[name](LMPolicy(worlds.llama(), BYTES), world())
    rest: dict[str, Any] = {} if isinstance(one, ReST) else {"total_timesteps": 60}
    with contextlib.suppress(KeyboardInterrupt):
        one.learn(**rest, callback=Interrupted())
    assert not one.policy.training
    one.save(tmp_path / "agent")
    two = type(one).load(tmp_path / "agent", world())
    for agent in (one, two):
        agent.learn(**rest, reset_num_timesteps=False)
    assert worlds.same_weights(one.policy, two.policy)
    assert (one.num_timesteps, one.n_updates) == (two.num_timesteps, two.n_updates)


# --- Stable-Baselines3's callbacks ---------------------------------------------------------------------------------------


@EVERY
def test_a_run_can_stop_after_so_many_texts(name: str) -> None:
    one, stop = LEARNERS[name](LMPolicy(worlds.llama(), BYTES), world()), StopTrainingOnMaxEpisodes(2)
    one.learn(10_000, callback=stop)
    assert (one.num_timesteps < 100, stop.n_calls) == (True, 1)
    assert 2 <= stop.n_episodes <= 9  # whole batches


@EVERY
def test_the_log_can_be_written_every_so_many_timesteps(name: str) -> None:
    one, memory = LEARNERS[name](LMPolicy(worlds.llama(), BYTES), world()), worlds.Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(100, callback=LogEveryNTimesteps(10), log_interval=None)
    assert len(memory.rows) > 1
    assert {"time/fps", "time/total_timesteps"} <= memory.rows[0].keys()


# --- Settings that cannot be meant ---------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "TokenPPO": (TokenPPO, BATCH), "ETPO": (ETPO, BATCH), "ReST": (ReST, GROWN),
    "BehaviourCloning": (BehaviourCloning, {}), "DPO": (DPO, PAIRS),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [
        ("batch_size", 0, ValueError),
        ("batch_size", 2.5, TypeError),
        ("batch_size", "4", TypeError),
        ("micro_batch_size", 0, ValueError),
        ("micro_batch_size", 1.5, TypeError),
        ("learning_rate", -1e-3, ValueError),
        ("learning_rate", float("nan"), ValueError),
        ("learning_rate", "fast", TypeError),
        ("max_grad_norm", -1.0, ValueError),  # it would turn the gradient around
        ("max_grad_norm", 0.0, ValueError),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(kind: str, setting: str, value: Any, error: type[Exception]) -> None:
    learner, settings = KINDS[kind]
    with pytest.raises(error, match=f"^{setting} must be .*, got {str(value)!r}|^{setting} must be .*, got {value}"):
        learner(LMPolicy(worlds.llama(), BYTES), world(), **{**settings, setting: value})


@pytest.mark.parametrize("kind", ["ReST", "BehaviourCloning"])
def test_a_schedule_where_the_rate_has_a_shape_of_its_own_is_refused(kind: str) -> None:
    learner, settings = KINDS[kind]
    with pytest.raises(TypeError, match="learning_rate must be a number, not a schedule, got <function"):
        learner(LMPolicy(worlds.llama(), BYTES), world(), **{**settings, "learning_rate": lambda left: 1e-3 * left})


@pytest.mark.parametrize("env", ["textenv/CountLetter-v0", 5])
@pytest.mark.parametrize("kind", ["TokenPPO", "ETPO", "ReST", "BehaviourCloning"])
def test_what_is_no_text_environment_is_refused(kind: str, env: Any) -> None:
    with pytest.raises(TypeError, match=r"environment.*gym\.make.*, got "):
        KINDS[kind][0](LMPolicy(worlds.llama(), BYTES), env)


@pytest.mark.parametrize(
    "decoder",
    [
        lambda env: BestOfN("textenv/tiny", env, 1.5),
        lambda env: BestOfN("textenv/tiny", env, token_budget=-1),
        lambda env: RewardGuidedSearch("textenv/tiny", env, weight=float("nan")),
        lambda env: StepSearch("textenv/tiny", env, branching=1.5),
    ],
)
def test_a_setting_of_a_decoder_that_cannot_be_meant_is_named(decoder: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^(n|token_budget|weight|branching) must be"):
        decoder(make(tokenizer="textenv/tiny"))


def test_a_share_of_probability_that_holds_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"top_p must be above 0, got 0\.0"):
        evaluate(LMPolicy(worlds.llama(), BYTES), world(), 1, top_p=0.0)


@EVERY
def test_without_an_interval_nothing_is_logged(name: str) -> None:
    one = LEARNERS[name](LMPolicy(worlds.llama(), BYTES), world())
    one.learn(log_interval=None) if isinstance(one, ReST) else one.learn(1, log_interval=None)
    assert one.num_timesteps > 0


@pytest.mark.parametrize(("device", "message"), [("tpu", "none that PyTorch knows"), ("cuda:99", "PyTorch sees . GPUs here")])
def test_a_device_that_is_not_there_is_named(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"device='{device}'.*{message}"):
        LMPolicy("textenv/tiny", device=device)


REFERRING = {"TokenPPO": lambda **options: TokenPPO(LMPolicy(worlds.llama(), BYTES), world(), **BATCH, **options),
             "ETPO": lambda **options: ETPO(LMPolicy(worlds.llama(), BYTES), world(), **BATCH, **options),
             "DPO": lambda **options: DPO(LMPolicy(worlds.llama(), BYTES), world(), **PAIRS, **options)}  # fmt: skip


@pytest.mark.parametrize("kind", REFERRING)
def test_a_reference_may_be_whatever_a_policy_is_made_from(kind: str, llama_directory: Any) -> None:
    for given in (str(llama_directory), worlds.llama(), LMPolicy(worlds.llama())):
        one = REFERRING[kind](reference=given)
        assert worlds.same_weights(one.reference.model, worlds.llama())
        one.learn(1)


@pytest.mark.parametrize("kind", REFERRING)
def test_a_reference_that_is_none_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="different tokenizers"):
        REFERRING[kind](reference="textenv/tiny")
    with pytest.raises((TypeError, AttributeError)):
        REFERRING[kind](reference=5)


def test_the_policy_that_learns_is_no_reference() -> None:
    policy = LMPolicy(worlds.llama(), BYTES)
    with pytest.raises(ValueError, match=r"the reference is the policy itself, which learns; .*policy\.frozen_copy\(\)"):
        ETPO(policy, world(), reference=policy)
