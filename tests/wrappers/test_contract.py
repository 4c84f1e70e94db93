"""The contract between credit and payment (C1–C8), over every stack of wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import EOS, CountedCritic, credited, ids, make, walk
from textenv.episode import Episode, Prompt, Span
from textenv.reward import RewardWrapper
from textenv.wrappers import CriticReward, LexiconCritic, OnlineReward


class VowelBonus(RewardWrapper):
    """0.1 for each vowel, at its own token."""

    keeps_return, causal = False, True

    def rewards(self, episodes: Sequence[Episode]) -> list[Any]:
        return [e.rewards + 0.1 * np.isin(e.tokens, list(b"aeiou")) for e in episodes]


class Halved(RewardWrapper):
    """Half of all credit."""

    keeps_return, causal = False, True

    def rewards(self, episodes: Sequence[Episode]) -> list[Any]:
        return [e.rewards / 2 for e in episodes]


class Spread(RewardWrapper):
    """The credit's sum, the same for each token."""

    keeps_return, causal = True, False

    def rewards(self, episodes: Sequence[Episode]) -> list[Any]:
        return [np.full(len(e), e.rewards.sum() / max(len(e), 1)) for e in episodes]


class LongWords(RewardWrapper):
    """−0.3 for every token of a text with a word of four letters; needs no critic, and looks ahead."""

    keeps_return, causal = False, False

    def rewards(self, episodes: Sequence[Episode]) -> list[Any]:
        return [e.rewards - 0.3 * any(len(word) >= 4 for word in e.text.split()) for e in episodes]


def lexicon(env: Any, **options: Any) -> CriticReward:
    return CriticReward(env, LexiconCritic(["bad", "aa b"]), positive=0.7, negative=-0.3, **options)


STACKS: dict[str, Any] = {
    "sparse": "sparse",
    "critic_span": "critic_span",
    "critic_span twice": ["critic_span", ("critic_span", {"positive": 0.3})],
    "a callable": lambda env: lexicon(env),
    "names and callables": ["sparse", "critic_span", Spread, VowelBonus],
    "causal": VowelBonus,
    "causal twice": [VowelBonus, Halved],
    "hindsight": Spread,
    "causal inside hindsight": [VowelBonus, LongWords],
    "hindsight inside causal": [LongWords, VowelBonus],
    "mixed": [VowelBonus, "critic_span", Halved, Spread],
    "per_span_total": ("critic_span", {"per_span_total": True}),
    "token_string": lambda env: lexicon(env, match="token_string"),
    "threshold": ("critic_span", {"threshold": 0.3}),
    "every occurrence": lambda env: lexicon(env, occurrence="all"),
    "random places": lambda env: lexicon(env, places="random"),
    "a cost model": ("redistributed", {"cost_model": lambda episodes: [len(e) / 16 for e in episodes], "alpha": -1.0}),
    "by length and end": ["length_bonus", "no_stop_penalty"],
}
TEXTS = ["a", "aaaa", "a bad aa b.", "b, a\nc! é", "xyzzy plugh aaaa"]
TOKENS = [ids(text[:16], end=len(text.encode()) < 16) for text in TEXTS] + [[EOS]]

stacks = pytest.mark.parametrize("stack", STACKS)
payments = pytest.mark.parametrize(
    "payment", [{"payment": "end"}, {}, {"pay_every": "token"}, {"pay_every": 3}], ids=["end", "segment", "token", "3"]
)


@stacks
@payments
def test_pays_exactly_what_it_credits(stack: str, payment: dict[str, Any]) -> None:
    env = make(reward=STACKS[stack], **payment)
    for tokens in TOKENS:
        rewards, episode = walk(env, tokens)
        assert episode is not None
        assert sum(rewards) == pytest.approx(episode.rewards.sum(), abs=1e-9)


@stacks
@payments
def test_stepping_delivers_the_credit_of_the_batch_bit_for_bit(stack: str, payment: dict[str, Any]) -> None:
    env = make(reward=STACKS[stack], prompts=["p: "], **payment)
    for tokens in TOKENS:
        _, stepped = walk(env, tokens)
        batched = credited(env, tokens)
        assert stepped is not None
        assert stepped.rewards.tobytes() == batched.rewards.tobytes()
        assert (stepped.score, stepped.text, stepped.finish_reason) == (batched.score, batched.text, batched.finish_reason)
        assert stepped.offsets.tolist() == batched.offsets.tolist()


