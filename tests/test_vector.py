"""The vector environment: N texts at a time, equal to N single environments, with one call for all that end together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.worlds import EOS, VOCABULARY, CountedCritic, even_share, ids
from textenv import REWARDS
from textenv.episode import Episode, Prompt, Span
from textenv.reward import RewardWrapper
from textenv.vector import TextVectorEnv
from textenv.wrappers import LexiconCritic, OnlineReward

CRITIC = LexiconCritic(["bad", "aa"])
PROMPTS = ["p: ", "q", "long prompt"]


class VowelBonus(RewardWrapper):
    """0.1 for each vowel, at its own token."""

    keeps_return, causal = False, True

    def rewards(self, episodes: Sequence[Episode]) -> list[Any]:
        return [e.rewards + 0.1 * np.isin(e.tokens, list(b"aeiou")) for e in episodes]


class Spread(RewardWrapper):
    """The credit's sum, the same for each token."""

    keeps_return, causal = True, False

    def rewards(self, episodes: Sequence[Episode]) -> list[Any]:
        return [np.full(len(e), e.rewards.sum() / max(len(e), 1)) for e in episodes]


STACKS: dict[str, Any] = {
    "sparse": "sparse",
    "a critic": ("critic_span", {"critic": CRITIC, "negative": -0.3}),
    "causal": VowelBonus,
    "hindsight": Spread,
    "causal inside hindsight": [VowelBonus, ("critic_span", {"critic": CRITIC}), Spread],
    "hindsight inside causal": [Spread, VowelBonus],
    "by name": ["noise", "length_penalty"],
}


def vector(n: int = 3, **options: Any) -> Any:
    settings = {"max_new_tokens": 12, "prompts": PROMPTS, "scorer": even_share, **options}
    return gym.make_vec("textenv/CountLetter-v0", num_envs=n, **settings)


def singles(n: int = 3, mode: str = "NextStep", **options: Any) -> Any:
    return vector(n, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options)


