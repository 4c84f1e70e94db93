"""A critic behind a server: every failure is waited out, skipped and counted, or raised, as the user chose; none is a zero."""

from __future__ import annotations

import copy
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest

from tests.critics.fake_server import HANGING, MANGLED, REFUSED, SETUP, TRANSIENT, FakeServer
from tests.worlds import constant_scorer, ids, make
from textenv.critics import (
    BudgetExceeded,
    CritiqueError,
    CritiqueFormat,
    Patience,
    Section,
    ServerCritic,
    ServerError,
    load_critic,
)
from textenv.critics.openai_client import without_secrets
from textenv.episode import Prompt
from textenv.wrappers import CriticReward

FORM = CritiqueFormat((Section("Insults", -1.0),))
SOON = Patience(retries=3, timeout=20.0, backoff=0.01, longest=0.05)
"""Whoever counts requests counts on no try being cut short: a busy machine may take a second over one."""
BAD = ("bad", "sad")


def lists_the_bad_words(question: str) -> str:
    """A model that reads the line before the header."""
    text = question.split("\n")[-2]
    return " " + ("; ".join(word for word in text.split() if word in BAD) or "none")


def episodes(*texts: str) -> list[Any]:
    env = make(max_new_tokens=64)
    return [env.get_wrapper_attr("episode")(Prompt("p"), list(text.encode())) for text in texts]


def critic_of(server: FakeServer, **options: Any) -> ServerCritic:
    return ServerCritic(server.url, FORM, **{"patience": SOON, "model": "fake", **options})


def soon(fault: str) -> Patience:
    """With a clock where nothing else ends a try."""
    return replace(SOON, timeout=1.0) if fault in HANGING else SOON


def places(found: Any) -> Any:
    return [None if spans is None else [(s.start, s.end) for s in spans] for spans in found]


# --- Questions and answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
def test_a_server_marks_the_spans_of_each_text(chat: bool) -> None:
    with FakeServer(lists_the_bad_words) as server:
        critic = critic_of(server, chat=chat)
        assert places(critic(episodes("a bad day", "fine", "", "sad, sad"))) == [[(2, 5)], [], [], [(0, 3)]]
        metrics = critic.metrics()
        assert {"messages" in request for request in server.requests} == {chat}
        assert all((r["temperature"], r["max_tokens"], r["model"]) == (0.0, 64, "fake") for r in server.requests)
    assert (metrics["credit/critic_texts"], metrics["credit/critic_requests"]) == (3.0, 3.0)
    assert metrics["credit/critic_tokens"] == 30.0
    assert 0.0 < metrics["credit/critic_latency"] < 5.0
    assert set(critic.metrics().values()) == {0.0}


def test_a_chat_model_may_repeat_the_header_of_the_question() -> None:
    with FakeServer(lambda question: "Insults: bad\n\nI hope this helps!") as server:
        assert places(critic_of(server, on_error="raise")(episodes("a bad day"))) == [[(2, 5)]]


def test_equal_questions_are_asked_once() -> None:
    with FakeServer(lists_the_bad_words) as server:
        assert places(critic_of(server)(episodes(*["bad"] * 5, "sad"))) == [[(0, 3)]] * 6
        assert len(server.requests) == 2


def test_several_questions_are_asked_at_a_time_and_no_more() -> None:
    with FakeServer(lists_the_bad_words) as server:
        server.delay = 0.05
        critic_of(server, concurrency=3)(episodes(*[f"bad {i}" for i in range(9)]))
        assert server.most_at_once == 3


def test_an_answer_cut_by_its_budget_loses_its_last_item_and_is_counted() -> None:
    with FakeServer(lambda question: " bad; sa", ["length"]) as server:
        critic = critic_of(server, on_error="skip")
        assert places(critic(episodes("bad, sad"))) == [[(0, 3)]]
    assert critic.metrics()["credit/critic_parse_failures"] == 1.0


