"""What a policy writes, judged: k texts a prompt, by whom one chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO

from tests import worlds
from tests.worlds import EOS, VOCABULARY, CountedCritic, make
from textenv.agents import LMPolicy, TokenPPO, evaluate, rollout
from textenv.agents.decoders.best_of_n import BestOfN
from textenv.agents.decoders.reward_guided import RewardGuidedSearch
from textenv.agents.decoders.step_search import StepSearch
from textenv.agents.evaluation import as_language_model, as_policy
from textenv.agents.stepping import SteppedPolicy
from textenv.agents.text_actions import TextPolicy
from textenv.metrics import perplexity

PROMPTS = ["a", "bb", "ccc"]


def env(**options: Any) -> Any:
    return make(**{"prompts": PROMPTS, "max_new_tokens": 4, **options})


def test_k_texts_for_each_of_n_prompts_stand_together() -> None:
    out = evaluate(LMPolicy(worlds.llama()), env(), 2, k=3)
    assert [e.prompt.text for e in out.episodes] == ["a"] * 3 + ["bb"] * 3


def test_all_prompts_are_read_by_default() -> None:
    assert len(evaluate(LMPolicy(worlds.llama()), env()).episodes) == 3


def test_the_metrics_are_those_of_the_task_and_the_lengths() -> None:
    out = evaluate(LMPolicy(worlds.llama()), env(scorer=worlds.even_share), k=2)
    assert out.metrics["mean_score"] == pytest.approx(np.mean([e.score for e in out.episodes]))
    assert out.metrics["mean_length"] == pytest.approx(np.mean([len(e) for e in out.episodes]))


def test_it_is_shown_by_its_metrics() -> None:
    shown = repr(evaluate(LMPolicy(worlds.llama()), env(scorer=worlds.constant_scorer(0.25)), 2))
    assert shown.startswith("Evaluation(2 episodes, mean_score=0.25, mean_length=")


def test_a_judge_scores_instead_of_the_environment() -> None:
    out = evaluate(LMPolicy(worlds.llama()), env(), judge=worlds.constant_scorer(0.7))
    assert {e.score for e in out.episodes} == {0.7}
    assert out.metrics["mean_score"] == pytest.approx(0.7)


def test_a_saved_agent_writes_what_it_wrote_at_its_own_temperature(tmp_path: Path) -> None:
    agent = TokenPPO(worlds.llama(), env(), temperature=0.5)
    agent.save(tmp_path)
    texts = [[e.text for e in evaluate(policy, env(), k=4).episodes] for policy in (agent, tmp_path, LMPolicy(tmp_path))]
    assert texts[0] == texts[1] == texts[2]
    assert LMPolicy(tmp_path, temperature=1.0).temperature == 1.0


@pytest.mark.parametrize(
    ("judge", "message"), [(lambda e: [0.5], "1 scores for 3"), (lambda e: [float("nan")] * 3, "nan for episode 0")]
)
def test_a_judge_is_checked_like_a_scorer(judge: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(LMPolicy(worlds.llama()), env(), judge=judge)


def test_perplexity_is_that_of_the_reference() -> None:
    reference = worlds.gpt2()
    out = evaluate(LMPolicy(worlds.llama()), env(), reference=reference)
    assert out.metrics["perplexity"] == pytest.approx(float(perplexity(reference, out.episodes)))
    assert "perplexity" not in evaluate(LMPolicy(worlds.llama()), env()).metrics


def test_the_same_seed_gives_the_same_texts() -> None:
    policy = LMPolicy(worlds.llama())
    texts = [[e.tokens.tolist() for e in evaluate(policy, env(), seed=seed).episodes] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_texts_are_the_most_likely_tokens() -> None:
    policy = LMPolicy(worlds.llama())
    texts = [[e.tokens.tolist() for e in evaluate(policy, env(), deterministic=True, seed=seed).episodes] for seed in (0, 1)]
    assert texts[0] == texts[1]


def test_no_critic_is_asked() -> None:
    critic = CountedCritic(lambda episodes: [[] for _ in episodes])
    evaluate(LMPolicy(worlds.llama()), env(reward="critic_span", critic=critic))
    assert critic.calls == 0


def test_the_environments_generator_is_left_alone() -> None:
    one = env()
    one.reset(seed=0)
    before = one.unwrapped.np_random.bit_generator.state
    evaluate(LMPolicy(worlds.llama()), one)
    assert one.unwrapped.np_random.bit_generator.state == before


def test_an_agent_a_policy_a_model_and_a_directory_are_all_policies(llama_directory: Path) -> None:
    model = worlds.llama()
    texts = [
        [e.tokens.tolist() for e in evaluate(policy, env(), deterministic=True).episodes]
        for policy in (TokenPPO(model, env()), LMPolicy(model), model, str(llama_directory))
    ]
    assert texts[0] == texts[1] == texts[2] == texts[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 4}, "n=4 prompts asked for, the environment has 3"),
        ({"n": 0}, "n=0"),
        ({"k": 0}, "k must be at least 1"),
        ({"k": 2, "deterministic": True}, "1 for greedy"),
    ],
)
def test_a_number_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(LMPolicy(worlds.llama()), env(), **arguments)


# --- Who writes --------------------------------------------------------------------------------------------------------


def tokens(policy: Any, one: Any, **options: Any) -> list[list[int]]:
    return [e.tokens.tolist() for e in evaluate(policy, one, **options).episodes]


def sb3(algorithm: Any = PPO, one: Any = None, policy: str = "MlpPolicy") -> Any:
    small: dict[str, Any] = {"n_steps": 8, "device": "cpu", "seed": 0, "policy_kwargs": {"net_arch": [8]}}
    if algorithm is not A2C:
        small["batch_size"] = 8
    return algorithm(policy, one or env(), **small)


@pytest.mark.parametrize(
    "decoder", [lambda one: BestOfN(worlds.llama(), one, 2), lambda one: RewardGuidedSearch(worlds.llama(), one, k=2),
                lambda one: StepSearch(worlds.llama(), one)], ids=["best_of_n", "reward_guided", "step_search"]
)  # fmt: skip
def test_a_decoder_is_a_policy(decoder: Any) -> None:
    one = env()
    search = decoder(one)
    assert as_policy(search) is search
    assert [e.prompt.text for e in evaluate(search, one).episodes] == PROMPTS
    assert search.tokens_used.texts == 3


def test_the_policy_of_an_agent_is_taken_before_its_predictions() -> None:
    agent = TokenPPO(worlds.llama(), env())
    assert as_policy(agent) is agent.policy
    assert as_language_model(agent) is agent.policy


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_an_sb3_model_writes_what_stepping_writes(algorithm: Any) -> None:
    one = env()
    model = sb3(algorithm, one)
    stepped = []
    for prompt in PROMPTS:
        observation, _ = one.reset(options={"prompt": prompt})
        ended, info = False, {}
        while not ended:
            action, _ = model.predict(observation, deterministic=True)
            observation, _, ended, _, info = one.step(action)
        stepped.append(info["text_episode"].tokens.tolist())
    assert tokens(model, one, deterministic=True) == stepped


def test_an_sb3_model_samples_by_the_seed_and_leaves_the_global_generator_alone() -> None:
    model, before = sb3(), torch.get_rng_state()
    texts = [tokens(model, env(), seed=seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    before = torch.get_rng_state()
    tokens(model, env())
    assert torch.equal(before, torch.get_rng_state())


def test_an_sb3_model_writes_for_rollout_too() -> None:
    one = env(reward="critic_span")
    episodes = rollout(one, as_policy(sb3(one=one), one), 5, torch.Generator().manual_seed(0))
    assert [e.finished for e in episodes] == [True] * 5


class Says:
    """An agent that says what it is told, and keeps how it was asked."""

    def __init__(self, *actions: int) -> None:
        self.actions, self.asked = actions, list[Any]()

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        state = 0 if state is None else state
        self.asked.append((observation.shape, state, episode_start.tolist(), deterministic))
        return np.full(len(observation), self.actions[state]), state + 1


def test_an_agent_gets_its_state_back_and_is_told_when_a_text_begins() -> None:
    agent = Says(5, 6, EOS)
    assert tokens(agent, env(), deterministic=True) == [[5, 6, EOS]] * 3
    shape = (3, 16 + 4)
    assert agent.asked == [(shape, 0, [True] * 3, True), (shape, 1, [False] * 3, True), (shape, 2, [False] * 3, True)]


class Shifted(gym.ActionWrapper[Any, Any, Any]):
    def action(self, action: Any) -> Any:
        return np.int64((action + 1) % VOCABULARY)


def test_an_action_means_what_the_environment_says_it_means() -> None:
    agent = Says(5, 6, EOS - 1)
    assert tokens(agent, Shifted(env())) == [[6, 7, EOS]] * 3
    assert len(agent.asked) == 9  # a text at a time


def test_a_time_limit_is_no_end_of_a_text() -> None:
    with pytest.raises(ValueError, match="a wrapper truncates texts before they end"):
        evaluate(Says(5, 6, 7, 8), gym.wrappers.TimeLimit(env(), 2))


class Masked(gym.Wrapper[Any, Any, Any, Any]):
    """Only three tokens may be said."""

    def action_masks(self) -> Any:
        return np.isin(np.arange(VOCABULARY), [97, 98, EOS])


def test_a_maskable_agent_says_what_the_masks_allow() -> None:
    one = Masked(env())
    texts = tokens(sb3(MaskablePPO, one), one, k=3)
    assert {token for text in texts for token in text} <= {97, 98, EOS}


def test_a_recurrent_agent_writes() -> None:
    texts = tokens(sb3(RecurrentPPO, policy="MlpLstmPolicy"), env(), k=2)
    assert len(texts) == 6


def test_an_agent_of_ones_own_may_return_actions_alone() -> None:
    class Plain:
        def predict(self, observation: Any) -> Any:
            return np.full(len(observation), 7)

    assert tokens(Plain(), env()) == [[7] * 4] * 3


def test_an_object_that_generates_is_a_policy_as_it_is() -> None:
    class Own:
        def generate(self, prompts: Any, rule: Any, uniforms: Any, /, *, top_k: int, top_p: float) -> Any:
            return [np.array([len(prompt), EOS]) for prompt in prompts]

    class Holder:
        policy = Own()

    assert tokens(Own(), env()) == tokens(Holder(), env()) == [[1, EOS], [2, EOS], [3, EOS]]


def test_a_function_from_text_to_text_is_a_policy() -> None:
    one = env()
    assert isinstance(as_policy(str.upper, one), TextPolicy)
    assert [e.text for e in evaluate(str.upper, one).episodes] == ["A", "BB", "CCC"]


def test_a_function_or_an_sb3_model_needs_an_environment() -> None:
    for policy in (str.upper, sb3()):
        with pytest.raises(TypeError, match=r"acts in an environment: as_policy\(policy, env\)"):
            as_policy(policy)


def test_what_predicts_is_stepped_even_if_it_can_be_called() -> None:
    class Both(Says):
        def __call__(self, prompt: str) -> str:
            return prompt

    assert isinstance(as_policy(Both(5), env()), SteppedPolicy)


@pytest.mark.parametrize("policy", [5, None, object(), LMPolicy, {"model": 1}])
def test_what_writes_no_texts_is_refused(policy: Any) -> None:
    with pytest.raises(TypeError, match="writes no texts; give a language model or its name"):
        evaluate(policy, env())


def test_a_saved_model_of_other_tokens_is_refused(llama_directory: Path) -> None:
    with pytest.raises(ValueError, match="different tokenizers"):
        evaluate(str(llama_directory), env(tokenizer=worlds.tokenizers()["word_piece"]), 1)
