"""What is meant to run on a GPU runs on a second device, with the numbers of the CPU (`tests.second_device`)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from tests import second_device, worlds
from tests.agents.test_every_agent import LEARNERS, MODELS, check_bf16, learned, world
from tests.fitting.test_reward_model import PAIRS, reading
from tests.worlds import BYTES
from textenv import SequenceClassifierScorer
from textenv.actions import TopKActions
from textenv.agents import BestOfN, LanguageModelActorCritic, LMPolicy, RewardGuidedSearch, StepSearch, TokenPPO, rollout
from textenv.critics import CritiqueFormat, LanguageModelCritic, Section
from textenv.episode import Prompt
from textenv.fitting.reward_model import RewardModel, load_reward_model
from textenv.fitting.reward_model_loop import Pairs, fit_reward_model

pytestmark = [
    pytest.mark.skipif(not second_device.POSSIBLE, reason="needs a torch that lets Python play a device"),
    pytest.mark.xdist_group("second device"),
]
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def there() -> Iterator[Ask]:
    """Run a function of this module in a process that has the device."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), second_device.begin) as process:
        yield lambda function, *args: process.submit(second_device.there, function, *args).result()


Weights = dict[str, torch.Tensor]


def weights_of(model: Any) -> Weights:
    return {key: value.detach().cpu() for key, value in model.state_dict().items()}


def distance(a: Weights, b: Weights) -> float:
    return float(sum((a[key].double() - b[key].double()).square().sum() for key in a)) ** 0.5


def assert_learned_alike(found: Weights, expected: Weights, begun: Weights) -> None:
    """Both are where training on the CPU led, up to a fifth of the way: Adam makes steps of gradients that are rounding."""
    assert distance(expected, begun) > 0
    assert distance(found, expected) < 0.2 * distance(expected, begun)


def trained(name: str, model: str, device: str) -> Weights:
    return weights_of(learned(name, LMPolicy(MODELS[model](), BYTES, device=device)).policy.model)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_learner_learns_there_what_it_learns_on_the_cpu(name: str, model: str, there: Ask) -> None:
    found, expected = there(trained, name, model, second_device.NAME), trained(name, model, "cpu")
    assert_learned_alike(found, expected, weights_of(MODELS[model]()))


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_learner_learns_there_in_bfloat16(name: str, model: str, there: Ask) -> None:
    there(check_bf16, name, model, second_device.NAME)


def product_and_weights() -> tuple[torch.dtype, torch.dtype]:
    policy = LMPolicy(worlds.llama(), BYTES, device=second_device.NAME, precision="bf16")
    with policy.autocast():
        layer = policy.model.model.layers[0].mlp.up_proj
        made = layer(torch.ones(1, 32, device=second_device.NAME))
    return made.dtype, layer.weight.dtype


def test_bfloat16_is_what_the_products_there_compute_in(there: Ask) -> None:
    assert there(product_and_weights) == (torch.bfloat16, torch.float32)


# --- What is no learner --------------------------------------------------------------------------------------------------

TEXTS = ["a good text", "bad", "neither, and a longer one at that"]
DECODERS: dict[str, Callable[[LMPolicy, Any], Any]] = {
    "best of 4": lambda policy, env: BestOfN(policy, env, 4),
    "ARGS": lambda policy, env: RewardGuidedSearch(policy, env, k=4, weight=1.0),
    "step search": lambda policy, env: StepSearch(policy, env, segmenter=by_letter, branching=3, token_budget=60),
}
POLICIES: dict[str, dict[str, Any]] = {
    "with an adapter": {"lora": 2},
    "whose blocks are computed again": {"gradient_checkpointing": True},
    "whose lower half is frozen": {"frozen_layers": 1},
}
SETTINGS: dict[str, Any] = {"n_episodes": 4, "batch_size": 2, "learning_rate": 1e-3, "seed": 0}


def by_letter(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(text))]


def decoded(name: str, device: str) -> list[list[int]]:
    env = worlds.make(max_new_tokens=6)
    decoder = DECODERS[name](LMPolicy(worlds.llama(), BYTES, device=device), env)
    prompts = [Prompt("p"), Prompt("longer ")]
    return [e.tokens.tolist() for e in rollout(env, decoder, 2, torch.Generator().manual_seed(0), prompts=prompts)]


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_writes_there_what_it_writes_on_the_cpu(name: str, there: Ask) -> None:
    assert there(decoded, name, second_device.NAME) == decoded(name, "cpu")