@stacks
def test_payment_never_alters_credit(stack: str) -> None:
    credits = {
        walk(make(reward=STACKS[stack], **options), tokens)[1].rewards.tobytes()  # type: ignore[union-attr]
        for options in ({"payment": "end"}, {}, {"pay_every": "token"}, {"pay_every": 3})
        for tokens in TOKENS[2:3]
    }
    assert len(credits) == 1


@stacks
def test_a_batch_is_credited_as_its_episodes_one_by_one(stack: str) -> None:
    env = make(reward=STACKS[stack])
    credit, episode = env.get_wrapper_attr("credit"), env.get_wrapper_attr("episode")
    episodes = [episode(Prompt("p"), tokens) for tokens in TOKENS]
    together, alone = credit(episodes), [credit([e])[0] for e in episodes]
    assert [e.rewards.tobytes() for e in together] == [e.rewards.tobytes() for e in alone]


@stacks
def test_credit_is_one_number_a_token(stack: str) -> None:
    env = make(reward=STACKS[stack])
    for tokens in [*TOKENS, ids("un")]:
        rewards = credited(env, tokens).rewards
        assert rewards.shape == (len(tokens),)
        assert rewards.dtype == np.float64


@stacks
def test_no_wrapper_touches_the_score(stack: str) -> None:
    env = make(reward=STACKS[stack], scorer=worlds.constant_scorer(0.25))
    assert {credited(env, tokens).score for tokens in TOKENS} == {0.25}


@stacks
def test_an_unfinished_text_has_no_score_in_its_credit(stack: str) -> None:
    high, low = (make(reward=STACKS[stack], scorer=worlds.constant_scorer(v)) for v in (1000.0, 0.0))
    credit = credited(high, ids("a bad")).rewards
    assert credit.tolist() == credited(low, ids("a bad")).rewards.tolist()
    assert np.isnan(credited(high, ids("a bad")).score)


@stacks
def test_crediting_returns_new_episodes_and_leaves_the_old_alone(stack: str) -> None:
    env = make(reward=STACKS[stack])
    raw = env.get_wrapper_attr("episode")(Prompt("p"), TOKENS[2])
    (out,) = env.get_wrapper_attr("credit")([raw])
    assert out is not raw
    assert raw.rewards.tolist() == [0.0] * len(raw)
    assert np.isnan(raw.score)


@stacks
def test_crediting_twice_gives_the_same(stack: str) -> None:
    env = make(reward=STACKS[stack])
    credit = env.get_wrapper_attr("credit")
    once = credit([env.get_wrapper_attr("episode")(Prompt("p"), TOKENS[2])])
    assert credit(once)[0].rewards.tolist() == once[0].rewards.tolist()


@stacks
def test_info_stays_empty_until_the_credited_episode_on_the_last_step(stack: str) -> None:
    env = make(reward=STACKS[stack])
    env.reset()
    infos = [env.step(token)[4] for token in TOKENS[2]]
    assert not any(infos[:-1])
    assert list(infos[-1]) == ["text_episode"]


@stacks
def test_a_second_text_is_paid_like_the_first(stack: str) -> None:
    env = make(reward=STACKS[stack])
    assert walk(env, TOKENS[2])[0] == walk(env, TOKENS[2])[0]


@stacks
def test_a_text_that_was_abandoned_leaves_no_debt(stack: str) -> None:
    env = make(reward=STACKS[stack])
    first, _ = walk(env, TOKENS[2])
    walk(env, ids("a bad"))
    assert walk(env, TOKENS[2])[0] == first


@stacks
def test_every_wrapper_declares_whether_it_keeps_the_return_and_is_causal(stack: str) -> None:
    env = make(reward=STACKS[stack])
    while isinstance(env, gym.Wrapper):
        if isinstance(env, RewardWrapper):
            assert isinstance(env.keeps_return, bool)
            assert isinstance(env.causal, bool)
        env = env.env


@pytest.mark.parametrize("wrapper", [VowelBonus, Spread, OnlineReward, CriticReward])
@pytest.mark.parametrize("tokens", TOKENS)
def test_a_wrapper_that_says_so_keeps_the_return(wrapper: type[RewardWrapper], tokens: list[int]) -> None:
    env = make()
    if wrapper.keeps_return:
        assert credited(wrapper(env), tokens).rewards.sum() == pytest.approx(credited(env, tokens).rewards.sum())