def test_options_are_part_of_each_request() -> None:
    with FakeServer() as server:
        critic_of(server, options={"max_tokens": None, "max_completion_tokens": 9})(episodes("bad"))
        (request,) = server.requests
    assert "max_tokens" not in request
    assert request["max_completion_tokens"] == 9


# --- Failures that pass ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["raise", "skip", "retry_forever"])
@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_failure_that_passes_loses_nothing(fault: str, on_error: Any) -> None:
    texts = ["a bad day", "fine", "sad"]
    with FakeServer(lists_the_bad_words, [fault, "", fault]) as server:
        critic = critic_of(server, on_error=on_error, patience=soon(fault))
        assert places(critic(episodes(*texts))) == [[(2, 5)], [], [(0, 3)]]
    assert critic.metrics()["credit/critic_retries"] == 2.0


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_failure_that_stays_raises_where_asked(fault: str) -> None:
    with FakeServer(lists_the_bad_words, [fault] * 99) as server:
        critic = critic_of(server, patience=replace(soon(fault), retries=1), on_error="raise")
        with pytest.raises(ServerError, match=r"critic http://127\.0\.0\.1:\d+/v1: "):
            critic(episodes("bad"))
        assert len(server.requests) == 2


def test_a_failure_that_stays_is_skipped_and_counted_where_asked() -> None:
    with FakeServer(lists_the_bad_words, ["500"] * 4) as server:
        critic = critic_of(server, on_error="skip", concurrency=1)
        assert places(critic(episodes("bad", "sad"))) == [None, [(0, 3)]]
    metrics = critic.metrics()
    assert (metrics["credit/critic_failures"], metrics["credit/critic_parse_failures"]) == (1.0, 0.0)


def test_forever_is_longer_than_any_patience() -> None:
    with FakeServer(lists_the_bad_words, ["500", "drop", "429", "half_json"] * 6) as server:
        critic = critic_of(server, patience=replace(SOON, retries=0, backoff=0.0), on_error="retry_forever")
        assert places(critic(episodes("bad"))) == [[(0, 3)]]
    assert critic.metrics()["credit/critic_retries"] == 24.0


def test_a_server_that_comes_up_late_is_waited_for() -> None:
    with FakeServer() as first:
        port = first.port
    critic = ServerCritic(f"http://127.0.0.1:{port}/v1", FORM, patience=SOON, on_error="retry_forever")
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.extend(critic(episodes("bad"))))
    asking.start()
    time.sleep(0.3)
    with FakeServer(lists_the_bad_words, port=port):
        asking.join(20)
    assert places(found) == [[(0, 3)]]


def test_no_server_at_all_is_an_error_with_its_address() -> None:
    with FakeServer() as server:
        pass
    with pytest.raises(ServerError, match=rf"critic http://127\.0\.0\.1:{server.port}/v1: APIConnectionError"):
        ServerCritic(server.url, FORM, model="m", patience=Patience(0, 0.5, 0.0))(episodes("bad"))


def test_a_server_says_how_long_to_wait() -> None:
    with FakeServer(lists_the_bad_words, ["429"]) as server:
        began = time.perf_counter()
        critic_of(server, patience=Patience(retries=1, timeout=5.0, backoff=0.0))(episodes("bad"))
        assert time.perf_counter() - began >= 0.01


def test_the_wait_has_the_bound_it_says() -> None:
    patience = Patience(retries=2, timeout=0.2, backoff=0.1, longest=0.15)
    assert patience.worst_case == pytest.approx(3 * 0.2 + 0.1 + 0.15)
    with FakeServer(faults=["stall", "drip", "stall"] * 3) as server:
        began = time.perf_counter()
        assert critic_of(server, patience=patience, on_error="skip")(episodes("bad")) == [None]
        assert time.perf_counter() - began < patience.worst_case + 1.0


def test_the_first_error_stops_the_others_that_wait() -> None:
    with FakeServer(lists_the_bad_words, ["401", *["500"] * 50]) as server:
        critic = critic_of(server, patience=Patience(retries=99, timeout=5.0, backoff=10.0, longest=10.0), concurrency=4)
        began = time.perf_counter()
        with pytest.raises(ServerError, match="HTTP 401"):
            critic(episodes(*[f"bad {i}" for i in range(8)]))
        assert time.perf_counter() - began < 5.0


