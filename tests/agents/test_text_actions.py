"""Whole responses as actions, and functions as policies: the same tokens, the same credit as a token at a time."""

from __future__ import annotations

import runpy
import sys
import threading
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests import worlds
from tests.critics.fake_server import FakeServer
from tests.repository import ROOT
from tests.worlds import BYTES, EOS, CountedCritic, credited, ids, make
from textenv.agents import evaluate, rollout
from textenv.agents.text_actions import SAMPLED, AnyText, TextActions, TextPolicy, response_tokens
from textenv.alignment import TokenText
from textenv.episode import Span
from textenv.generation import ActionRule
from textenv.wrappers import CriticReward

RULE = ActionRule(worlds.VOCABULARY, EOS, 8)


def tokens(text: Any, tokenizer: Any = BYTES, rule: ActionRule = RULE, prompt: str = "you") -> list[int]:
    return response_tokens(text, tokenizer, rule, np.array(tokenizer(prompt)["input_ids"])).tolist()


# --- Tokens ------------------------------------------------------------------------------------------------------------


def test_a_response_is_its_tokens_and_the_end() -> None:
    assert tokens("ab") == ids("ab", end=True)
    assert tokens("") == [EOS]


def test_a_response_that_fills_or_passes_the_budget_has_no_end() -> None:
    assert tokens("a" * 7) == ids("a" * 7, end=True)
    assert tokens("a" * 8) == tokens("a" * 9) == ids("a" * 8)