@pytest.mark.parametrize("wrapper", [VowelBonus, Halved, OnlineReward])
def test_causal_credit_does_not_depend_on_what_follows(wrapper: type[RewardWrapper]) -> None:
    env = wrapper(VowelBonus(make()))
    tokens = ids("a ble!")
    whole = credited(env, tokens).rewards
    for t in range(1, len(tokens)):
        assert credited(env, tokens[:t]).rewards.tolist() == whole[:t].tolist()


# --- Payment while the text is written ---------------------------------------------------------------------------------


def test_causal_credit_is_paid_at_its_own_token_whatever_pay_every_says() -> None:
    for pay_every in ("segment", "token", 3):
        rewards, episode = walk(make(reward=[VowelBonus, Halved], pay_every=pay_every), ids("abcde", end=True))
        assert episode is not None
        assert rewards == pytest.approx(episode.rewards.tolist())


def test_causal_credit_is_paid_at_its_own_token_inside_a_hindsight_wrapper_too() -> None:
    rewards, _ = walk(make(reward=[VowelBonus, LongWords], max_new_tokens=4, scorer=worlds.constant_scorer(0.0)), ids("abaa"))
    assert rewards == pytest.approx([0.1, 0.0, 0.1, 0.1 - 4 * 0.3])


def test_a_critics_rewards_arrive_before_the_last_step() -> None:
    env = make(reward=("critic_span", {"critic": LexiconCritic(["bad"]), "negative": -0.5}), scorer=worlds.constant_scorer(0.0))
    rewards, _ = walk(env, ids("bad. fine", end=True))
    assert rewards == [0.0, 0.0, 0.0, -1.5, *[0.0] * 6]


@pytest.mark.parametrize(
    ("pay_every", "paid"),
    [("token", [0.5] * 6), (3, [0.0, 0.0, 1.5, 0.0, 0.0, 1.5]), (4, [0.0, 0.0, 0.0, 2.0, 0.0, 1.0])],
)
def test_a_number_says_how_often_the_text_so_far_is_read(pay_every: Any, paid: list[float]) -> None:
    env = make(reward=("critic_span", {"positive": 0.5}), pay_every=pay_every, max_new_tokens=6, scorer=worlds.constant_scorer(0.0))
    assert walk(env, ids("aaaaaa"))[0] == paid


def test_a_segment_ends_with_punctuation_or_after_eight_tokens() -> None:
    env = make(reward=("critic_span", {"positive": 1.0}), max_new_tokens=16, scorer=worlds.constant_scorer(0.0))
    rewards, _ = walk(env, ids("aa, aaaaaaaaaaaa"))
    assert np.flatnonzero(rewards).tolist() == [2, 10, 15]


def test_what_the_critic_changes_its_mind_about_is_settled_later() -> None:
    # "bad" is marked until it becomes "badge"
    env = make(reward=("critic_span", {"critic": LexiconCritic(["bad"]), "negative": -1.0}), pay_every="token",
               max_new_tokens=5, scorer=worlds.constant_scorer(0.0))  # fmt: skip
    rewards, episode = walk(env, ids("badge"))
    assert rewards == [0.0, 0.0, -3.0, 3.0, 0.0]
    assert episode is not None
    assert not episode.rewards.any()


def test_payment_at_the_end_asks_the_critic_once_and_pays_once() -> None:
    critic = CountedCritic(lambda episodes: [[Span(0, 1, 1.0)] for _ in episodes])
    rewards, _ = walk(make(reward="critic_span", critic=critic, payment="end"), ids("a. b! a, c? a ..."[:16]))
    assert critic.calls == 1
    assert [i for i, reward in enumerate(rewards) if reward] == [15]


def test_payment_online_asks_the_critic_once_a_segment() -> None:
    critic = CountedCritic(lambda episodes: [[] for _ in episodes])
    walk(make(reward="critic_span", critic=critic), ids("a. b!", end=True))
    assert critic.texts == ["a.", "a. b!", "a. b!"]


def test_a_batch_is_one_critic_call_and_one_scorer_call() -> None:
    calls: list[int] = []

    def scorer(episodes: Sequence[Episode]) -> list[float]:
        calls.append(len(episodes))
        return [0.0 for _ in episodes]

    critic = CountedCritic(lambda episodes: [[] for _ in episodes])
    env = make(reward="critic_span", critic=critic, scorer=scorer)
    env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(Prompt("p"), tokens) for tokens in TOKENS])
    assert (critic.calls, calls) == (1, [len(TOKENS)])


