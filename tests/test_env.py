"""A text as an episode: what is observed, when it ends, what bad input gets."""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import textenv
from tests import worlds
from tests.worlds import EOS, VOCABULARY, ids, make, walk
from textenv.episode import Prompt

EVERY_ID = list(textenv.ENVIRONMENTS)


# --- Gymnasium's contract ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["sparse", "critic_span"])
@pytest.mark.parametrize("env_id", EVERY_ID)
def test_gymnasium_finds_nothing_to_complain_of(env_id: str, reward: str) -> None:
    env = gym.make(env_id, reward=reward, render_mode="ansi")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")  # it is: that is checked
        check_env(env)


def test_gymnasium_finds_nothing_to_complain_of_where_the_first_step_ends_the_text() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(make(max_new_tokens=1, render_mode="ansi"))


@pytest.mark.parametrize("reward", ["sparse", "critic_span"])
@pytest.mark.parametrize("env_id", EVERY_ID)
def test_stable_baselines_finds_nothing_to_complain_of(env_id: str, reward: str) -> None:
    sb3_check_env(gym.make(env_id, reward=reward))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_vector_environments_deliver_the_episodes_of_all_texts(vectorization: str) -> None:
    envs = gym.make_vec("textenv/CountLetter-v0", 2, vectorization_mode=vectorization, reward="critic_span", max_new_tokens=2)
    envs.reset(seed=0)
    envs.step(np.array([97, 98]))
    _, rewards, terminated, _, infos = envs.step(np.array([97, 97]))
    envs.close()
    assert terminated.all()
    assert [episode.text for episode in infos["text_episode"]] == ["aa", "ba"]
    assert rewards.tolist() == [2.0, 1.0]  # a half for each letter, and the score


def test_actions_are_the_ids_of_the_tokenizer() -> None:
    assert make().action_space == gym.spaces.Discrete(VOCABULARY)


def test_the_observation_is_the_prompt_flush_right_and_then_what_was_said() -> None:
    env = make(prompts=["ab"], max_prompt_tokens=4, max_new_tokens=3)
    observation, _ = env.reset()
    assert observation.tolist() == [-1, -1, 97, 98, -1, -1, -1]
    observation, *_ = env.step(99)
    assert observation.tolist() == [-1, -1, 97, 98, 99, -1, -1]
    assert observation in env.observation_space
    assert observation.dtype == np.int64


def test_an_earlier_observation_does_not_change_with_the_next_step() -> None:
    env = make()
    before, _ = env.reset(seed=0)
    kept = before.copy()
    env.step(97)
    assert before.tolist() == kept.tolist()


# --- How a text ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "end", "reason"), [("aa", True, "stop"), ("aaaa", False, "length"), ("aaa", True, "stop")])
def test_eos_and_the_budget_both_terminate_and_say_which(text: str, end: bool, reason: str) -> None:
    env = make(max_new_tokens=4)
    env.reset()
    for token in ids(text, end=end):
        _, _, terminated, truncated, info = env.step(token)
        assert not truncated
    assert terminated
    assert info["text_episode"].finish_reason == reason


def test_info_is_empty_until_the_last_step() -> None:
    env = make(max_new_tokens=3)
    _, info = env.reset()
    infos = [info, *(env.step(97)[4] for _ in range(3))]
    assert [sorted(info) for info in infos] == [[], [], [], ["text_episode"]]


def test_the_score_is_paid_on_the_last_step_alone() -> None:
    rewards, episode = walk(make(max_new_tokens=4), ids("aaba"))
    assert rewards == [0.0, 0.0, 0.0, 0.75]
    assert episode is not None
    assert (episode.score, episode.rewards.tolist()) == (0.75, rewards)


def test_the_stop_token_is_an_action_that_carries_the_score_and_no_text() -> None:
    _, episode = walk(make(max_new_tokens=4), ids("a", end=True))
    assert episode is not None
    assert (episode.text, len(episode), episode.rewards.tolist()) == ("a", 2, [0.0, 0.25])


def test_an_unfinished_text_has_no_score() -> None:
    episode = worlds.credited(make(), ids("aa"))
    assert np.isnan(episode.score)
    assert episode.rewards.tolist() == [0.0, 0.0]


