"""Best-of-N: what the policy samples, the best of it, within its budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import BYTES, EOS, VOCABULARY, even_share, make
from textenv.agents import LMPolicy, evaluate, rollout
from textenv.agents.decoders.best_of_n import BestOfN, kl_of_best_of_n
from textenv.agents.decoders.decoding import PromptBook
from textenv.episode import Episode, Prompt
from textenv.generation import ActionRule

RULE = ActionRule(VOCABULARY, EOS, 6)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100], [101, 102])]


def policy() -> LMPolicy:
    """One whose texts end now and then."""
    model = worlds.llama()
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 4
    return LMPolicy(model, BYTES)


def uniforms(n: int = len(PROMPTS), seed: int = 0) -> torch.Tensor:
    return torch.rand(n, RULE.max_new_tokens, generator=torch.Generator().manual_seed(seed))


def lists(texts: Sequence[Any]) -> list[list[int]]:
    return [[int(token) for token in text] for text in texts]


class Watched:
    """A scorer that keeps what it was shown."""

    def __init__(self, scorer: Any = even_share) -> None:
        self.scorer, self.shown = scorer, list[Episode]()

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        self.shown += episodes
        return list(self.scorer(episodes))


def test_the_best_of_one_is_plain_sampling() -> None:
    one = BestOfN(policy(), even_share, 1).generate(PROMPTS, RULE, uniforms())
    assert lists(one) == lists(policy().generate(PROMPTS, RULE, uniforms()))


def test_the_text_is_the_best_of_those_that_were_judged_and_of_equals_the_first() -> None:
    judge = Watched(lambda episodes: [float(len(e) > 2) for e in episodes])
    (text,) = BestOfN(policy(), judge, 8).generate(PROMPTS[:1], RULE, uniforms(1))
    assert 0 < sum(len(e) > 2 for e in judge.shown) < 8
    assert lists([text]) == lists([next(e.tokens for e in judge.shown if len(e) > 2)])


def test_the_score_never_falls_as_n_grows() -> None:
    scores = []
    for n in (1, 2, 4, 9):
        judge = Watched()
        texts = BestOfN(policy(), judge, n).generate(PROMPTS, RULE, uniforms())
        scores.append([np.mean(text % 2 == 0) for text in texts])
    assert (np.diff(scores, axis=0) >= 0).all()
    assert np.diff(scores, axis=0).max() > 0


def test_the_samples_of_a_smaller_n_are_among_those_of_a_larger() -> None:
    shown = []
    for n in (2, 5):
        judge = Watched()
        BestOfN(policy(), judge, n).generate(PROMPTS[:1], RULE, uniforms(1))
        shown.append(lists([e.tokens for e in judge.shown]))
    assert shown[0] == shown[1][:2]


def test_a_text_does_not_depend_on_its_neighbours() -> None:
    search, numbers = BestOfN(policy(), even_share, 4), uniforms()
    together = search.generate(PROMPTS, RULE, numbers)
    alone = [search.generate([p], RULE, u[None])[0] for p, u in zip(PROMPTS, numbers, strict=True)]
    assert lists(together) == lists(alone)


def test_the_kl_bound_is_met_where_no_two_scores_tie() -> None:
    size = 4000  # a uniform policy over so many texts, each with a score of its own
    for n in (1, 2, 4, 16):
        best = np.diff((np.arange(size + 1) / size) ** n)
        assert kl_of_best_of_n(n) == pytest.approx(float((best * np.log(best * size)).sum()), abs=2e-3)


@pytest.mark.parametrize("count", ["all", "sampled"])
def test_a_budget_is_filled_and_never_passed(count: Any) -> None:
    budget, each = 50, 2 if count == "all" else 1
    search = BestOfN(policy(), even_share, token_budget=budget, count=count)
    spent = []
    for seed in range(6):
        search.tokens_used.reset()
        search.generate(PROMPTS[:1], RULE, uniforms(1, seed))
        spent.append(search.tokens_used.total(count))
    assert max(spent) <= budget
    assert min(spent) > budget - each * RULE.max_new_tokens  # not one more would have been sure to fit
    assert len(set(spent)) > 1


def test_a_budget_draws_the_same_samples_as_a_number() -> None:
    judge, again = Watched(), Watched()
    BestOfN(policy(), judge, token_budget=60).generate(PROMPTS[:1], RULE, uniforms(1))
    BestOfN(policy(), again, len(judge.shown)).generate(PROMPTS[:1], RULE, uniforms(1))
    assert len(judge.shown) > 2
    assert lists([e.tokens for e in judge.shown]) == lists([e.tokens for e in again.shown])


def test_one_text_is_written_whatever_the_budget() -> None:
    assert len(BestOfN(policy(), even_share, token_budget=1).generate(PROMPTS, RULE, uniforms())) == len(PROMPTS)


def test_the_budget_of_another_decoder_is_its_mean_cost_of_a_text() -> None:
    env = make(max_new_tokens=6)
    first = BestOfN(policy(), env, 5)
    with pytest.raises(ValueError, match="BestOfN has written no text yet"):
        BestOfN.at_budget_of(first, env)
    evaluate(first, env, k=4)
    used = first.tokens_used
    assert (used.texts, used.sampled, used.judged) == (4, used.judged, used.sampled)
    assert BestOfN.at_budget_of(first, env).token_budget == used.per_text() == (used.sampled + used.judged) / 4
    assert BestOfN.at_budget_of(first, env, count="sampled").token_budget == used.sampled / 4


def test_what_was_sampled_and_judged_is_counted() -> None:
    judge = Watched()
    search = BestOfN(policy(), judge, 3)
    search.generate(PROMPTS, RULE, uniforms())
    tokens = sum(map(len, judge.shown))
    used = search.tokens_used
    assert (used.texts, used.sampled, used.judged, used.judge_calls, used.judge_texts) == (3, tokens, tokens, 1, 9)


def test_the_judge_sees_the_whole_prompt_by_either_road() -> None:
    prompts = [Prompt("p: ", references=("r",), context=("c",)), Prompt("longer: ", references=("s",))]
    for road in ("evaluate", "rollout"):
        judge = Watched()
        env = make(prompts=prompts, max_new_tokens=4)
        search = BestOfN(policy(), judge, 2, env=env)
        if road == "evaluate":
            evaluate(search, env)
        else:
            rollout(env, search, 2, torch.Generator().manual_seed(0), prompts=prompts)
        assert [e.prompt for e in judge.shown] == [prompts[0], prompts[0], prompts[1], prompts[1]]


def test_ids_that_stand_for_two_prompts_or_none_are_refused() -> None:
    book = PromptBook(make(prompts=[Prompt("p", references=("r",)), Prompt("p", references=("s",))]))
    with pytest.raises(ValueError, match="several of the environment's prompts"):
        book.read([np.array([112])])
    with pytest.raises(ValueError, match="'q' are those of none of them; ask with Prompts"):
        book.read([np.array([113])])
    assert book.read([Prompt("q")])[0].ids.tolist() == [113]


def test_without_an_environment_a_prompt_is_what_its_ids_say() -> None:
    judge = Watched()
    BestOfN(policy(), judge, 2).generate(PROMPTS[1:2], RULE, uniforms(1))
    assert {e.prompt.text for e in judge.shown} == {"bcd"}
    with pytest.raises(ValueError, match="pass env="):
        BestOfN(policy(), judge, 2).generate([Prompt("bcd")], RULE, uniforms(1))
    with pytest.raises(ValueError, match="without a tokenizer"):
        BestOfN(LMPolicy(worlds.llama()), judge, 2)


def test_it_samples_from_whatever_writes_texts() -> None:
    env = make(max_new_tokens=4)
    answers = iter(["bb", "a", "aaa", "c"])
    (episode,) = evaluate(BestOfN(lambda prompt: next(answers), env, 4), env).episodes
    assert episode.text == "aaa"


def test_truncation_reaches_the_policy() -> None:
    env = make(max_new_tokens=4)
    truncated = evaluate(BestOfN(policy(), env, 1), env, k=3, top_p=0.01).episodes
    assert len({e.text for e in truncated}) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "n or token_budget, one of them"),
        ({"n": 2, "token_budget": 9}, ValueError, "one of them: got n=2, token_budget=9"),
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": 2, "count": "some"}, ValueError, '"all" or "sampled"'),
        ({"n": 2, "judge": "textenv/tiny-toxicity"}, ValueError, "pass env="),
        ({"n": 2, "judge": 5}, TypeError, "a judge is a text environment, or a scorer"),
        ({"n": 2, "judge": worlds.classifier()}, TypeError, "SequenceClassifierScorer"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BestOfN(policy(), **{"judge": even_share, **arguments})


def test_greedy_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="greedy texts are all one"):
        BestOfN(policy(), even_share, 2).generate(PROMPTS, RULE, None)
    assert len(BestOfN(policy(), even_share, 1).generate(PROMPTS, RULE, None)) == 3
