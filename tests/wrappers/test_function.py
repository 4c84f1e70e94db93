"""A reward of one's own: a function, or a class with one method, by object or by import string."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from tests.worlds import constant_scorer, credited, ids, make, walk
from textenv.episode import Episode, Span
from textenv.reward import RewardWrapper
from textenv.wrappers import RewardFromFunction


def env_of(function: Any, **options: Any) -> Any:
    return make(reward=RewardFromFunction(function, **options), scorer=constant_scorer(1.0))


def test_spans_pay_each_token_that_they_overlap() -> None:
    env = env_of(lambda e: [Span(0, 2, 0.5), Span(1, 3, -1.0)])
    assert credited(env, ids("abcd", end=True)).rewards.tolist() == [0.5, -0.5, -1.0, 0, 1.0]
    assert credited(env_of(lambda e: []), ids("ab", end=True)).rewards.tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", [list, tuple, set, iter, lambda spans: (span for span in spans)])
def test_spans_may_be_yielded(kind: Any) -> None:
    env = env_of(lambda e: kind([Span(0, 1, 0.5)]))
    assert credited(env, ids("ab", end=True)).rewards.tolist() == [0.5, 0, 1.0]
    assert credited(env_of(lambda e: kind([])), ids("ab", end=True)).rewards.tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", [list, tuple, __import__("numpy").array])
def test_an_array_pays_each_token_its_own(kind: Any) -> None:
    env = env_of(lambda e: kind([float(t) for t in range(len(e))]))
    assert credited(env, ids("ab", end=True)).rewards.tolist() == [0, 1, 3]


@pytest.mark.parametrize("value", [2.0, 2, True, __import__("numpy").float32(2)])
def test_a_number_is_paid_on_the_last_token_when_the_text_has_ended(value: Any) -> None:
    env = env_of(lambda e: value)
    assert credited(env, ids("ab", end=True)).rewards.tolist() == [0, 0, 1 + float(value)]
    assert credited(env, ids("ab")).rewards.tolist() == [0, 0]


def test_an_empty_text_so_far_is_not_asked_about() -> None:
    assert credited(env_of(lambda e: 1 / 0), []).rewards.tolist() == []


def test_causal_rewards_are_paid_at_their_own_tokens() -> None:
    env = env_of(lambda e: [0.1 * (c == "b") for c in e.text] + [0.0] * e.finished, causal=True)
    assert walk(env, ids("abb", end=True))[0] == pytest.approx([0, 0.1, 0.1, 1.0])


def test_it_declares_what_it_was_told() -> None:
    for keeps_return, causal in ((True, False), (False, True)):
        wrapper = RewardFromFunction(lambda e: 0.0, keeps_return=keeps_return, causal=causal)(make())
        assert (wrapper.keeps_return, wrapper.causal) == (keeps_return, causal)


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ([1.0], ValueError, r"named returned an array of shape \(1,\) for 3 tokens"),
        ("good", TypeError, "named returned 'good'; spans, 3 numbers, or one number are wanted"),
        (None, TypeError, "named returned None; spans, 3 numbers, or one number are wanted"),
        ({0: 1.0}, TypeError, "named returned {0: 1.0}; spans, 3 numbers, or one number are wanted"),
        ([Span(0, 9)], ValueError, r"named: Span\(start=0, end=9.* ends beyond its text 'ab'"),
        (float("nan"), ValueError, "reward nan at token 2; credit must be finite"),
    ],
)
def test_a_function_that_answers_nonsense_is_named(said: Any, error: type[Exception], message: str) -> None:
    def named(episode: Episode) -> Any:
        return said

    with pytest.raises(error, match=message):
        credited(env_of(named), ids("ab", end=True))


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a function of an episode, got 3"):
        RewardFromFunction(3)  # type: ignore[arg-type]


# --- By import string --------------------------------------------------------------------------------------------------

MODULE = '''
import gymnasium, numpy, textenv
from textenv.wrappers import RewardFromFunction

class Bees(textenv.RewardWrapper):
    """A point for each bee."""
    keeps_return, causal = False, True

    def __init__(self, env, points=1.0):
        super().__init__(env)
        self.points = points

    def rewards(self, episodes):
        return [e.rewards + self.points * (e.tokens == ord("b")) for e in episodes]

def bees(episode):
    return [textenv.Span(i, i + 1, 1.0) for i, c in enumerate(episode.text) if c == "b"]

ready = RewardFromFunction(bees, causal=True)

def around(env, points=1.0):
    return Bees(env, points)

def annotated(e: gymnasium.Env):
    return Bees(e)

def misnamed(e):
    return Bees(e)

def episode_called_env(env):
    return []
number = 3
class Other: pass
'''


@pytest.fixture
def my_bees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_bees.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "my_bees"
    sys.modules.pop("my_bees", None)


@pytest.mark.parametrize("name", ["Bees", "bees", "ready", "around", "annotated"])
def test_a_reward_by_import_string(my_bees: str, name: str) -> None:
    env = make(reward=f"my_bees:{name}", scorer=constant_scorer(0.5))
    assert credited(env, ids("abb", end=True)).rewards.tolist() == [0, 1, 1, 0.5]


def test_it_may_take_arguments_and_stack(my_bees: str) -> None:
    env = make(reward=[("my_bees:Bees", {"points": 2.0}), "my_bees:bees", "length_penalty"], scorer=constant_scorer(0.5))
    assert credited(env, ids("ab", end=True)).rewards.tolist() == [0, 3, 0.5]
    causal = make(reward=("my_bees:bees", {"causal": True}), scorer=constant_scorer(0.5))
    assert walk(causal, ids("ab", end=True))[0] == [0, 1, 0.5]


def test_a_function_of_an_environment_may_take_arguments_too(my_bees: str) -> None:
    env = make(reward=[("my_bees:around", {"points": 3.0})], scorer=constant_scorer(0.5))
    assert credited(env, ids("ab", end=True)).rewards.tolist() == [0, 3, 0.5]


def test_a_function_of_an_environment_that_does_not_say_so_is_told_how(my_bees: str) -> None:
    env = make(reward="my_bees:misnamed", scorer=constant_scorer(0.5))
    with pytest.raises(TypeError, match=r"misnamed was taken for a function of an episode, but wraps .* call its argument env"):
        credited(env, ids("ab", end=True))


def test_what_returns_no_environment_is_refused_when_it_is_made(my_bees: str) -> None:
    with pytest.raises(TypeError, match=r"a callable env -> env returned \[\]; see RewardFromFunction"):
        make(reward="my_bees:episode_called_env")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (("uniform", {"mx": 1}), r"the reward uniform takes no argument \['mx'\]; its own are mix"),
        (("my_bees:Bees", {"sting": 1}), r"takes no argument \['sting'\]; its own are points"),
        (("my_bees:bees", {"sting": 1}), r"takes no argument \['sting'\]; its own are keeps_return, causal"),
        (("my_bees:around", {"sting": 1}), r"takes no argument \['sting'\]; its own are points"),
    ],
)
def test_an_argument_that_a_reward_does_not_have_is_refused_with_those_it_has(my_bees: str, reward: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(reward=reward)


def test_a_class_with_arguments_may_be_given_as_an_object() -> None:
    class Times(RewardWrapper):
        def __init__(self, env: Any, factor: float) -> None:
            super().__init__(env)
            self.factor = factor

        def rewards(self, episodes: Any) -> Any:
            return [self.factor * e.rewards for e in episodes]

    env = make(reward=(Times, {"factor": 3.0}), scorer=constant_scorer(1.0))
    assert credited(env, ids("a", end=True)).rewards.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dense", "unknown reward 'dense'; valid names: .*sparse.*, an import string module:attribute, or a callable"),
        ("my_bees:number", "'my_bees:number' is 3; a reward is a subclass of RewardWrapper, a function of an episode, or one"),
        ("my_bees:Other", "a reward is a subclass of RewardWrapper"),
        ("my_bees:wasps", "the module my_bees has no 'wasps'"),
        ("my_wasps:bees", "there is no module my_wasps"),
        (3, "unknown reward 3"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(my_bees: str, name: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(reward=name)


def test_the_example_of_the_documentation_has_ten_lines_and_works() -> None:
    import re

    import textenv
    from textenv.wrappers import function

    assert function.__doc__ is not None
    body = function.__doc__.split("\n\n", 1)[1].split("\n\n    env")[0]
    assert len(body.splitlines()) <= 10
    scope: dict[str, Any] = {"re": re, "textenv": textenv}
    exec("\n".join(line.removeprefix("    ") for line in body.splitlines()), scope)
    env = gym.make("textenv/CountLetter-v0", reward=RewardFromFunction(scope["shouts"]), scorer=constant_scorer(1.0))
    assert credited(env, ids("a NO", end=True)).rewards.tolist() == [0, 0, -0.5, -0.5, 1.0]