# --- Failures of one question, and of the set-up -----------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["skip", "retry_forever"])
@pytest.mark.parametrize("fault", REFUSED)
def test_a_question_without_an_answer_is_no_verdict(fault: str, on_error: Any) -> None:
    with FakeServer(lists_the_bad_words, [fault]) as server:
        critic = critic_of(server, on_error=on_error, concurrency=1)
        assert places(critic(episodes("bad", "sad"))) == [None, [(0, 3)]]
        assert len(server.requests) == 2, "asking again would bring the same"
    assert critic.metrics()["credit/critic_failures"] == 1.0


@pytest.mark.parametrize("fault", REFUSED)
def test_a_question_without_an_answer_raises_where_asked(fault: str) -> None:
    with FakeServer(faults=[fault]) as server, pytest.raises(ServerError, match="critic http"):
        critic_of(server, on_error="raise")(episodes("bad"))


@pytest.mark.parametrize("on_error", ["raise", "skip", "retry_forever"])
@pytest.mark.parametrize("fault", SETUP)
def test_a_wrong_key_or_model_raises_whatever_was_chosen(fault: str, on_error: Any) -> None:
    with FakeServer(faults=[fault]) as server, pytest.raises(ServerError, match="HTTP 4"):
        critic_of(server, on_error=on_error)(episodes("bad"))


@pytest.mark.parametrize(("on_error", "expected"), [("skip", [None]), ("retry_forever", [None])])
def test_an_answer_of_another_form_is_counted(on_error: Any, expected: Any) -> None:
    with FakeServer(lambda question: "I cannot help with that;;") as server:
        critic = critic_of(server, on_error=on_error)
        assert critic(episodes("a text that is long enough for it")) == expected
    assert critic.metrics()["credit/critic_parse_failures"] == 1.0


def test_an_answer_of_another_form_raises_where_asked() -> None:
    with FakeServer(lambda question: ";") as server, pytest.raises(CritiqueError, match="an empty item"):
        critic_of(server, on_error="raise")(episodes("bad"))


def test_a_server_that_mostly_fails_is_warned_of() -> None:
    with FakeServer(faults=["400"] * 20) as server, pytest.warns(RuntimeWarning, match="12 of 12 texts have no verdict.*HTTP 400"):
        critic_of(server, on_error="skip")(episodes(*[f"bad {i}" for i in range(12)]))


# --- Names, keys, budget, cache ----------------------------------------------------------------------------------------


def test_the_model_is_the_one_that_the_server_lists() -> None:
    with FakeServer(lists_the_bad_words, models=["only"]) as server:
        ServerCritic(server.url, FORM)(episodes("bad"))
        assert server.requests[0]["model"] == "only"


@pytest.mark.parametrize(
    ("models", "message"), [(["a", "b"], r"has the models \['a', 'b'\]"), ([], r"has the models \[\]"), (None, "HTTP 500")]
)
@pytest.mark.parametrize("on_error", ["raise", "retry_forever"])
def test_a_server_that_does_not_say_its_model_is_told_the_way_out(models: Any, message: str, on_error: Any) -> None:
    with FakeServer(models=models) as server, pytest.raises(ServerError, match=f"{message}.*name the model"):
        ServerCritic(server.url, FORM, on_error=on_error, patience=SOON)(episodes("bad"))