def test_the_score_is_paid_at_the_end_even_where_credit_moves_it() -> None:
    env = make(reward=Spread, pay_every="token", max_new_tokens=4, scorer=worlds.constant_scorer(2.0))
    rewards, episode = walk(env, ids("abcd"))
    assert rewards == [0.0, 0.0, 0.0, 2.0]
    assert episode is not None
    assert episode.rewards.tolist() == [0.5] * 4


@given(tokens=st.lists(st.integers(0, 257), min_size=1, max_size=7), stack=st.sampled_from(sorted(STACKS)))
def test_any_bytes_are_paid_what_they_are_credited(tokens: list[int], stack: str) -> None:
    env = ENVIRONMENTS.setdefault(stack, make(reward=STACKS[stack], prompts=["p: "]))
    rewards, episode = walk(env, [*tokens, EOS])
    assert episode is not None
    assert sum(rewards) == pytest.approx(episode.rewards.sum(), abs=1e-9)
    assert episode.rewards.tobytes() == credited(env, [*tokens, EOS]).rewards.tobytes()


ENVIRONMENTS: dict[str, gym.Env[Any, Any]] = {}


# --- Failures are loud -------------------------------------------------------------------------------------------------


class Answers(RewardWrapper):
    """Whatever it was told."""

    def __init__(self, env: Any, answer: Any) -> None:
        super().__init__(env)
        self.answer = answer

    def rewards(self, episodes: Sequence[Episode]) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[1.0]], r"Answers\.rewards, episode 0 \(text 'aa'\): a reward array of shape \(1,\) for 2 tokens"),
        ([1.0], r"episode 0 .* shape \(\) for 2 tokens"),
        ([[0.0, float("nan")]], r"Answers\.rewards, episode 0 \(text 'aa'\): reward nan at token 1; credit must be finite"),
        ([[float("inf"), 0.0]], r"reward inf at token 0"),
        ([], r"Answers\.rewards returned 0 arrays for 1 episodes"),
    ],
)
def test_a_wrapper_that_answers_nonsense_is_named_with_the_episode(answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walk(make(reward=lambda env: Answers(env, answer), max_new_tokens=2, payment="end"), ids("aa"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"Answers\.rewards returned None; a list of one \(T,\) array an episode is wanted"),
        (1.0, r"Answers\.rewards returned 1\.0; a list of one"),
        (["ab"], r"Answers\.rewards, episode 0 \(text 'aa'\): 'ab' is no array of 2 numbers"),
        ([["a", "b"]], r"episode 0 .* is no array of 2 numbers"),
        ([[[0.0], [0.0, 1.0]]], r"episode 0 .* is no array of 2 numbers"),
    ],
)
def test_a_wrapper_that_answers_no_arrays_is_named_with_the_episode(answer: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        walk(make(reward=lambda env: Answers(env, answer), max_new_tokens=2, payment="end"), ids("aa"))


@pytest.mark.parametrize("action", [np.array([97]), np.array(97), np.int32(97), 97])
def test_an_action_may_be_an_array_of_one_whatever_the_reward(action: Any) -> None:
    paid = []
    for reward in ("sparse", "critic_span"):
        env = make(reward=reward, max_new_tokens=2, pay_every="token")
        env.reset(seed=0)
        paid.append([env.step(action)[1], env.step(action)[1]])
    assert paid == [[0.0, 1.0], [0.5, 1.5]]


def test_the_second_episode_of_a_batch_is_named() -> None:
    env = make(reward=lambda env: Answers(env, [[0.0], [0.0]]))
    episode = env.get_wrapper_attr("episode")
    with pytest.raises(ValueError, match=r"episode 1 \(text 'bb'\)"):
        env.get_wrapper_attr("credit")([episode(Prompt("p"), ids("a")), episode(Prompt("p"), ids("bb"))])


def test_a_reward_wrapper_around_another_kind_of_environment_is_refused() -> None:
    with pytest.raises(TypeError, match="VowelBonus wraps text environments"):
        VowelBonus(gym.make("CartPole-v1"))


def test_the_counters_of_two_critics_are_both_told() -> None:
    env = make(reward=["critic_span", "critic_span"], payment="end")
    walk(env, ids("aa", end=True))
    metrics = env.get_wrapper_attr("credit_metrics")()
    assert metrics["credit/spans"] == 4.0
    assert metrics["credit/critic_calls"] == 2.0


def test_counters_begin_anew_when_they_have_been_read() -> None:
    env = make(reward="critic_span", payment="end")
    walk(env, ids("aa", end=True))
    env.get_wrapper_attr("credit_metrics")()
    assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}
