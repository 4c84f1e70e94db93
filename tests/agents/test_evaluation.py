"""What a policy writes, judged: k texts a prompt, by whom one chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import worlds
from tests.worlds import CountedCritic, make
from textenv.agents import LMPolicy, TokenPPO, evaluate
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


def test_a_judge_scores_instead_of_the_environment() -> None:
    out = evaluate(LMPolicy(worlds.llama()), env(), judge=worlds.constant_scorer(0.7))
    assert {e.score for e in out.episodes} == {0.7}
    assert out.metrics["mean_score"] == pytest.approx(0.7)


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