def actions(n: int, steps: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Letters, punctuation and an EOS now and then, so that the rows end at different steps."""
    letters = [*b"aaaabbdeiou. ,", EOS]
    return np.random.default_rng(seed).choice(letters, size=(steps, n))


def told(value: Any) -> Any:
    """What an info holds, in a form that can be compared."""
    if isinstance(value, dict):
        return {name: told(inside) for name, inside in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [told(inside) for inside in value]
    if isinstance(value, Episode):
        return (value.prompt, value.text, value.tokens.tolist(), value.prompt_tokens.tolist(), value.offsets.tolist(),
                value.finish_reason, value.score, value.rewards.tolist())  # fmt: skip
    return value.tolist() if isinstance(value, np.ndarray) else value


def agree(one: Any, other: Any, off: float) -> bool:
    """Whether what was told is the same, numbers up to this."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(agree(one[name], other[name], off) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(agree(a, b, off) for a, b in zip(one, other, strict=True))
    return one == other or (isinstance(one, float) and isinstance(other, float) and abs(one - other) <= off)


def assert_equal_to_singles(one: Any, other: Any, chosen: np.ndarray[Any, Any], *, seed: Any = 7, off: float = 0.0) -> int:
    """Step both; how many texts ended. Rewards and scores may be off by so much."""
    begun, expected = one.reset(seed=seed), other.reset(seed=seed)
    assert begun[0].tobytes() == expected[0].tobytes()
    assert begun[1] == expected[1] == {}
    ended = 0
    for row in chosen:
        got, wanted = one.step(row), other.step(row)
        for a, b in zip(got[:4], wanted[:4], strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert agree(a.tolist(), b.tolist(), off)
        assert agree(told(got[4]), told(wanted[4]), off)
        ended += int(got[2].sum())
    assert ended
    return ended


# --- Equal to N single environments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize(
    "payment", [{"payment": "end"}, {}, {"pay_every": "token"}, {"pay_every": 3}], ids=["end", "segment", "token", "3"]
)
@pytest.mark.parametrize("stack", STACKS)
def test_it_equals_single_environments_step_by_step(stack: str, payment: dict[str, Any], mode: str) -> None:
    options = {"reward": STACKS[stack], **payment}
    assert_equal_to_singles(vector(autoreset_mode=mode, **options), singles(mode=mode, **options), actions(3, 40))


@pytest.mark.parametrize("seed", [0, [5, 5, 1], [None, 2, 3]], ids=["one", "a list", "some"])
def test_seeds_are_those_of_single_environments(seed: Any) -> None:
    prompts = [f"prompt {i}" for i in range(40)]
    one, other = vector(prompts=prompts), singles(prompts=prompts)
    for given in (9, seed):  # a row without a seed goes on with its own numbers
        observed, expected = one.reset(seed=given)[0], other.reset(seed=given)[0]
        assert observed.tolist() == expected.tolist()
    assert one.np_random_seed == other.np_random_seed
    assert [g.random() for g in one.np_random] == [g.random() for g in other.np_random]


def test_a_text_without_a_seed_is_drawn_anew_each_time() -> None:
    prompts = [f"prompt {i}" for i in range(10_000)]
    assert vector(prompts=prompts).reset()[0].tolist() != vector(prompts=prompts).reset()[0].tolist()


@pytest.mark.parametrize("reward", ["sparse", "critic_span", "redistributed", "hierarchical"])
def test_it_equals_single_environments_with_embedded_models(reward: str) -> None:
    made = {"reward": reward, "max_new_tokens": 6}
    one = gym.make_vec("textenv/Detox-v0", num_envs=3, **made)
    other = gym.make_vec("textenv/Detox-v0", num_envs=3, vectorization_mode="sync", **made)
    chosen = np.random.default_rng(1).integers(3, one.single_action_space.n, (14, 3))
    assert assert_equal_to_singles(one, other, chosen, off=1e-6) == 6  # networks read three texts at a time, or one


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:critic .* could not be parsed:RuntimeWarning")
@pytest.mark.parametrize("reward", REWARDS)
def test_every_reward_by_name_pays_as_in_single_environments(reward: str) -> None:
    made: dict[str, Any] = {"num_envs": 2, "reward": reward, "max_new_tokens": 6, "min_new_tokens": 1}
    one, other = gym.make_vec("textenv/Detox-v0", **made), gym.make_vec("textenv/Detox-v0", vectorization_mode="sync", **made)
    assert one.reset(seed=0)[0].tolist() == other.reset(seed=0)[0].tolist()
    for row in np.random.default_rng(1).integers(3, one.single_action_space.n, (7, 2)):
        got, wanted = one.step(row), other.step(row)
        assert got[1] == pytest.approx(wanted[1], abs=1e-5)  # a network reads two texts at a time, or one


@pytest.mark.parametrize("stack", STACKS)
def test_with_every_token_read_each_step_pays_what_the_credit_of_the_text_so_far_has_grown_by(stack: str) -> None:
    envs = vector(1, reward=STACKS[stack], pay_every="token", prompts=["p: "], autoreset_mode="Disabled")
    credit, episode = (envs.get_attr(name)[0] for name in ("credit", "episode"))
    envs.reset(seed=0)
    tokens = ids("a bad aa, e.")
    paid = [float(envs.step(np.array([token]))[1][0]) for token in tokens]
    credited = credit([episode(Prompt("p: "), tokens[:t]) for t in range(1, len(tokens) + 1)])
    growth = np.diff([0.0, *(e.rewards.sum() for e in credited)])
    if stack == "sparse":  # the score alone, and an unfinished text has none
        assert np.flatnonzero(paid).tolist() == [len(tokens) - 1]
    assert paid == pytest.approx(growth)


# --- One call for all --------------------------------------------------------------------------------------------------


class CountedScorer:
    def __init__(self) -> None:
        self.batches = list[int]()

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        self.batches.append(len(episodes))
        return [1.0] * len(episodes)


def test_texts_that_end_together_are_scored_and_criticised_in_one_call() -> None:
    scorer, critic = CountedScorer(), CountedCritic(CRITIC)
    envs = vector(4, scorer=scorer, reward="critic_span", critic=critic, payment="end", max_new_tokens=2)
    envs.reset(seed=0)
    envs.step(np.full(4, 97))
    *_, terminated, _, _ = envs.step(np.array([97, 98, 99, EOS]))
    assert terminated.all()
    assert scorer.batches == [4]
    assert critic.calls == 1


def test_segments_that_end_together_are_read_with_the_texts_that_end_in_one_call() -> None:
    critic = CountedCritic(CRITIC)
    envs = vector(4, reward="critic_span", critic=critic)
    envs.reset(seed=0)
    envs.step(np.array(ids("abcd")))
    assert critic.calls == 0
    envs.step(np.array([*ids(",b."), EOS]))
    assert critic.calls == 1
    assert sorted(critic.texts) == ["a,", "c.", "d"]


def test_nobody_is_asked_where_nothing_ends() -> None:
    scorer = CountedScorer()
    envs = vector(scorer=scorer)
    envs.reset(seed=0)
    envs.step(np.full(3, 97))
    assert scorer.batches == []


def test_it_holds_one_copy_of_everything() -> None:
    envs = vector(reward="critic_span", critic=CountedCritic(CRITIC))
    assert len(set(map(id, envs.get_attr("task")))) == 1


# --- Autoreset ---------------------------------------------------------------------------------------------------------


def test_it_declares_how_it_begins_again() -> None:
    assert vector().metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    for mode in AutoresetMode:
        assert vector(autoreset_mode=mode).metadata["autoreset_mode"] is mode
        assert vector(autoreset_mode=mode.value).metadata["autoreset_mode"] is mode


def test_with_next_step_the_action_behind_the_last_one_is_not_looked_at() -> None:
    envs = vector(2, max_new_tokens=1)
    envs.reset(seed=0)
    assert envs.step(np.array([97, 97]))[2].all()
    observation, rewards, terminated, _, infos = envs.step(np.array([-5, VOCABULARY]))
    assert (rewards.tolist(), terminated.any(), infos) == ([0.0, 0.0], False, {})
    assert (observation[:, -1] == -1).all()


def test_with_same_step_the_observation_is_of_the_next_text_and_the_last_one_is_in_the_info() -> None:
    envs = vector(2, max_new_tokens=2, autoreset_mode="SameStep")
    envs.reset(seed=0)
    envs.step(np.array([97, 98]))
    observation, _, terminated, _, infos = envs.step(np.array([98, 98]))
    assert terminated.all()
    assert (observation[:, -2:] == -1).all()
    assert [final[-2:].tolist() for final in infos["final_obs"]] == [[97, 98], [98, 98]]
    assert [e.text for e in infos["final_info"]["text_episode"]] == ["ab", "bb"]


def test_without_autoreset_the_user_says_which_rows_begin_again() -> None:
    envs = vector(2, max_new_tokens=3, autoreset_mode="Disabled")
    envs.reset(seed=0)
    assert envs.step(np.array([EOS, 97]))[2].tolist() == [True, False]
    with pytest.raises(RuntimeError, match=r"texts have ended, in rows \[0\]: reset\(options={'reset_mask'"):
        envs.step(np.array([97, 97]))
    observation, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert observation[:, -3:].tolist() == [[-1, -1, -1], [97, -1, -1]]
    assert envs.step(np.array([98, 98]))[0][:, -3:].tolist() == [[98, -1, -1], [97, 98, -1]]


def test_a_mask_resets_as_gymnasiums_own_vector_does() -> None:
    one, other = vector(reward=VowelBonus), singles(reward=VowelBonus)
    rows = actions(3, 4)
    for envs in (one, other):
        envs.reset(seed=3)
        envs.step(rows[0])
    mask = np.array([False, True, True])
    got, wanted = (envs.reset(seed=[None, 1, 2], options={"reset_mask": mask, "prompt": "x"}) for envs in (one, other))
    assert got[0].tolist() == wanted[0].tolist()
    for row in rows[1:]:
        assert one.step(row)[1].tolist() == other.step(row)[1].tolist()


def test_options_are_left_as_they_were_given() -> None:
    options = {"reset_mask": np.ones(3, np.bool_), "prompt": Prompt("x")}
    vector().reset(options=options)
    assert set(options) == {"reset_mask", "prompt"}


# --- Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([97, 97], r"3 integers, got shape \(2,\) of int64: \[97, 97\]"),
        ([0.5] * 3, r"3 integers, got shape \(3,\) of float64"),
        ([97, VOCABULARY, 97], rf"token {VOCABULARY} of row 1 is out of range: an action is an integer in 0..{VOCABULARY - 1}"),
        ([97, 97, -1], "token -1 of row 2 is out of range"),
    ],
)
def test_bad_actions_are_refused_and_no_text_has_grown(given: Any, error: str) -> None:
    envs = vector()
    before, _ = envs.reset(seed=0)
    with pytest.raises(ValueError, match=error):
        envs.step(given)
    assert envs.step(np.full(3, 97))[0][:, -12:].tolist() == [[97, *[-1] * 11]] * 3
    assert (before[:, -12:] == -1).all()  # an observation that was handed out stays as it was


