"""ARGS: each token is the one that language model and judge like best together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import BYTES, EOS, VOCABULARY, constant_scorer, make
from textenv.agents import LMPolicy, evaluate, rollout
from textenv.agents.decoders.reward_guided import RewardGuidedSearch
from textenv.episode import Episode
from textenv.generation import ActionRule
from textenv.judges.scorers import SequenceClassifierScorer

RULE = ActionRule(VOCABULARY, EOS, 6)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100], [101, 102])]
MODELS: dict[str, Callable[[], Any]] = {"llama": worlds.llama, "gpt2": worlds.gpt2, "t5": worlds.t5, "bart": worlds.bart}


def evens(episodes: Sequence[Episode]) -> list[float]:
    """The share of even ids; of nothing (a character's first byte is no text yet), a half."""
    return [float(np.mean(e.tokens % 2 == 0)) if len(e) else 0.5 for e in episodes]


def uniforms(n: int = len(PROMPTS), seed: int = 0) -> torch.Tensor:
    return torch.rand(n, RULE.max_new_tokens, generator=torch.Generator().manual_seed(seed))


def lists(texts: Sequence[Any]) -> list[list[int]]:
    return [[int(token) for token in text] for text in texts]


def search(judge: Any = evens, model: Any = None, **options: Any) -> RewardGuidedSearch:
    return RewardGuidedSearch(LMPolicy(model or worlds.llama(), BYTES), judge, **options)


@pytest.mark.parametrize("name", MODELS)
def test_weight_zero_is_greedy_decoding_bit_for_bit(name: str) -> None:
    model = MODELS[name]()
    found = search(model=model, weight=0.0).generate(PROMPTS, RULE, uniforms())
    assert lists(found) == lists(LMPolicy(model).generate(PROMPTS, RULE, None))


@pytest.mark.parametrize("k", [1, 7, VOCABULARY, 10_000])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_weight_zero_is_top_k_sampling_bit_for_bit(name: str, k: int) -> None:
    policy = LMPolicy(MODELS[name](), BYTES, temperature=1.5)
    found = RewardGuidedSearch(policy, evens, k=k, weight=0.0, mode="stochastic").generate(PROMPTS, RULE, uniforms())
    assert lists(found) == lists(policy.generate(PROMPTS, RULE, uniforms(), top_k=k if k < VOCABULARY else 0))


@pytest.mark.parametrize("mode", ["greedy", "stochastic"])
def test_one_candidate_is_greedy_decoding_whatever_the_weight(mode: Any) -> None:
    model = worlds.llama()
    found = search(model=model, k=1, weight=50.0, mode=mode).generate(PROMPTS, RULE, uniforms())
    assert lists(found) == lists(LMPolicy(model).generate(PROMPTS, RULE, None))


@pytest.mark.parametrize("mode", ["greedy", "stochastic"])
@pytest.mark.parametrize("reward", [0.5, -50.0])  # one that is low drives no text to tokens that are no candidates
def test_a_constant_reward_makes_the_weight_irrelevant(mode: Any, reward: float) -> None:
    one, other = (
        search(constant_scorer(reward), k=5, weight=w, mode=mode).generate(PROMPTS, RULE, uniforms()) for w in (0.0, 3.0)
    )
    assert lists(one) == lists(other)


def test_with_all_tokens_and_a_large_weight_the_reward_alone_decides() -> None:
    env = make()
    (episode,) = evaluate(RewardGuidedSearch(worlds.llama(), env, k=VOCABULARY, weight=1e6), env).episodes
    assert (episode.text, episode.score) == ("a" * 16, 1.0)


JUDGES: dict[str, Callable[[], Any]] = {
    "a callable": lambda: evens,
    "a decoder with the policy's tokenizer": lambda: scorer("llama", BYTES),
    "a decoder with another tokenizer": lambda: scorer("gpt2", worlds.tokenizers()["word_piece"]),
    "an encoder with another tokenizer": lambda: scorer("bert", worlds.tokenizers()["word_piece"]),
}


def scorer(kind: str, tokenizer: Any) -> SequenceClassifierScorer:
    return SequenceClassifierScorer(worlds.classifier(kind), tokenizer=tokenizer, label="toxic", output="logit")


@pytest.mark.parametrize("name", JUDGES)
def test_every_token_has_the_highest_sum_of_log_probability_and_reward(name: str) -> None:
    model, judge, k, weight = worlds.llama(), JUDGES[name](), 4, 3.0
    asked = search(judge, model, k=k, weight=weight)
    (text,) = asked.generate(PROMPTS[1:2], RULE, None)
    (prompt,) = asked.judge.book.read(PROMPTS[1:2])
    plain = 0
    for t, token in enumerate(text):
        row = torch.from_numpy(np.concatenate([PROMPTS[1], text[:t]]))[None]
        with torch.no_grad():
            log_p = model(row).logits[0, -1].log_softmax(-1)
        candidates = log_p.topk(k).indices.tolist()
        texts = [asked.judge.episode(prompt, [*text[:t], c], RULE) for c in candidates]
        sums = [float(log_p[c]) + weight * r for c, r in zip(candidates, asked.judge.scores(texts), strict=True)]
        assert int(token) == candidates[int(np.argmax(sums))]
        plain += int(token) == candidates[0]
    assert plain < len(text)  # the judge had a say


def test_stochastic_tokens_follow_the_policy_times_the_exponential_of_the_reward() -> None:
    model, k, weight, n = worlds.llama(), 6, 2.0, 2000
    rule = ActionRule(VOCABULARY, EOS, 1)
    log_p = model(torch.tensor([[97]])).logits[0, -1].log_softmax(-1).detach()
    candidates = log_p.topk(k).indices
    expected = (log_p[candidates] + weight * (candidates % 2 == 0)).softmax(-1)
    numbers = ((torch.arange(n) + 0.5) / n)[:, None]
    asked = search(evens, model, k=k, weight=weight, mode="stochastic", batch_size=500)
    counts = np.bincount([int(text[0]) for text in asked.generate([PROMPTS[0]] * n, rule, numbers)], minlength=VOCABULARY) / n
    assert counts[candidates.numpy()].tolist() == pytest.approx(expected.tolist(), abs=2 / n)
    assert counts.sum() == pytest.approx(counts[candidates.numpy()].sum())


def test_a_temperature_sharpens_what_is_sampled() -> None:
    sharp = search(mode="stochastic", temperature=1e-4, k=4).generate(PROMPTS, RULE, uniforms())
    assert lists(sharp) == lists(search(mode="greedy", k=4).generate(PROMPTS, RULE, uniforms()))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_batch_is_a_loop_of_single_texts(name: str) -> None:
    asked, numbers = search(model=MODELS[name](), mode="stochastic", k=5), uniforms()
    alone = [asked.generate([p], RULE, u[None])[0] for p, u in zip(PROMPTS, numbers, strict=True)]
    assert lists(asked.generate(PROMPTS, RULE, numbers)) == lists(alone)
    asked.batch_size = 2
    assert lists(asked.generate(PROMPTS, RULE, numbers)) == lists(alone)


def test_texts_of_a_batch_that_end_early_take_nothing_from_the_others() -> None:
    model, n, k = worlds.llama(), 12, 6
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 4
    asked, prompts, numbers = search(model=model, mode="stochastic", k=k), [*PROMPTS] * (n // 3), uniforms(n)
    together = asked.generate(prompts, RULE, numbers)
    assert len({len(text) for text in together}) > 2
    assert asked.tokens_used.judge_texts == k * sum(map(len, together))  # an ended text is judged no more
    assert lists(together) == lists(asked.generate([p], RULE, u[None])[0] for p, u in zip(prompts, numbers, strict=True))


def test_the_judge_is_asked_in_the_callers_modes_not_in_those_of_the_policys_forward_pass() -> None:
    weight, numbers = torch.nn.Parameter(torch.ones(1, 1)), []

    def by_gradient(episodes: Sequence[Episode]) -> list[float]:
        for _ in episodes:
            product = weight @ torch.full((1, 1), 1.0 + 2.0**-12)  # no number of bfloat16
            product.sum().backward()
            numbers.append(product.item())
        return [0.0] * len(episodes)

    policy: Any = LMPolicy(worlds.llama(), BYTES)
    policy.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    RewardGuidedSearch(policy, by_gradient, k=2).generate(PROMPTS, RULE, None)
    assert numbers
    assert all(number > 1 for number in numbers)


def stopped(episodes: Sequence[Episode]) -> list[float]:
    return [float(e.finish_reason == "stop") for e in episodes]


def test_the_end_is_a_candidate_and_is_judged_as_a_finished_text() -> None:
    assert lists(search(stopped, k=VOCABULARY, weight=1e3).generate(PROMPTS, RULE, None)) == [[EOS]] * 3
    early = ActionRule(VOCABULARY, EOS, 6, min_new_tokens=3)
    assert [len(t) for t in search(stopped, k=VOCABULARY, weight=1e3).generate(PROMPTS, early, None)] == [4] * 3


def test_texts_that_end_at_different_times_go_on_alone() -> None:
    def end_in_time(episodes: Sequence[Episode]) -> list[float]:
        return [-abs(len(e) - 1.0 - len(e.prompt.text)) if e.finish_reason == "stop" else -0.5 for e in episodes]

    found = search(end_in_time, k=VOCABULARY, weight=1e3).generate(PROMPTS, RULE, None)
    assert [len(text) for text in found] == [2, 4, 3]


def test_it_is_a_policy_to_rollout_and_deterministic_is_greedy() -> None:
    env = make(max_new_tokens=4)
    asked = RewardGuidedSearch(worlds.llama(), env, k=3, mode="stochastic")
    texts = [
        lists([e.tokens for e in rollout(env, asked, 3, torch.Generator().manual_seed(seed), deterministic=greedy)])
        for seed, greedy in ((0, False), (0, False), (1, False), (0, True))
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == lists(RewardGuidedSearch(worlds.llama(), env, k=3).generate([np.array(list(b"Say a: "))] * 3, RULE4, None))


RULE4 = ActionRule(VOCABULARY, EOS, 4)


def test_what_was_sampled_and_judged_is_counted() -> None:
    rule = ActionRule(VOCABULARY, EOS, 4, min_new_tokens=4)
    asked = search(k=3)
    asked.generate(PROMPTS, rule, None)
    used = asked.tokens_used
    assert (used.texts, used.sampled, used.judge_texts) == (3, 12, 36)
    assert used.judged == 3 * 3 * (1 + 2 + 3 + 4)
    assert used.total() == used.per_text() * 3 == 12 + 90


def test_the_global_generator_is_left_alone() -> None:
    asked = search(mode="stochastic")
    before = torch.get_rng_state()
    asked.generate(PROMPTS, RULE, uniforms())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"mode": "best"}, "mode must be one of"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_another_truncation_is_refused() -> None:
    with pytest.raises(ValueError, match="the candidates are the k=10 likeliest tokens"):
        search().generate(PROMPTS, RULE, None, top_p=0.9)


def test_a_policy_that_tells_no_probabilities_is_refused() -> None:
    env = make()
    with pytest.raises(TypeError, match="tells no probabilities"):
        RewardGuidedSearch(lambda prompt: "a", env)


def test_a_policy_of_other_tokens_than_the_environments_is_refused() -> None:
    with pytest.raises(ValueError, match="different tokenizers"):
        RewardGuidedSearch("textenv/tiny", make())