@pytest.mark.parametrize(
    ("url", "base", "model", "chat"),
    [
        ("http://a:1/v1", "http://a:1/v1", None, True),
        ("http://a:1/v1/#org/m-7b", "http://a:1/v1", "org/m-7b", True),
        ("https://a/v1/chat/completions#m", "https://a/v1", "m", True),
        ("https://a/v1/completions#dir/m", "https://a/v1", "dir/m", False),
    ],
)
def test_an_address_may_name_the_model_and_the_endpoint(url: str, base: str, model: str | None, chat: bool) -> None:
    critic = load_critic(url, FORM)
    assert isinstance(critic, ServerCritic)
    assert (critic.base_url, critic.model, critic.chat, critic.on_error) == (base, model, chat, "skip")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http:///v1", "ftp://a/v1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="a server is named by its URL"):
        ServerCritic(url, FORM)


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-environment")
    with FakeServer(lists_the_bad_words, ["500", "", "401", "401"]) as server:
        critic = critic_of(server)
        critic(episodes("bad"))
        shown = [repr(critic), str(critic.metrics())]
        for own in (None, "secret-argument"):
            with pytest.raises(ServerError) as caught:
                critic_of(server, api_key=own)(episodes("bad"))
            shown.append(str(caught.value))
        assert server.keys == ["Bearer secret-of-the-environment"] * 3 + ["Bearer secret-argument"]
    assert "secret" not in " ".join([*shown, caplog.text])
    assert without_secrets("https://user:pass@host:1/v1?key=k#m") == "https://host:1/v1"


def test_a_budget_bounds_the_questions_and_a_retry_is_none(tmp_path: Path) -> None:
    with FakeServer(lists_the_bad_words, ["500"]) as server:
        critic = critic_of(server, max_calls=2, concurrency=1, cache=tmp_path / "c.sqlite")
        critic(episodes("bad", "sad"))
        assert len(server.requests) == 3
        assert places(critic(episodes("sad", "bad"))) == [[(0, 3)], [(0, 3)]], "the cache costs nothing"
        with pytest.raises(BudgetExceeded, match="max_calls=2 questions have been asked; raise max_calls"):
            critic(episodes("another"))


def test_beyond_the_budget_episodes_are_skipped_where_asked() -> None:
    with FakeServer(lists_the_bad_words) as server:
        critic = critic_of(server, max_calls=1, on_error="skip", concurrency=1)
        assert places(critic(episodes("bad", "sad"))) == [[(0, 3)], None]


def test_copies_of_a_critic_share_one_budget() -> None:
    with FakeServer(lists_the_bad_words) as server:
        critic = critic_of(server, max_calls=1)
        critic.with_form(CritiqueFormat((Section("Rude", -1.0),)))(episodes("bad"))
        with pytest.raises(BudgetExceeded):
            critic(episodes("bad"))


def test_what_was_answered_once_is_not_asked_again(tmp_path: Path) -> None:
    with FakeServer(lists_the_bad_words) as server:
        for _ in range(2):
            critic = critic_of(server, cache=tmp_path / "cache" / "c.sqlite")
            assert places(critic(episodes("bad", "fine"))) == [[(0, 3)], []]
        assert len(server.requests) == 2
        assert critic.metrics()["credit/critic_cache_hits"] == 2.0


@pytest.mark.parametrize("other", [{"model": "other"}, {"max_new_tokens": 9}, {"chat": False}, {"options": {"seed": 1}}])
def test_another_model_or_setting_is_another_question(tmp_path: Path, other: dict[str, Any]) -> None:
    with FakeServer(lists_the_bad_words) as server:
        critic_of(server, cache=tmp_path / "c.sqlite")(episodes("bad"))
        critic_of(server, cache=tmp_path / "c.sqlite", **other)(episodes("bad"))
        assert len(server.requests) == 2


def test_what_was_answered_is_kept_when_another_question_fails(tmp_path: Path) -> None:
    with FakeServer(lists_the_bad_words, ["", "", "empty"]) as server:
        with pytest.raises(ServerError):
            critic_of(server, cache=tmp_path / "c.sqlite", concurrency=3)(episodes("bad", "bad 1", "bad 2"))
        critic_of(server, cache=tmp_path / "c.sqlite")(episodes("bad", "bad 1", "bad 2"))
        assert len(server.requests) == 3 + 1


