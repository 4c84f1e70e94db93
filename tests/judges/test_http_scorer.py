"""A scorer behind a URL: each text gets its number, or an error; no failure becomes a score."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import pytest

from tests.critics.fake_server import HANGING, MANGLED, FakeServer
from tests.worlds import make
from textenv.critics import AnswerCache, Patience
from textenv.episode import Prompt
from textenv.judges.http_scorer import HTTPScorer, HTTPScorerError

SOON = Patience(retries=3, timeout=20.0, backoff=0.01, longest=0.05)


def soon(fault: str) -> Patience:
    """With a clock where nothing else ends a try."""
    return replace(SOON, timeout=1.0) if fault in HANGING else SOON


def share_of_x(text: str) -> float:
    return text.count("x") / len(text)


def scorer_of(server: FakeServer, **options: Any) -> HTTPScorer:
    return HTTPScorer(f"http://127.0.0.1:{server.port}/analyze", **{"patience": SOON, **options})


def test_the_score_is_one_minus_the_toxicity() -> None:
    with FakeServer(share_of_x) as server:
        assert scorer_of(server).score_texts(["xx", "xa", "aaaa"]) == [0.0, 0.5, 1.0]
        assert scorer_of(server, complement=False, attribute="INSULT").score_texts(["xa"]) == [0.5]
        first, *_, last = server.requests
    assert sorted(r["comment"]["text"] for r in server.requests[:3]) == ["aaaa", "xa", "xx"]
    assert first["requestedAttributes"] == {"TOXICITY": {}}
    assert last["requestedAttributes"] == {"INSULT": {}}
    assert "languages" not in first


def test_a_task_takes_its_address_as_a_scorer() -> None:
    with FakeServer(share_of_x) as server:
        url = f"http://127.0.0.1:{server.port}/analyze"
        env = gym.make("textenv/Detox-v0", scorer=url)
        tokens = env.get_wrapper_attr("tokenizer")(" ax", add_special_tokens=False)["input_ids"]
        episode = env.get_wrapper_attr("episode")(Prompt("p"), [*tokens, env.get_wrapper_attr("tokenizer").eos_token_id])
        (scored,) = env.get_wrapper_attr("credit")([episode])
        assert scored.score == pytest.approx(1 - share_of_x(episode.text))


def test_equal_texts_are_asked_about_once_and_empty_ones_never() -> None:
    with FakeServer(share_of_x) as server:
        assert scorer_of(server).score_texts(["x", "", "x", " \n"]) == [0.0, 1.0, 0.0, 1.0]
        assert len(server.requests) == 1


def test_a_text_is_judged_up_to_its_limit() -> None:
    with FakeServer(share_of_x) as server:
        assert scorer_of(server, max_text=2).score_texts(["aaxxxx"]) == [1.0]


@pytest.mark.parametrize("fault", ["429", "500", "503", *MANGLED])
def test_a_failure_that_passes_loses_nothing(fault: str) -> None:
    with FakeServer(share_of_x, [fault, fault]) as server:
        scorer = scorer_of(server, patience=soon(fault))
        assert scorer.score_texts(["xa", "aa"]) == [0.5, 1.0]
        assert (scorer.retries, scorer.requests, len(server.requests)) == (2, 2, 4)


@pytest.mark.parametrize("fault", ["429", "500", *MANGLED])
def test_a_failure_that_stays_raises(fault: str) -> None:
    with FakeServer(share_of_x, [fault] * 9) as server:
        scorer = scorer_of(server, patience=replace(soon(fault), retries=1))
        with pytest.raises(HTTPScorerError, match=r"scorer http://127\.0\.0\.1:\d+/analyze: "):
            scorer.score_texts(["x"])
        assert len(server.requests) == 2


def test_forever_is_longer_than_any_patience() -> None:
    with FakeServer(share_of_x, ["500", "drop", "half_json"] * 5) as server:
        patience = replace(SOON, retries=0)
        assert scorer_of(server, patience=patience, on_error="retry_forever").score_texts(["xa"]) == [0.5]


@pytest.mark.parametrize("fault", ["400", "401", "403", "404"])
def test_a_refusal_raises_at_once(fault: str) -> None:
    with FakeServer(share_of_x, [fault]) as server, pytest.raises(HTTPScorerError, match=f"HTTP {fault}"):
        scorer_of(server, on_error="retry_forever").score_texts(["x"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "gave no attributeScores.TOXICITY.summaryScore.value"),
        ("much", "gave no attributeScores"),
        (1.5, r"gave 1\.5 for TOXICITY; a probability lies in \[0, 1\]"),
        (float("nan"), "gave nan for TOXICITY"),
    ],
)
def test_what_is_no_probability_raises(value: Any, message: str) -> None:
    with FakeServer(lambda text: value) as server, pytest.raises(HTTPScorerError, match=message):
        scorer_of(server).score_texts(["x"])


def test_no_server_at_all_is_an_error_with_its_address() -> None:
    with FakeServer() as server:
        pass
    with pytest.raises(HTTPScorerError, match=f"{server.port}/analyze: .*refused"):
        scorer_of(server, patience=Patience(0, 0.5, 0.0)).score_texts(["x"])


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PERSPECTIVE_API_KEY", "secret-of-the-environment")
    with FakeServer(share_of_x, ["500", "", "401", "401"]) as server:
        shown = [repr(scorer_of(server))]
        scorer_of(server).score_texts(["x"])
        for own in (None, "secret-argument"):
            with pytest.raises(HTTPScorerError) as caught:
                scorer_of(server, api_key=own).score_texts(["x"])
            shown.append(str(caught.value))
        assert server.keys == ["secret-of-the-environment"] * 3 + ["secret-argument"]
    assert "secret" not in " ".join([*shown, caplog.text])


def test_requests_keep_to_the_quota() -> None:
    with FakeServer(share_of_x) as server:
        began = time.perf_counter()
        scorer_of(server, per_second=20.0).score_texts([f"x{i}" for i in range(9)])
        assert time.perf_counter() - began >= 8 / 20


def test_a_verdict_is_paid_for_once(tmp_path: Path) -> None:
    with FakeServer(share_of_x) as server:
        first = scorer_of(server, cache=tmp_path / "c.sqlite").score_texts(["xa", "axa"])
        second = scorer_of(server, cache=AnswerCache(tmp_path / "c.sqlite"))
        assert second.score_texts(["xa", "axa"]) == first, "to the last bit"
        assert (len(server.requests), second.cache_hits) == (2, 2)
        scorer_of(server, cache=tmp_path / "c.sqlite", attribute="INSULT").score_texts(["xa"])
        assert len(server.requests) == 3


def test_a_scorer_is_shared_by_copies_and_survives_a_trip_to_another_process() -> None:
    with FakeServer(share_of_x) as server:
        scorer = scorer_of(server, per_second=100.0)
        assert copy.deepcopy(scorer) is scorer
        assert cloudpickle.loads(cloudpickle.dumps(scorer)).score_texts(["xa"]) == [0.5]
        assert make(scorer=scorer).unwrapped.task.scorer is scorer  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "localhost:80"}, "a server is named by its URL"),
        ({"on_error": "skip"}, 'on_error must be "raise" or "retry_forever", got \'skip\': a scorer has no episode to skip'),
        ({"concurrency": 0}, "must be positive"),
        ({"per_second": 0.0}, "must be positive"),
        ({"max_text": 0}, "must be positive"),
    ],
)
def test_a_bad_option_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HTTPScorer(**{"url": "http://a/", **arguments})
