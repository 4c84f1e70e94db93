"""Step search: steps that a judge likes are kept, others are taken back, within a hard budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import BYTES, EOS, VOCABULARY, make
from textenv.agents import LMPolicy, evaluate
from textenv.agents.decoders.best_of_n import BestOfN
from textenv.agents.decoders.step_search import StepSearch
from textenv.aspects import Aspect
from textenv.episode import Episode, Span
from textenv.generation import ActionRule
from textenv.wrappers.process import StepClassifier

RULE = ActionRule(VOCABULARY, EOS, 6)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100], [101, 102])]
MODELS: dict[str, Callable[[], Any]] = {"llama": worlds.llama, "gpt2": worlds.gpt2, "t5": worlds.t5, "bart": worlds.bart}


def characters(text: str) -> list[tuple[int, int]]:
    """Every character is a step."""
    return [(i, i + 1) for i in range(len(text))]


def ascii_policy(*, ends: bool = False) -> LMPolicy:
    """One that writes no byte above 127, so that each token is a character; with `ends`, EOS now and then."""
    model = worlds.llama()
    bias = torch.zeros(VOCABULARY)
    bias[128:] = -1e4
    bias[EOS] = 2.0 if ends else -1e4
    model.lm_head.bias = torch.nn.Parameter(bias)
    return LMPolicy(model, BYTES)


def uniforms(n: int = len(PROMPTS), seed: int = 0) -> torch.Tensor:
    return torch.rand(n, RULE.max_new_tokens, generator=torch.Generator().manual_seed(seed))


def lists(texts: Sequence[Any]) -> list[list[int]]:
    return [[int(token) for token in text] for text in texts]


class Judge:
    """Gives each character of a text a value, and keeps what it was shown."""

    def __init__(self, value: Callable[[str], float]) -> None:
        self.value, self.shown, self.calls = value, list[Episode](), 0

    def __call__(self, episodes: Sequence[Episode]) -> list[list[Span]]:
        self.calls += 1
        self.shown += episodes
        return [[Span(i, i + 1, self.value(e.text[: i + 1])) for i in range(len(e.text))] for e in episodes]


def search(judge: Any, policy: LMPolicy | None = None, **options: Any) -> StepSearch:
    return StepSearch(policy or ascii_policy(), judge, **{"segmenter": characters, "token_budget": 60, **options})


LIKES, HATES = (lambda text: 1.0), (lambda text: -1.0)


@pytest.mark.parametrize("name", MODELS)
def test_a_judge_that_likes_everything_leaves_plain_sampling(name: str) -> None:
    policy = LMPolicy(MODELS[name](), BYTES, temperature=1.3)
    asked = search(Judge(LIKES), policy)
    assert lists(asked.generate(PROMPTS, RULE, uniforms())) == lists(policy.generate(PROMPTS, RULE, uniforms()))
    assert asked.tokens_used.judge_calls > 3  # step by step


def test_plain_sampling_stays_itself_under_a_truncation_and_a_least_length() -> None:
    policy, rule = ascii_policy(ends=True), ActionRule(VOCABULARY, EOS, 6, min_new_tokens=3)
    found = search(Judge(LIKES), policy).generate(PROMPTS, rule, uniforms(), top_k=5, top_p=0.9)
    assert lists(found) == lists(policy.generate(PROMPTS, rule, uniforms(), top_k=5, top_p=0.9))


@pytest.mark.parametrize("budget", [6, 7, 12, 25, 60])
@pytest.mark.parametrize("judge", ["hates", "likes beginnings", "likes capitals"])
@pytest.mark.parametrize("ends", [True, False])
def test_the_budget_is_never_passed_and_every_text_is_finished(budget: int, judge: str, ends: bool) -> None:
    values = {"hates": HATES, "likes beginnings": lambda t: 1.0 if len(t) < 3 else -1.0, "likes capitals": capital}
    asked = search(Judge(values[judge]), ascii_policy(ends=ends), token_budget=budget, branching=3)
    for i, prompt in enumerate(PROMPTS):
        asked.tokens_used.reset()
        (text,) = asked.generate([prompt], RULE, uniforms(1, i))
        assert len(text) <= asked.tokens_used.sampled <= budget
        assert len(text) == 6 or text[-1] == EOS


def capital(text: str) -> float:
    return 1.0 if text[-1].isupper() else -1.0


def test_a_judge_that_hates_everything_is_asked_of_each_step_at_the_root_and_then_the_text_is_plain() -> None:
    judge = Judge(HATES)
    asked = search(judge, branching=5)
    (text,) = asked.generate(PROMPTS[:1], RULE, uniforms(1))
    assert {len(e) for e in judge.shown} == {1}
    assert len(judge.shown) == 5
    assert asked.tokens_used.sampled >= 5 + len(text) == 11


def test_an_oracle_finds_the_way_out_of_dead_ends() -> None:
    """Any first step looks good, but behind most of them every second step is bad."""

    def oracle(text: str) -> float:
        return 1.0 if len(text) == 1 or text[0] in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" else -1.0

    numbers = uniforms(20)
    plain = ascii_policy().generate([PROMPTS[0]] * 20, RULE, numbers)
    found = search(Judge(oracle), branching=12, token_budget=3000).generate([PROMPTS[0]] * 20, RULE, numbers)
    assert np.mean([chr(text[0]).isupper() for text in plain]) < 0.5
    assert all(chr(text[0]).isupper() for text in found)


def test_no_step_is_judged_twice_nor_taken_again_after_it_was_taken_back() -> None:
    judge = Judge(lambda text: 1.0 if len(text) < 3 else -1.0)
    search(judge, branching=4, token_budget=500).generate(PROMPTS[:1], RULE, uniforms(1))
    shown = [tuple(e.tokens.tolist()) for e in judge.shown]
    assert len(shown) > 30
    assert len(set(shown)) == len(shown)


def test_a_policy_that_repeats_itself_does_not_try_for_ever() -> None:
    policy = ascii_policy()
    policy.temperature = 1e-4
    judge = Judge(HATES)
    asked = search(judge, policy, branching=4, token_budget=1000)
    (text,) = asked.generate(PROMPTS[:1], RULE, uniforms(1))
    assert len(judge.shown) == 1
    assert asked.tokens_used.sampled == 3 * 4 + len(text)


def test_the_best_of_neutral_steps_is_taken_when_enough_was_tried() -> None:
    judge = Judge(lambda text: ord(text[-1]) / 128)
    (text,) = search(judge, margin=1.0, branching=4, token_budget=1000).generate(PROMPTS[:1], RULE, uniforms(1))
    for t in range(len(text)):
        tried = [e.tokens[t] for e in judge.shown if len(e) == t + 1 and e.tokens[:t].tolist() == text[:t].tolist()]
        assert 1 < len(tried) <= 4
        assert text[t] == max(tried)


def test_the_lowest_span_of_a_step_tells() -> None:
    judge = Judge(lambda text: -1.0 if text[-1] in "aeiou " else 1.0)

    def pairs(text: str) -> list[tuple[int, int]]:
        return [(i, min(i + 2, len(text))) for i in range(0, len(text), 2)]

    texts = search(judge, segmenter=pairs, branching=20, token_budget=2000).generate(PROMPTS, RULE, uniforms())
    assert not any(chr(token) in "aeiou " for text in texts for token in text)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_batch_is_a_loop_of_single_texts(name: str) -> None:
    policy = ascii_policy() if name == "llama" else LMPolicy(worlds.t5(), BYTES)
    asked, numbers = search(Judge(lambda text: 1.0 if ord(text[-1]) % 3 else -1.0), policy), uniforms()
    alone = [asked.generate([p], RULE, u[None])[0] for p, u in zip(PROMPTS, numbers, strict=True)]
    assert lists(asked.generate(PROMPTS, RULE, numbers)) == lists(alone)
    asked.batch_size = 2
    assert lists(asked.generate(PROMPTS, RULE, numbers)) == lists(alone)


def test_an_environment_judges_a_step_by_what_it_adds_to_the_score() -> None:
    env = make(scorer=lambda episodes: [sum(map(str.isupper, e.text)) / 4 for e in episodes], max_new_tokens=4)
    asked = StepSearch(ascii_policy(), env, segmenter=characters, branching=30, token_budget=500)
    scores = [evaluate(policy, env, k=6).metrics["mean_score"] for policy in (ascii_policy(), asked)]
    assert scores[0] < 0.5
    assert scores[1] == 1.0


def test_a_score_is_asked_once_for_each_text_so_far() -> None:
    shown = []

    def scorer(episodes: Sequence[Episode]) -> list[float]:
        shown.extend(e.text for e in episodes)
        return [float(len(e.text)) for e in episodes]

    (text,) = search(scorer).generate(PROMPTS[:1], RULE, uniforms(1))
    assert len(set(shown)) == len(shown) > 2
    assert {"", "".join(map(chr, text))} <= set(shown)


def test_an_aspect_of_which_less_is_better_is_turned_around() -> None:
    likes = search(Aspect("bad", Judge(HATES), "token", lower_is_better=True))
    assert lists(likes.generate(PROMPTS, RULE, uniforms())) == lists(ascii_policy().generate(PROMPTS, RULE, uniforms()))


def test_a_step_classifier_steers() -> None:
    model = worlds.classifier("llama", ("negative", "neutral", "positive"), seed=5)
    judge = StepClassifier(model, tokenizer=BYTES, segmenter=characters, read="expected")
    found = search(judge, branching=6, token_budget=200).generate(PROMPTS, RULE, uniforms())
    asked = search(judge)
    prompts = asked.judge.book.read(PROMPTS)

    def value(texts: Sequence[Any]) -> float:
        judged = judge([asked.judge.episode(p, t, RULE) for p, t in zip(prompts, texts, strict=True)])
        return float(np.mean([span.reward for spans in judged for span in spans]))

    assert value(found) > value(ascii_policy().generate(PROMPTS, RULE, uniforms()))


def test_an_aspect_of_the_task_is_found_by_its_name() -> None:
    env = make(max_new_tokens=6)
    asked = StepSearch(ascii_policy(), "sentence_score", env=env, segmenter="sentences")
    assert len(evaluate(asked, env, k=2).episodes) == 2
    assert asked.tokens_used.texts == 2


def test_an_end_that_shows_nothing_is_kept() -> None:
    policy = ascii_policy(ends=True)
    with torch.no_grad():
        policy.model.lm_head.bias[EOS] = 100.0
    assert lists(search(Judge(HATES), policy).generate(PROMPTS, RULE, uniforms())) == [[EOS]] * 3


def test_it_stands_beside_best_of_n_at_the_same_budget() -> None:
    env = make(max_new_tokens=6)
    asked = StepSearch(ascii_policy(), env, segmenter=characters, token_budget=30)
    evaluate(asked, env, k=4)
    fair = BestOfN.at_budget_of(asked, env)
    evaluate(fair, env, k=4)
    assert fair.tokens_used.total() <= asked.tokens_used.total()
    assert fair.policy is asked.policy


def test_what_was_judged_is_counted() -> None:
    judge = Judge(LIKES)
    asked = search(judge)
    asked.generate(PROMPTS, RULE, uniforms())
    used = asked.tokens_used
    assert (used.judge_calls, used.judge_texts, used.judged) == (judge.calls, len(judge.shown), sum(map(len, judge.shown)))
    assert (used.texts, used.sampled) == (3, 18)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branching": 0}, "branching must be at least 1, got 0"),
        ({"margin": -1.0}, "margin must be at least 0, got -1.0"),
        ({"segmenter": "words"}, "segmenter 'words'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(Judge(LIKES), **options)


def test_a_budget_that_holds_no_whole_text_is_refused() -> None:
    with pytest.raises(ValueError, match="token_budget=5 holds no whole text of max_new_tokens=6"):
        search(Judge(LIKES), token_budget=5).generate(PROMPTS, RULE, uniforms())


def test_greedy_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="greedy texts have none"):
        search(Judge(LIKES)).generate(PROMPTS, RULE, None)


def test_a_judge_of_too_few_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="returned 1 lists of spans for 3 texts"):
        search(lambda episodes: [[]]).generate(PROMPTS, RULE, uniforms())