def test_a_step_before_a_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"step\(\) before reset\(\)"):
        vector().step(np.full(3, 97))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"autoreset_mode": "later"}, "autoreset_mode must be one of 'NextStep', 'SameStep', 'Disabled', got 'later'"),
        ({"n": 0}, "num_envs must be at least 1, got 0"),
        ({"payment": "never"}, 'payment must be "online" or "end", got \'never\''),
        ({"pay_every": 0}, "pay_every must be"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        vector(**options)


@pytest.mark.parametrize(
    ("reset", "kind", "error"),
    [
        ({"seed": [1, 2]}, ValueError, "2 seeds for num_envs=3"),
        ({"options": {"reset_mask": [True]}}, TypeError, "must be an array of 3 bool"),
        ({"options": {"reset_mask": np.zeros(3, np.bool_)}}, ValueError, "names no row"),
        ({"options": {"prompt": 3}}, TypeError, "takes a string or a Prompt, got 3"),
    ],
)
def test_bad_resets_are_refused(reset: dict[str, Any], kind: type[Exception], error: str) -> None:
    with pytest.raises(kind, match=error):
        vector().reset(**reset)


@pytest.mark.parametrize("reward", [lambda env: gym.wrappers.TransformReward(env, abs), OnlineReward])
def test_a_wrapper_with_a_step_of_its_own_is_refused_and_the_way_out_works(reward: Any) -> None:
    with pytest.raises(TypeError, match=r'does more at a step .*vectorization_mode="sync"'):
        vector(reward=reward, payment="end")
    assert isinstance(vector(reward=lambda env: OnlineReward(env), vectorization_mode="sync"), SyncVectorEnv)


def test_a_step_that_failed_may_be_taken_again() -> None:
    down = [True]

    def critic(episodes: Sequence[Episode], /) -> list[list[Span]]:
        if down[0]:
            raise ConnectionError("no answer")
        return CRITIC(episodes)

    rows = np.array([ids("aa,bad,"), ids("a,a.aaa")]).T
    paid = []
    for broken in (False, True):
        envs = vector(2, reward="critic_span", critic=critic, max_new_tokens=7)
        envs.reset(seed=0)
        paid.append([])
        for row in rows:
            if broken:
                down[0] = True
                try:
                    paid[-1].append(envs.step(row)[1].tolist())
                    continue  # nobody was asked
                except ConnectionError:
                    pass
            down[0] = False
            paid[-1].append(envs.step(row)[1].tolist())
    assert paid[0] == paid[1]
    assert np.any(paid[0])


# --- Around it ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["sparse", "by name", "causal"])
def test_it_renders_as_single_environments_do(reward: str) -> None:
    options = {"reward": STACKS[reward], "render_mode": "ansi", "max_new_tokens": 3, "payment": "end"}
    one, other = vector(**options), singles(**options)
    one.reset(seed=0), other.reset(seed=0)
    for row in actions(3, 5):
        assert one.render() == other.render()
        one.step(row), other.step(row)
    assert vector().render() == (None, None, None)


def test_its_specification_makes_it_again_and_copies_no_model() -> None:
    scorer = torch.nn.Linear(1, 1)
    held = lambda episodes: [float(scorer.in_features)] * len(episodes)  # noqa: E731 - a scorer that holds a model
    envs = vector(scorer=held, reward=["uniform", VowelBonus], autoreset_mode=AutoresetMode.SAME_STEP)
    again: Any = gym.make_vec(copy.deepcopy(envs.spec))
    assert isinstance(again, TextVectorEnv)
    assert again.get_attr("task")[0].scorer is envs.get_attr("task")[0].scorer is held
    assert (again.num_envs, again.autoreset_mode) == (3, AutoresetMode.SAME_STEP)


def test_gymnasiums_statistics_wrapper_counts_its_episodes() -> None:
    envs = gym.wrappers.vector.RecordEpisodeStatistics(vector(2, max_new_tokens=2, reward=VowelBonus))
    envs.reset(seed=0)
    envs.step(np.array([97, 98]))
    *_, infos = envs.step(np.array([97, 98]))
    assert infos["episode"]["l"].tolist() == [2, 2]
    assert infos["episode"]["r"] == pytest.approx([e.rewards.sum() for e in infos["text_episode"]])


def test_counters_are_those_of_all_rows_and_closing_twice_does_no_harm() -> None:
    envs = vector(2, reward="critic_span", critic=CRITIC, payment="end", max_new_tokens=1)
    envs.reset(seed=0)
    envs.step(np.array([97, 98]))
    assert envs.credit_metrics()["credit/critic_calls"] == 1.0
    envs.close()
    envs.close()
    assert envs.closed