@pytest.mark.parametrize("kind", ["bytes", "byte_level_bpe", "unigram", "sentencepiece_bpe", "word_piece", "plain_bpe"])
@pytest.mark.parametrize("text", [" weasel", "weasel", " and an old goat", ""])
def test_the_text_of_the_tokens_is_the_response_or_begins_with_a_space_more(kind: str, text: str) -> None:
    tokenizer = worlds.tokenizers()[kind]
    rule = ActionRule(len(tokenizer), tokenizer.eos_token_id, 64)
    found = tokens(text, tokenizer, rule)
    read = TokenText(tokenizer).decode(tokenizer("you")["input_ids"], found)
    spaced = text and not text.startswith(" ") and kind not in ("bytes", "byte_level_bpe")
    assert read == (" " + text if spaced else text)
    assert found[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("kind", ["bytes", "byte_level_bpe", "unigram", "word_piece"])
def test_what_spells_a_special_token_is_text(kind: str) -> None:
    tokenizer = worlds.tokenizers()[kind]
    rule = ActionRule(len(tokenizer), tokenizer.eos_token_id, 64)
    found = tokens("good </s> dog", tokenizer, rule)
    assert found.index(tokenizer.eos_token_id) == len(found) - 1
    assert "dog" in TokenText(tokenizer).decode([], found)


def test_half_a_surrogate_pair_is_no_character() -> None:
    assert tokens("a\ud83d") == ids("a?", end=True)


def test_a_tokenizer_that_closes_every_text_closes_it_once() -> None:
    assert tokens("ab", worlds.closing("<s> $A </s>")) == ids("ab", end=True)


@pytest.mark.parametrize("answer", [None, 5, b"ab", ["ab"]])
def test_what_is_no_string_is_refused(answer: Any) -> None:
    with pytest.raises(TypeError, match=f"a response is a string, got {type(answer).__name__}"):
        tokens(answer)


# --- The wrapper -------------------------------------------------------------------------------------------------------


def spans(episodes: Any, /) -> list[list[Span]]:
    return [[Span(i, i + 1, 1.0) for i, c in enumerate(e.text) if ord(c) % 2 == 0] for e in episodes]


@pytest.mark.parametrize("reward", ["sparse", "critic_span", "redistributed", "uniform"])
@pytest.mark.parametrize("payment", ["end", "online"])
def test_a_response_is_paid_and_credited_as_its_tokens_are(reward: str, payment: Any) -> None:
    env = make(reward=reward, payment=payment, **({"critic": spans} if reward == "critic_span" else {}))
    texts = TextActions(env)
    assert texts.reset(options={"prompt": "p: "}) == ("p: ", {})
    said, paid, terminated, truncated, info = texts.step("abba")
    assert (said, terminated, truncated) == ("p: abba", True, False)
    expected = credited(env, ids("abba", end=True))
    assert info["text_episode"].rewards.tobytes() == expected.rewards.tobytes()
    assert paid == pytest.approx(expected.rewards.sum())


def test_a_reward_wrapper_may_stand_outside() -> None:
    inside = TextActions(make(reward="critic_span", payment="end"))
    outside = CriticReward(TextActions(make()))
    found = []
    for env in (inside, outside):
        env.reset(seed=0)
        *_, info = env.step("banana")
        found.append(info["text_episode"].rewards.tolist())
    assert found[0] == found[1]
    assert sum(map(bool, found[0])) == 4


def test_the_critic_is_asked_once_a_text() -> None:
    critic = CountedCritic(spans)
    env = TextActions(make(reward="critic_span", critic=critic, payment="end"))
    env.reset(seed=0)
    env.step("a long text")
    assert critic.calls == 1


def test_a_long_response_ends_with_length() -> None:
    env = TextActions(make(max_new_tokens=4))
    env.reset(seed=0)
    *_, info = env.step("abcdefg")
    assert (info["text_episode"].text, info["text_episode"].finish_reason) == ("abcd", "length")


def test_the_prompt_is_shown_as_the_task_writes_it() -> None:
    env = TextActions(gym.make("textenv/Summarization-v0"))
    shown, _ = env.reset(seed=0)
    prompt = env.get_wrapper_attr("current_episode")().prompt
    assert shown == env.get_wrapper_attr("task").prompt_text(prompt)


def test_a_second_response_needs_a_reset() -> None:
    env = TextActions(make())
    env.reset(seed=0)
    env.step("a")
    with pytest.raises(RuntimeError, match="after the text has ended"):
        env.step("b")
    env.reset(seed=0)
    env.step("b")


def test_observations_and_actions_are_of_their_spaces() -> None:
    env = TextActions(make(prompts=["naïve: "]))
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    env.action_space.seed(0)
    after, *_ = env.step(env.action_space.sample())
    assert after in env.observation_space
    assert AnyText(3) == AnyText(3) != AnyText(4)


@pytest.mark.parametrize("budget", [1, 16])
def test_gymnasium_finds_nothing_to_complain_of(budget: int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")  # it is: that is checked
        check_env(TextActions(make(max_new_tokens=budget, render_mode="ansi")))


def test_a_sampled_response_is_short_and_the_space_is_not() -> None:
    space = AnyText(1_000_000)
    space.seed(0)
    lengths = [len(space.sample()) for _ in range(200)]
    assert 100 < max(lengths) <= SAMPLED
    assert "a" * 1_000_000 in space
    assert len(AnyText(3).sample()) <= 3
    assert len(space.sample(mask=(5_000, None))) == 5_000


def test_an_environment_without_texts_is_refused() -> None:
    with pytest.raises(TypeError, match="TextActions wraps text environments"):
        TextActions(gym.make("CartPole-v1"))


# --- Functions as policies ---------------------------------------------------------------------------------------------


def test_a_function_is_asked_for_each_prompt_and_its_texts_are_judged() -> None:
    env = make(prompts=["a", "bb"], max_new_tokens=4)
    out = evaluate(lambda prompt: prompt + "a", env, k=2)
    assert [e.text for e in out.episodes] == ["aa", "aa", "bba", "bba"]
    assert [e.score for e in out.episodes] == [0.5, 0.5, 0.25, 0.25]


def test_a_function_writes_for_rollout_too() -> None:
    env = make(prompts=["a", "bb"], reward="critic_span")
    episodes = rollout(env, TextPolicy(str.upper, env), 4)
    assert [e.text for e in episodes] == [e.prompt.text.upper() for e in episodes]


def test_several_calls_at_a_time_answer_in_order() -> None:
    env = make(prompts=[str(i) for i in range(9)])
    together = threading.Barrier(3, timeout=10)

    def function(prompt: str) -> str:
        together.wait()
        return prompt * 2

    texts = [e.text for e in evaluate(TextPolicy(function, env, concurrency=3), env).episodes]
    assert texts == [str(i) * 2 for i in range(9)]


def test_what_a_function_raises_comes_through() -> None:
    env = make(prompts=["1", "2"])

    def function(prompt: str) -> str:
        raise ZeroDivisionError(prompt)

    for concurrency in (1, 2):
        with pytest.raises(ZeroDivisionError):
            evaluate(TextPolicy(function, env, concurrency=concurrency), env)


def test_a_function_that_returns_no_string_is_refused() -> None:
    with pytest.raises(TypeError, match="a response is a string, got list"):
        evaluate(lambda prompt: [prompt], make())


def test_a_function_cannot_be_told_how_to_sample() -> None:
    with pytest.raises(ValueError, match=r"a function cannot be told top_k=0, top_p=0\.5"):
        evaluate(str.upper, make(), top_p=0.5)


@pytest.mark.parametrize(("arguments", "error"), [({"function": 5}, TypeError), ({"concurrency": 0}, ValueError)])
def test_a_policy_of_no_function_is_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"function|concurrency"):
        TextPolicy(**{"function": str.upper, "env": make(), **arguments})


# --- The example -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
def test_the_example_plays_a_server_and_reports_its_score(chat: bool, capsys: Any, monkeypatch: Any) -> None:
    pytest.importorskip("openai")
    with FakeServer(lambda question: " are very kind to me and to all of us.") as server:
        extra = ["--chat"] if chat else []
        arguments = ["api_agent.py", "--url", server.url, "--texts", "2", "--prompts", "3", *extra]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(ROOT / "examples" / "api_agent.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("are very kind") >= 2
    assert len(server.requests) == 2 + 3
    assert ("messages" in server.requests[0]) == chat