# --- Bad actions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [VOCABULARY, -1, 1.0, np.float32(2), True, [1, 2], None, "a", 2**70])
def test_an_action_that_is_no_id_is_refused_with_the_range(action: Any) -> None:
    env = make().unwrapped
    env.reset()
    with pytest.raises(ValueError, match=rf"out of range: an action is an integer in 0\.\.{VOCABULARY - 1}"):
        env.step(action)


def test_a_refused_action_leaves_the_text_as_it_was() -> None:
    env = make(max_new_tokens=2).unwrapped
    env.reset()
    env.step(97)
    with pytest.raises(ValueError, match="out of range"):
        env.step(-5)
    assert env.step(97)[4]["text_episode"].text == "aa"


@pytest.mark.parametrize("action", [97, np.int64(97), np.int32(97), np.array(97), np.array([97]), np.uint8(97)])
def test_whole_numbers_of_any_kind_are_actions(action: Any) -> None:
    env = make(max_new_tokens=1).unwrapped
    env.reset()
    assert env.step(action)[4]["text_episode"].text == "a"


def test_step_before_reset_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"before reset\(\): call reset"):
        make().unwrapped.step(97)


def test_step_after_the_end_says_what_to_do() -> None:
    env = make(max_new_tokens=1).unwrapped
    env.reset()
    env.step(97)
    with pytest.raises(RuntimeError, match=r"after the text has ended: call reset"):
        env.step(97)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, VOCABULARY], "token 259 is out of range"),
        ([97] * 17, "17 tokens exceed max_new_tokens=16"),
        ([EOS, 97], "go on after EOS"),
    ],
)
def test_an_episode_of_impossible_tokens_is_refused(tokens: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().unwrapped.episode(Prompt("p"), tokens)


# --- Episodes as values ------------------------------------------------------------------------------------------------


def test_episodes_are_equal_whose_values_are() -> None:
    env = make()
    one, other = (worlds.credited(env, ids("aab", end=True)) for _ in range(2))
    assert one == other
    assert len({one, other}) == 1
    assert one.prefix(2) == other.prefix(2), "their score is NaN"
    assert one != one.prefix(3)
    assert one != "aab"


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": Prompt("q")}, {"prompt_tokens": np.array([1])}, {"tokens": np.array([1, 2])}, {"text": "b"},
        {"offsets": np.zeros((2, 2), np.int64)}, {"finish_reason": "length"}, {"score": 0.5}, {"rewards": np.ones(2)},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_episodes_that_differ_in_one_value_are_not_equal(change: dict[str, Any]) -> None:
    episode = worlds.credited(make(), ids("a", end=True))
    assert dataclasses.replace(episode, **change) != episode


# --- Prompts -----------------------------------------------------------------------------------------------------------


def test_a_long_prompt_loses_its_left_end_and_is_warned_of_once() -> None:
    env = make(prompts=["abcdef"], max_prompt_tokens=4)
    with pytest.warns(UserWarning, match=r"prompt of 6 tokens exceeds max_prompt_tokens=4") as said:
        first, second = (env.reset()[0] for _ in range(2))
    assert len(said) == 1
    assert first.tolist() == second.tolist()
    assert bytes(first[:4].tolist()) == b"cdef"


def test_a_long_prompt_is_refused_before_training_where_asked() -> None:
    with pytest.raises(ValueError, match="prompt of 6 tokens exceeds max_prompt_tokens=4"):
        make(prompts=["ab", "abcdef"], max_prompt_tokens=4, on_long_prompt="error")


def test_an_empty_prompt_begins_with_bos() -> None:
    observation, _ = make().reset(options={"prompt": ""})
    assert observation[observation >= 0].tolist() == [worlds.BYTES.bos_token_id]


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="prompt"):
        make(prompts=[])


@pytest.mark.parametrize("prompt", ["you", Prompt("you")])
def test_reset_takes_the_prompt_of_the_caller(prompt: Any) -> None:
    observation, _ = make().reset(options={"prompt": prompt})
    assert bytes(observation[observation >= 0].tolist()) == b"you"


def test_reset_refuses_what_is_no_prompt() -> None:
    with pytest.raises(TypeError, match="prompt"):
        make().reset(options={"prompt": 5})


@pytest.mark.parametrize("prompt", ["so\ud800", Prompt("so\ud800")])
def test_a_prompt_that_no_tokenizer_takes_is_refused(prompt: Any) -> None:
    with pytest.raises(ValueError, match=r"the prompt is not valid Unicode at character 2: 'so\\ud800'"):
        make().reset(options={"prompt": prompt})