def adapted(name: str, device: str) -> Weights:
    policy = LMPolicy(worlds.llama(), BYTES, device=device, **POLICIES[name])
    return weights_of(TokenPPO(policy, world(), **SETTINGS).learn(12).policy.model)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_learns_there_what_it_learns_on_the_cpu(name: str, there: Ask) -> None:
    found, expected = there(adapted, name, second_device.NAME), adapted(name, "cpu")
    assert_learned_alike(found, expected, weights_of(LMPolicy(worlds.llama(), BYTES, **POLICIES[name]).model))


def scores(kind: str, device: str) -> list[float]:
    scorer = SequenceClassifierScorer(worlds.classifier(kind), label=1, tokenizer=BYTES, device=device)
    return scorer.score_texts(TEXTS)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_a_classifier_scores_there_as_on_the_cpu(kind: str, there: Ask) -> None:
    assert there(scores, kind, second_device.NAME) == pytest.approx(scores(kind, "cpu"), abs=1e-5)


def criticised(device: str) -> list[Any]:
    model, tokenizer = worlds.parrot(" bad; sad")
    critic = LanguageModelCritic(model, CritiqueFormat([Section("Insults", -1.0)]), tokenizer=tokenizer, device=device)
    env = worlds.make(max_new_tokens=64)
    return critic([env.get_wrapper_attr("episode")(Prompt("p"), list(b"a bad and a sad day"))])


def test_a_critic_marks_there_what_it_marks_on_the_cpu(there: Ask) -> None:
    assert there(criticised, second_device.NAME) == criticised("cpu")


def reward_model(base: str, device: str) -> RewardModel:
    with worlds.seeded():  # its new heads
        return load_reward_model(base, BYTES, policy_head=True, device=device)


def fitted(base: str, device: str) -> Weights:
    model, pairs = reward_model(base, device), Pairs(reading(), PAIRS, PAIRS, policy_loss_weight=0.2)
    pairs.reference(model)
    fit_reward_model(model, pairs, torch.Generator().manual_seed(0), steps=3, batch_size=2, learning_rate=1e-3, every=3,
                     patience=2, on_best=lambda _: None)  # fmt: skip
    return weights_of(model)


def test_a_reward_model_is_fitted_there_as_on_the_cpu(llama_directory: Any, there: Ask) -> None:
    base = str(llama_directory)
    found, expected = there(fitted, base, second_device.NAME), fitted(base, "cpu")
    assert_learned_alike(found, expected, weights_of(reward_model(base, "cpu")))


def offered(device: str) -> list[int]:
    env = TopKActions(world(), 5, worlds.llama().to(device))
    env.reset(seed=0)
    return env.candidates.tolist()


def test_the_likeliest_tokens_of_a_reference_there_are_those_on_the_cpu(there: Ask) -> None:
    assert there(offered, second_device.NAME) == offered("cpu")


def stepped(device: str, timesteps: int = 16) -> Weights:
    envs = make_vec_env(world, 2, seed=0)
    settings = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "seed": 0, "device": device}
    agent = PPO(LanguageModelActorCritic, envs, policy_kwargs={"model": worlds.llama}, **settings)
    return weights_of(agent.learn(timesteps).policy)


def test_stable_baselines3_learns_there_what_it_learns_on_the_cpu(there: Ask) -> None:
    assert_learned_alike(there(stepped, second_device.NAME), stepped("cpu"), stepped("cpu", 0))


def saved(directory: str) -> Weights:
    agent = learned("TokenPPO", LMPolicy(worlds.llama(), BYTES, device=second_device.NAME))
    agent.save(directory)
    return weights_of(agent.policy.model)


def test_an_agent_saved_there_goes_on_on_the_cpu(tmp_path: Any, there: Ask) -> None:
    expected = there(saved, str(tmp_path / "agent"))
    agent = TokenPPO.load(tmp_path / "agent", world(), device="cpu")
    torch.testing.assert_close(dict(agent.policy.model.state_dict()), expected)
    agent.learn(6, reset_num_timesteps=False)
