"""Texts are written while a server judges those before: the same texts and the same credit, and every failure is heard."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.critics.fake_server import FakeServer
from tests.worlds import make
from textenv.agents import BestOfN, LMPolicy, evaluate, rollout
from textenv.agents.overlap import overlapped
from textenv.agents.rollout import Timing
from textenv.aspects import Aspect
from textenv.critics import CritiqueFormat, Patience, Section, ServerCritic, WordsFromSpans
from textenv.episode import Episode
from textenv.judges.generic_aspects import SegmentScores
from textenv.judges.http_scorer import HTTPScorer, HTTPScorerError

FORM = CritiqueFormat((Section("Bad", -1.0),))
SOON = Patience(retries=1, timeout=2.0, backoff=0.01, longest=0.05)
PATIENT = 5.0  # seconds after which a test gives up


def share_of_a(text: str) -> float:
    return min(0.01 * len(text) + text.count("a"), 1.0)


def _wait(event: threading.Event) -> None:
    assert event.wait(PATIENT)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def scorer_of(server: FakeServer) -> HTTPScorer:
    return HTTPScorer(f"http://127.0.0.1:{server.port}/analyze", patience=SOON)


def critic_of(server: FakeServer) -> ServerCritic:
    return ServerCritic(server.url, FORM, model="fake", patience=SOON)


class Watched(LMPolicy):
    """Decodes two at a time, and calls `before` with the number of the part, as it begins to write it."""

    decodes_together = 2
    before: Callable[[int], None] = staticmethod(lambda part: None)
    asked: list[int]

    def generate(self, prompts: Any, *arguments: Any, **options: Any) -> Any:
        self.asked = [*getattr(self, "asked", []), len(prompts)]
        self.before(len(self.asked))
        return super().generate(prompts, *arguments, **options)


def watched(before: Callable[[int], None] = lambda part: None) -> Watched:
    policy = Watched(worlds.llama(), device="cpu")
    policy.before = before  # type: ignore[method-assign]
    return policy


@pytest.mark.parametrize("who", ["scorer", "critic"])
def test_the_second_part_is_written_while_the_server_thinks_about_the_first(who: str) -> None:
    """The server does not answer before the second part has begun, and that does not begin before the server was asked."""
    was_asked, goes_on = threading.Event(), threading.Event()
    waited: list[bool] = []

    def answer(question: str) -> Any:
        was_asked.set()
        waited.append(goes_on.wait(PATIENT))
        return share_of_a(question) if who == "scorer" else " none"

    def before(part: int) -> None:
        if part == 2:
            waited.append(was_asked.wait(PATIENT))
            goes_on.set()

    with FakeServer(answer) as server:
        judged: dict[str, Any] = (
            {"scorer": scorer_of(server)} if who == "scorer" else {"reward": ("critic_span", {"critic": critic_of(server)})}
        )
        env = make(**judged, payment="end", max_new_tokens=6)
        env.reset(seed=0)
        policy = watched(before)
        rollout(env, policy, 8, generator())
    assert policy.asked == [2] * 4
    assert all(waited)


def test_texts_and_credit_are_those_of_a_judge_that_does_not_wait() -> None:
    def local(episodes: Sequence[Episode]) -> list[float]:
        return [1.0 - share_of_a(episode.text) if episode.text.strip() else 1.0 for episode in episodes]

    with FakeServer(share_of_a) as server:
        found = []
        for scorer in (scorer_of(server), local):
            env = make(scorer=scorer, max_new_tokens=6)
            env.reset(seed=0)
            found.append(rollout(env, watched(), 7, generator()))
    overlapping, alone = found
    assert [e.tokens.tolist() for e in overlapping] == [e.tokens.tolist() for e in alone]
    assert [e.prompt for e in overlapping] == [e.prompt for e in alone]
    assert [e.score for e in overlapping] == [e.score for e in alone]
    assert [e.rewards.tolist() for e in overlapping] == [e.rewards.tolist() for e in alone]


def test_no_part_is_smaller_than_what_the_policy_decodes_together() -> None:
    policy = watched()
    policy.decodes_together = LMPolicy.decodes_together
    with FakeServer(share_of_a) as server:
        rollout(make(scorer=scorer_of(server), max_new_tokens=1), policy, 300, generator())
    assert policy.asked == [256, 44]
    assert inspect.signature(LMPolicy.generate).parameters["batch_size"].default == 256


def test_what_is_recorded_while_sampling_keeps_the_order_of_the_texts() -> None:
    with FakeServer(share_of_a) as server:
        found = []
        for scorer in (scorer_of(server), lambda episodes: [0.0] * len(episodes)):
            env, recorded = make(scorer=scorer, max_new_tokens=6), list[Any]()
            env.reset(seed=0)
            policy = LMPolicy(worlds.llama(), device="cpu")
            policy.decodes_together = 3
            episodes = rollout(env, policy, 7, generator(), recorded=recorded)
            (sampled,) = recorded
            assert [e.tokens.tolist() for e in episodes] == [tokens.tolist() for tokens in sampled.tokens]
            found.append(np.concatenate(sampled.log_probs))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_a_judge_that_computes_here_gets_the_whole_batch_in_one_call() -> None:
    calls: list[int] = []

    def scorer(episodes: Sequence[Episode]) -> list[float]:
        calls.append(len(episodes))
        return [0.0] * len(episodes)

    policy = watched()
    rollout(make(scorer=scorer, max_new_tokens=4), policy, 8, generator())
    assert (calls, policy.asked) == ([8], [8])


def test_a_policy_whose_texts_depend_on_each_other_writes_them_together() -> None:
    class Together:
        def __init__(self) -> None:
            self.policy = watched()

        def generate(self, *arguments: Any, **options: Any) -> Any:
            return self.policy.generate(*arguments, **options)

    with FakeServer(share_of_a) as server:
        policy = Together()
        rollout(make(scorer=scorer_of(server), max_new_tokens=4), policy, 8, generator())
    assert policy.policy.asked == [8]


def test_evaluation_overlaps() -> None:
    policy = watched()
    with FakeServer(share_of_a) as server:
        evaluate(policy, make(scorer=scorer_of(server), max_new_tokens=4), n=1, k=8)
    assert policy.asked == [2] * 4


def test_best_of_n_draws_while_its_judge_waits_and_chooses_the_same() -> None:
    def local(episodes: Sequence[Episode]) -> list[float]:
        return [1.0 - share_of_a(episode.text) if episode.text.strip() else 1.0 for episode in episodes]

    with FakeServer(share_of_a) as server:
        found = []
        for judge in (scorer_of(server), local):
            env = make(max_new_tokens=6)
            env.reset(seed=0)
            policy = watched()
            policy.decodes_together = 6
            best = BestOfN(policy, judge, 3, env=env)
            found.append(([e.tokens.tolist() for e in rollout(env, best, 8, generator())], policy.asked, best.tokens_used.sampled))
    (texts, asked, used), (same, at_once, cost) = found
    assert (texts, used) == (same, cost)
    assert (asked, at_once) == ([6] * 4, [24])


@pytest.mark.parametrize("fault", ["503", "403"])
def test_a_server_that_dies_ends_the_writing_with_its_own_error_and_says_how_far_it_was(fault: str) -> None:
    failed = threading.Event()
    with FakeServer(share_of_a, ["", "", *[fault] * 99]) as server:
        scorer = scorer_of(server)

        def watch(episodes: Sequence[Episode]) -> list[float]:
            try:
                return scorer(episodes)
            except HTTPScorerError:
                failed.set()
                raise

        watch.waits = True  # type: ignore[attr-defined]
        policy = watched(lambda part: None if part < 3 else _wait(failed))
        with pytest.raises(HTTPScorerError, match=f"HTTP {fault}") as caught:
            rollout(make(scorer=watch, max_new_tokens=4, min_new_tokens=4), policy, 8, generator())
    assert caught.value.__notes__ in ([f"{n} of 8 texts had been written, 2 of them judged"] for n in (6, 8))
    assert any("score_texts" in str(frame.name) for frame in caught.traceback), "the traceback is the thread's own"


def test_a_sampler_that_fails_does_not_wait_for_the_server() -> None:
    def before(part: int) -> None:
        if part == 2:
            raise RuntimeError("no memory")

    with FakeServer(share_of_a, ["503"] * 99) as server:
        scorer = HTTPScorer(
            f"http://127.0.0.1:{server.port}/analyze", on_error="retry_forever", patience=Patience(1, 2.0, 3600.0, 3600.0)
        )
        with pytest.raises(RuntimeError, match="no memory") as caught:
            rollout(make(scorer=scorer, max_new_tokens=4), watched(before), 8, generator())
    assert caught.value.__notes__ == ["2 of 8 texts had been written, 0 of them judged"]


def test_time_that_was_hidden_behind_sampling_is_not_counted_as_judging() -> None:
    timing = Timing()
    with FakeServer(share_of_a) as server:
        server.delay = 0.02
        rollout(make(scorer=scorer_of(server), max_new_tokens=4), watched(), 8, generator(), timing=timing)
    assert timing.sample > 0
    assert timing.score >= 0.02, "the last part is waited for"


@pytest.mark.parametrize("n", [0, 1, 2, 5, 8])
def test_every_text_is_written_once_in_order(n: int) -> None:
    judged = overlapped(lambda part: list(range(n))[part], lambda texts: texts, n, waits=True, size=3)
    assert [text for part in judged for text in part] == list(range(n))


class Server:
    """A judge that waits."""

    waits = True

    def __call__(self, episodes: Sequence[Episode]) -> list[Any]:
        return [[] for _ in episodes]


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (("critic_span", {"critic": Server()}), True), (("critic_token", {"critic": WordsFromSpans(Server())}), True),
        (("fine_grained", {"aspects": [Aspect("a", Server())]}), True),
        (("fine_grained", {"aspects": [Aspect("a", SegmentScores(Server()))]}), True),
        (("redistributed", {"reward_model": Server()}), True), ([("critic_span", {"critic": Server()}), "length_penalty"], True),
        (("critic_span", {"critic": lambda episodes: [[] for _ in episodes]}), False), ("length_penalty", False),
    ],
)  # fmt: skip
def test_a_stack_waits_where_one_of_its_judges_does(reward: Any, expected: bool) -> None:
    assert make(reward=reward, max_new_tokens=4).get_wrapper_attr("waits") is expected