def test_the_same_seed_draws_the_same_prompts() -> None:
    env = make(prompts=[f"{i}" for i in range(50)])

    def drawn(seed: int) -> list[str]:
        env.reset(seed=seed)
        return [env.unwrapped.current_episode().prompt.text, *(p.text for p in env.unwrapped.sample_prompts(10))]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_resetting_and_stepping_leave_the_global_generators_alone() -> None:
    env = make(prompts=["a", "b"], reward="critic_span", max_new_tokens=2)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002 - they are watched, not used
    walk(env, ids("ab"), seed=3)
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002


# --- Arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "must be at least 1"),
        ({"max_prompt_tokens": 0}, "must be at least 1"),
        ({"min_new_tokens": 17}, "min_new_tokens must lie in 0..max_new_tokens=16"),
        ({"max_prompt_tokens": "3"}, "max_prompt_tokens must be a whole number of tokens, got '3'"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be a whole number of tokens, got 1.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number of tokens, got True"),
        ({"min_new_tokens": "all"}, "min_new_tokens must be a whole number of tokens or \"max\", got 'all'"),
        ({"split": "valid"}, "unknown split 'valid'; one of \"train\", \"test\", \"all\""),
        ({"on_long_prompt": "cut"}, 'must be "truncate" or "error", got \'cut\''),
        ({"payment": "later"}, 'payment must be "online" or "end", got \'later\''),
        ({"reward": "critic_spam"}, "unknown reward 'critic_spam'; valid names: "),
        ({"critic": "lexicon:x"}, "asks no critic; pass reward='critic_span'"),
        ({"letter": "ab"}, "letter must be one character, got 'ab'"),
        ({"reward": "critic_span", "pay_every": 0}, "pay_every must be"),
        ({"reward": "critic_span", "pay_every": True}, "pay_every must be"),
    ],
)
def test_a_bad_argument_is_named_with_the_way_out(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_an_unknown_argument_is_named_with_those_of_the_task() -> None:
    takes = r"CountLetter takes no argument \['leter'\] \(did you mean letter\?\); its own are \['letter'\], those of every id tok"
    with pytest.raises(ValueError, match=takes):
        make(leter="b")


def test_a_misspelled_argument_of_every_id_is_named_alone() -> None:
    with pytest.raises(ValueError, match=r"\['rewards'\] \(did you mean reward\?\); its own are \[\], .* reward, payment") as error:
        gym.make("textenv/Detox-v0", rewards="critic_span")
    assert "kwargs" not in str(error.value)


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = copy.deepcopy(worlds.BYTES)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        make(tokenizer=tokenizer)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_names_the_scorer_and_the_episode(value: float) -> None:
    def broken(episodes: Any) -> list[float]:
        return [value for _ in episodes]

    with pytest.raises(ValueError, match=rf"scorer broken returned {value} for episode 0 \(text 'a'\)"):
        walk(make(scorer=broken, max_new_tokens=1), ids("a"))


@pytest.mark.parametrize("said", [None, 0.5, "good", [None], [[0.5, 0.5]], np.zeros((1, 2)), torch.zeros(1, 2)])
def test_what_is_no_list_of_scores_is_an_error_that_names_the_scorer(said: Any) -> None:
    def mine(episodes: Any) -> Any:
        return said

    with pytest.raises(TypeError, match=r"scorer mine returned .* for 1 episodes; one number for each is wanted"):
        walk(make(scorer=mine, max_new_tokens=1), ids("a"))


@pytest.mark.parametrize("column", [np.full((1, 1), 0.5), torch.full((1, 1), 0.5), np.float32([0.5]), [np.float64(0.5)]])
def test_a_column_of_scores_is_one_score_a_text(column: Any) -> None:
    assert walk(make(scorer=lambda episodes: column, max_new_tokens=1), ids("a"))[0] == [0.5]


def test_a_wrong_number_of_scores_is_an_error() -> None:
    with pytest.raises(ValueError, match="returned 2 scores for 1 episodes"):
        walk(make(scorer=lambda episodes: [1.0, 2.0], max_new_tokens=1), ids("a"))


# --- Rendering ---------------------------------------------------------------------------------------------------------


def test_rendering_shows_the_text_so_far_and_its_credit() -> None:
    env = make(reward="critic_span", render_mode="ansi", max_new_tokens=4, payment="end")
    env.reset(options={"prompt": "go: "})
    env.step(97)
    shown = env.render()
    assert "go: " in shown
    assert "\x1b[48;5;" in shown
    assert "unfinished" in shown


def test_a_text_that_has_ended_is_shown_with_its_score() -> None:
    env = make(render_mode="ansi", max_new_tokens=4)
    walk(env, ids("aaba"))
    assert env.render().endswith("\x1b[0m\n[score 0.750, credit +0.750, 4 tokens, length]")
    env.reset()
    assert "score" not in env.render()


@pytest.mark.parametrize("reward", ["sparse", "critic_span"])
def test_the_credit_of_the_stop_token_is_shown_on_a_mark(reward: str) -> None:
    env = make(reward=reward, render_mode="ansi", max_new_tokens=8, payment="end")
    walk(env, ids("bab", end=True))
    marked = re.search("\x1b\\[48;5;(\\d+)m\x1b\\[97m■\x1b", env.render())
    assert marked, "green: the score of an a"
    assert int(marked.group(1)) - 16 in (6 * level for level in range(1, 5))
    walk(env, ids("bbb", end=True))
    assert "bbb■\n[score 0.000" in env.render(), "no credit, no colour"


def test_a_text_cannot_steer_the_terminal() -> None:
    env = make(render_mode="ansi", prompts=["\x1b[2J"])
    walk(env, ids("\x1b]0;x\x07\r\n\u202e", end=True))
    shown = env.render()
    for control in ("\x1b[2J", "\x1b]0", "\x07", "\r", "\u202e"):
        assert control not in shown
    assert r"\x1b]0;x\x07\r\n\u202e" in shown


def test_no_rendering_without_a_render_mode() -> None:
    env = make(reward="critic_span")
    env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium says that no render_mode was given
        assert env.unwrapped.render() is None


# --- Specification -----------------------------------------------------------------------------------------------------


class Heavy:
    """Stands for a model: to copy it is an error."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, episodes: Any, /) -> Any:
        return self.inner(episodes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Heavy:
        raise AssertionError("a model was copied")


def test_reading_the_specification_copies_no_model() -> None:
    scorer, critic = Heavy(worlds.constant_scorer(1.0)), Heavy(lambda episodes: [[] for _ in episodes])
    env = make(scorer=scorer, critic=critic, reward="critic_span")
    for layer in (env, env.env, env.unwrapped):
        assert layer.spec.kwargs["scorer"].value is scorer
    assert env.unwrapped.task.scorer is scorer
    assert env.get_wrapper_attr("critic") is critic


def test_an_environment_is_made_again_from_its_specification() -> None:
    env = make(scorer=worlds.constant_scorer(0.5), reward="critic_span", max_new_tokens=2, pay_every="token", prompts=["x"])
    again = gym.make(env.spec)
    assert walk(again, ids("ab"))[0] == walk(env, ids("ab"))[0] == [0.5, 0.5]


def test_a_specification_survives_copying() -> None:
    scorer = Heavy(worlds.constant_scorer(1.0))
    env = make(scorer=scorer)
    assert copy.deepcopy(env.spec).kwargs["scorer"].value is scorer


def test_a_long_prompt_keeps_the_token_that_begins_a_text() -> None:
    env = gym.make("textenv/Detox-v0", prompts=["You are right about the soup. " * 9], max_prompt_tokens=8)
    tokenizer = env.get_wrapper_attr("tokenizer")
    with pytest.warns(UserWarning, match="left end is cut"):
        ids = env.get_wrapper_attr("prompt_tokens")(env.get_wrapper_attr("task").prompts[0])
    assert len(ids) == 8
    assert ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("name", ["scorer", "critic"])
def test_a_bare_model_is_refused_with_the_way_to_wrap_it(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}=.*got a model"):
        gym.make("textenv/CountLetter-v0", reward="critic_span", **{name: worlds.llama()})


def test_a_wrong_pay_every_is_refused_whatever_the_reward() -> None:
    with pytest.raises(ValueError, match="pay_every"):
        gym.make("textenv/CountLetter-v0", pay_every="sentence")


def test_columns_without_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        gym.make("textenv/CountLetter-v0", columns={"text": "prompt"})