def test_no_failure_is_kept(tmp_path: Path) -> None:
    with FakeServer(lists_the_bad_words, ["empty"]) as server:
        critic = critic_of(server, cache=tmp_path / "c.sqlite", on_error="skip")
        assert critic(episodes("bad")) == [None]
        assert places(critic(episodes("bad"))) == [[(0, 3)]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "zero"}, "on_error must be one of"),
        ({"concurrency": 0}, "concurrency and max_calls must be at least 1, got 0 and None"),
        ({"max_calls": 0}, "got 8 and 0"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerCritic("http://a/v1", FORM, **options)


@pytest.mark.parametrize(("arguments", "message"), [((-1, 1.0), "retries must be at least 0"), ((1, 0.0), "timeout must be")])
def test_an_impossible_patience_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Patience(*arguments)


# --- In an environment -------------------------------------------------------------------------------------------------


def test_a_critic_takes_its_form_from_the_task() -> None:
    with FakeServer(lambda question: "weasel" if "weasel" in question.rsplit("\n", 2)[-2] else "none") as server:
        critic = ServerCritic(server.url, patience=SOON)
        env = gym.make("textenv/Detox-v0", reward="critic_span", critic=critic, payment="end", scorer=constant_scorer(0.5))
        tokens = env.get_wrapper_attr("tokenizer")(" You weasel", add_special_tokens=False)["input_ids"]
        (episode,) = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(Prompt("Hello."), tokens)])
        assert episode.rewards.min() == -0.5
        assert "You are an annotator" in server.requests[0]["messages"][0]["content"]
    assert critic.form is None
    with pytest.raises(ValueError, match="has no form: pass form=, or give it to an environment"):
        critic(episodes("bad"))


def test_a_skipped_episode_keeps_its_plain_score_and_is_counted() -> None:
    with FakeServer(lists_the_bad_words, ["400"]) as server:
        with pytest.warns(UserWarning, match="neutral"):
            env = make(max_new_tokens=8, scorer=constant_scorer(1.0), payment="end",
                       reward=lambda env: CriticReward(env, critic_of(server, on_error="skip", concurrency=1),
                                                       negative=-0.5, neutral=0.25))  # fmt: skip
        made = [env.get_wrapper_attr("episode")(Prompt("p"), ids(text, end=True)) for text in ("bad", "sad!", "fine")]
        skipped, _, judged = env.get_wrapper_attr("credit")(made)
        assert skipped.rewards.tolist() == [0.0, 0.0, 0.0, 1.0]
        assert judged.rewards.tolist() == [0.25] * 4 + [1.25]
        assert env.get_wrapper_attr("credit_metrics")()["credit/critic_skipped"] == 1.0


def test_a_critic_is_shared_by_copies_and_survives_a_trip_to_another_process(tmp_path: Path) -> None:
    with FakeServer(lists_the_bad_words) as server:
        critic = critic_of(server, cache=tmp_path / "c.sqlite")
        assert copy.deepcopy(critic) is critic
        critic(episodes("bad"))
        other = cloudpickle.loads(cloudpickle.dumps(critic))
        assert places(other(episodes("bad", "sad"))) == [[(0, 3)], [(0, 3)]]
        assert len(server.requests) == 2


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_vector_of_processes_asks_the_same_server(context: str) -> None:
    with FakeServer(lambda question: "none") as server:
        vector = gym.make_vec(
            "textenv/CountLetter-v0", num_envs=2, vectorization_mode="async", vector_kwargs={"context": context},
            reward="critic_span", critic=f"{server.url}#m", max_new_tokens=2, payment="end", scorer=even,
        )  # fmt: skip
        try:
            vector.reset(seed=0)
            for _ in range(2):
                _, _, terminated, _, _ = vector.step(np.array([97, 98]))
            assert terminated.all()
        finally:
            vector.close()
        assert len(server.requests) == 2


def even(episodes: Any) -> list[float]:
    return [1.0] * len(episodes)


def test_every_way_to_mangle_an_answer_is_tried() -> None:
    assert set(MANGLED) < set(TRANSIENT)
