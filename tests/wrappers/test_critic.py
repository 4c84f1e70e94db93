"""RELC's rewards: the identities of the method, both ways to match, and what a critic may not say."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import EOS, CountedCritic, constant_scorer, credited, ids, make, walk
from textenv.agents import LMPolicy, TokenPPO
from textenv.critics import CritiqueFormat, LanguageModelCritic, Section
from textenv.episode import Episode, Prompt, Span
from textenv.wrappers import CriticReward, CriticTokenReward

SCORE = 0.75


def marks(*spans: Span) -> Any:
    """A critic that always marks these spans."""
    return lambda episodes: [list(spans) for _ in episodes]


def with_critic(critic: Any, *, tokenizer: Any = "bytes", score: float = SCORE, budget: int = 64, **options: Any) -> Any:
    options = {"positive": 0.5, "negative": -0.5, **options}
    return make(reward=lambda env: CriticReward(env, critic, **options), payment="end", max_new_tokens=budget,
                max_prompt_tokens=32, scorer=constant_scorer(score), tokenizer=tokenizer)  # fmt: skip


def intrinsic(env: Any, tokens: Sequence[int]) -> list[float]:
    """i_t: the credit beside the score."""
    episode = credited(env, tokens)
    rewards = episode.rewards.copy()
    rewards[-1:] -= np.nan_to_num(episode.score)
    return rewards.round(9).tolist()


# --- Identities (relc §7) ----------------------------------------------------------------------------------------------


def test_the_credit_sums_to_the_score_and_the_constants_times_their_tokens() -> None:  # 1
    env = with_critic(marks(Span(0, 2, 1.0), Span(5, 9, -1.0)), positive=0.3, negative=-0.2)
    assert credited(env, ids("0123456789", end=True)).rewards.sum() == pytest.approx(SCORE + 0.3 * 2 - 0.2 * 4)


def test_a_neutral_value_pays_every_unmarked_token_and_is_warned_of() -> None:  # 1
    with pytest.warns(UserWarning, match=r"neutral=0\.01 pays every unmarked token"):
        env = with_critic(marks(Span(0, 2, 1.0), Span(5, 9, -1.0)), positive=0.3, negative=-0.2, neutral=0.01)
    assert credited(env, ids("0123456789", end=True)).rewards.sum() == pytest.approx(SCORE + 0.3 * 2 - 0.2 * 4 + 0.01 * 5)


@pytest.mark.parametrize(
    ("critic", "options"),
    [(marks(Span(0, 2, 1.0), Span(1, 4, -1.0)), {"positive": 0.0, "negative": 0.0}), (marks(), {})],
)
def test_a_critic_without_weight_or_without_words_changes_no_bit(critic: Any, options: dict[str, float]) -> None:  # 2
    sparse = make(scorer=constant_scorer(SCORE), max_new_tokens=64)
    for tokens in (ids("abcdef", end=True), ids("abcdef")):
        assert credited(with_critic(critic, **options), tokens).rewards.tobytes() == credited(sparse, tokens).rewards.tobytes()


@pytest.mark.parametrize(
    ("critic", "options"),
    [(marks(Span(0, 2, 1.0), Span(1, 3, -1.0)), {"positive": 0.0, "negative": 0.0}), (marks(), {})],
    ids=["without weight", "without words"],
)
def test_a_policy_learns_bit_for_bit_what_it_learns_from_the_score_alone(critic: Any, options: dict[str, float]) -> None:  # 2
    def learned(reward: Any) -> tuple[Any, Any]:
        env = make(reward=reward, payment="end", scorer=worlds.even_share, max_new_tokens=8, min_new_tokens=4, prompts=["p: "])
        policy = LMPolicy(worlds.llama(), tokenizer="bytes", device="cpu")
        agent = TokenPPO(policy, env, n_episodes=8, learning_rate=1e-3, seed=0)
        advantages = []

        def note(local: dict[str, Any], _: Any) -> bool:
            advantages.append(agent.prepare(local["episodes"]).advantages.numpy().tobytes())
            return True

        agent.learn(2 * 8 * 8, callback=note)
        return agent.policy.model, advantages

    (plain, expected), (shaped, found) = learned("sparse"), learned(lambda env: CriticReward(env, critic, **options))
    assert found == expected != []
    assert worlds.same_weights(plain, shaped)
    assert not worlds.same_weights(plain, worlds.llama()), "it has learned"


@given(text=st.text(max_size=12), data=st.data())
def test_the_same_constant_for_good_and_bad_pays_by_length_alone(text: str, data: Any) -> None:  # 3
    spans = data.draw(disjoint_spans(text))
    tokens = ids(text, end=True)
    assume(len(tokens) <= 64)
    with pytest.warns(UserWarning, match="neutral"):
        env = with_critic(marks(*spans), positive=-0.25, negative=-0.25, neutral=-0.25)
    assert credited(env, tokens).rewards.sum() == pytest.approx(SCORE - 0.25 * len(tokens))


@st.composite
def disjoint_spans(draw: Any, text: str) -> list[Span]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)))
    return [Span(a, b, draw(st.sampled_from([1.0, -1.0]))) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]


@pytest.mark.parametrize("name", ["bytes", "byte_level_bpe", "unigram"])
@given(text=st.text(st.sampled_from("aé😀\u0301 \ufffd") | st.characters(exclude_categories=["Cs"]), max_size=10), data=st.data())
def test_the_tokens_of_the_marked_characters_are_paid_and_no_others(name: str, text: str, data: Any) -> None:  # 4
    tokenizer = worlds.tokenizers()[name]
    tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])[:48]
    bare = make(tokenizer=tokenizer, max_new_tokens=64, max_prompt_tokens=32)
    episode = bare.get_wrapper_attr("episode")(Prompt("p: "), tokens)
    spans = data.draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from([1.0, -1.0, 2.0, -0.5])), max_size=3)
    )
    spans = [Span(a, a + n, r) for a, n, r in spans if a + n <= len(episode.text)]
    expected = [sum(0.5 * s.reward for s in spans if any(b <= c < e for c in range(s.start, s.end))) for b, e in episode.offsets]
    assert intrinsic(with_critic(marks(*spans), tokenizer=tokenizer), tokens) == pytest.approx(expected)


def test_a_span_that_ends_inside_a_token_pays_the_whole_token() -> None:  # 4
    tokenizer = worlds.tokenizers()["byte_level_bpe"]
    tokens = tokenizer("the lazy dog", add_special_tokens=False)["input_ids"]
    env = with_critic(marks(Span(5, 6, -1.0)), tokenizer=tokenizer)
    (hit,) = [i for i, piece in enumerate(tokenizer.convert_ids_to_tokens(tokens)) if "a" in piece]
    assert np.flatnonzero(intrinsic(env, tokens)).tolist() == [hit]


def test_offsets_pay_one_occurrence_where_strings_pay_all() -> None:  # 5
    text, span = "bad, not bad", Span(0, 3, -1.0)
    assert np.flatnonzero(intrinsic(with_critic(marks(span)), ids(text))).tolist() == [0, 1, 2]
    by_string = intrinsic(with_critic(marks(span), match="token_string"), ids(text))
    assert np.flatnonzero(by_string).tolist() == [0, 1, 2, 9, 10, 11]


def test_a_letter_of_the_span_matches_everywhere_as_a_string() -> None:  # 6
    text, span = "a rat sat", Span(2, 5, -1.0)
    assert np.flatnonzero(intrinsic(with_critic(marks(span)), ids(text))).tolist() == [2, 3, 4]
    by_string = intrinsic(with_critic(marks(span), match="token_string"), ids(text))
    assert np.flatnonzero(by_string).tolist() == [0, 2, 3, 4, 7, 8]


def test_strings_keep_their_spaces_where_the_task_says_so() -> None:
    task = make().unwrapped.task
    assert task.reward_defaults.strip_tokens
    text, span = "a b", Span(0, 3, -1.0)
    stripped = intrinsic(with_critic(marks(span), match="token_string"), ids(text))
    assert stripped == [-0.5, 0.0, -0.5]  # a space alone, stripped, is no string


def test_a_span_that_is_not_in_the_text_pays_nothing_and_is_counted() -> None:  # 7
    with worlds.seeded():
        critic = LanguageModelCritic(
            worlds.llama(), CritiqueFormat((Section("Insults", -1.0),)), tokenizer="bytes", on_error="skip"
        )
    critic._complete = lambda questions: [(" bad; ghost", True) for _ in questions]  # type: ignore[method-assign]
    env = with_critic(critic)
    assert np.flatnonzero(intrinsic(env, ids("bad idea"))).tolist() == [0, 1, 2]
    assert env.get_wrapper_attr("credit_metrics")()["credit/critic_parse_failures"] == 1.0


@pytest.mark.parametrize(("threshold", "asked"), [(SCORE - 0.01, 0), (SCORE, 1), (SCORE + 0.01, 1), (None, 1)])
def test_the_critic_reads_texts_that_score_at_most_the_threshold(threshold: float | None, asked: int) -> None:  # 9
    critic = CountedCritic(marks(Span(0, 1, 1.0)))
    rewards = intrinsic(with_critic(critic, threshold=threshold), ids("ab", end=True))
    assert critic.calls == asked
    assert rewards == [0.5 * asked, 0.0, 0.0]


def test_an_unfinished_text_is_shown_whatever_the_threshold() -> None:
    critic = CountedCritic(marks())
    credited(with_critic(critic, threshold=-1.0), ids("ab"))
    assert critic.calls == 1


@pytest.mark.parametrize("match", ["offsets", "token_string"])
@pytest.mark.parametrize(("positive", "negative"), [(0.5, -0.5), (0.5, -0.2), (0.3, 0.3)])
def test_a_token_on_both_lists_gets_both_constants(match: str, positive: float, negative: float) -> None:  # 11
    env = with_critic(marks(Span(0, 1, 1.0), Span(0, 1, -1.0)), match=match, positive=positive, negative=negative)
    assert intrinsic(env, ids("ab", end=True)) == pytest.approx([positive + negative, 0.0, 0.0])


def test_a_token_in_two_spans_of_one_list_is_paid_once_as_released() -> None:
    spans = marks(Span(0, 2, -1.0), Span(1, 3, -1.0))
    assert intrinsic(with_critic(spans, match="token_string"), ids("abc")) == [-0.5] * 3
    assert intrinsic(with_critic(spans), ids("abc")) == [-0.5, -1.0, -0.5]


def test_a_batch_equals_its_episodes_one_by_one(llama_directory: Any) -> None:  # 14, with a real critic
    critic = LanguageModelCritic(llama_directory, CritiqueFormat((Section("Insults", -1.0),)), on_error="skip", max_new_tokens=8)
    env = with_critic(critic)
    episode = env.get_wrapper_attr("episode")
    episodes = [episode(Prompt("p"), ids(text, end=True)) for text in ("a", "some longer text", "", "b b b")]
    together = env.get_wrapper_attr("credit")(episodes)
    alone = [env.get_wrapper_attr("credit")([e])[0] for e in episodes]
    assert [e.rewards.tolist() for e in together] == [e.rewards.tolist() for e in alone]


def test_judging_leaves_the_critic_as_it_was() -> None:  # 15
    model = worlds.llama()
    before = copy.deepcopy(model)
    critic = LanguageModelCritic(
        model, CritiqueFormat((Section("Insults", -1.0),)), tokenizer="bytes", on_error="skip", max_new_tokens=4
    )
    credited(with_critic(critic), ids("some text", end=True))
    assert worlds.same_weights(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.is_inference_mode_enabled()


# --- Options -----------------------------------------------------------------------------------------------------------


@given(spans=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=4))
def test_a_shared_constant_pays_each_span_the_same_however_long(spans: list[tuple[int, int]]) -> None:
    marked = [Span(a, min(a + n, 12), -1.0) for a, n in spans]
    env = with_critic(marks(*marked), per_span_total=True)
    assert sum(intrinsic(env, ids("0123456789ab"))) == pytest.approx(-0.5 * len(marked), abs=1e-6)


def test_a_span_may_be_paid_wherever_its_text_stands_and_once_however_often_it_is_listed() -> None:  # relc §8, C2
    text, listed = ids("bad, a bad one"), [Span(0, 3, -1.0), Span(7, 10, -1.0)]
    first = intrinsic(with_critic(marks(listed[0])), text)
    everywhere = intrinsic(with_critic(marks(listed[0]), occurrence="all"), text)
    assert np.flatnonzero(first).tolist() == [0, 1, 2]
    assert np.flatnonzero(everywhere).tolist() == [0, 1, 2, 7, 8, 9]
    assert intrinsic(with_critic(marks(*listed), occurrence="all"), text) == everywhere
    shared = intrinsic(with_critic(marks(*listed), occurrence="all", per_span_total=True), text)
    assert sum(shared) == pytest.approx(-0.5, abs=1e-6)


def test_the_reward_of_a_span_scales_its_constant() -> None:
    env = with_critic(marks(Span(0, 1, 2.0), Span(1, 2, -0.1), Span(2, 3, 0.0)))
    assert intrinsic(env, ids("abc")) == pytest.approx([1.0, -0.05, 0.0])


def test_the_constants_are_the_tasks_unless_given() -> None:
    env = make(reward="critic_span", max_new_tokens=10)
    assert (env.get_wrapper_attr("positive"), env.get_wrapper_attr("negative")) == (0.1, -0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "token"}, 'match must be "offsets" or "token_string", got \'token\''),
        ({"match": "token_string", "per_span_total": True}, 'per_span_total=True needs match="offsets"'),
        ({"occurrence": "second"}, 'occurrence must be "first" or "all", got \'second\''),
        ({"match": "token_string", "occurrence": "all"}, 'occurrence="all" needs match="offsets"'),
        ({"threshold": float("nan")}, r"threshold must be a score \(or None: every text is shown\), got nan"),
        ({"positive": float("nan")}, "v must be finite"),
        ({"negative": float("-inf")}, "v must be finite"),
        ({"places": "anywhere"}, 'places must be "critic" or "random", and seed not negative, got \'anywhere\', 0'),
        ({"places": "random", "seed": -1}, "got 'random', -1"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_critic(marks(), **options)


# --- The control of random places, and the log -------------------------------------------------------------------------

TWO = marks(Span(0, 3, -1.0), Span(5, 6, 1.0))
LONG = ids("0123456789abcdefghij", end=True)


def runs(values: list[float]) -> list[tuple[float, int]]:
    """Value and length of each run of equal numbers that are not 0, sorted."""
    return sorted((value, len(list(group))) for value, group in itertools.groupby(values) if value)


@pytest.mark.parametrize("match", ["offsets", "token_string"])
@given(text=st.text(st.sampled_from("aé😀 "), max_size=14), data=st.data())
def test_random_places_have_the_same_values_on_other_tokens(match: str, text: str, data: Any) -> None:  # relc §8, C12
    spans, tokens = data.draw(disjoint_spans(text)), ids(text, end=True)
    with pytest.warns(UserWarning, match="neutral"):
        at_the_critics, at_random = (
            intrinsic(with_critic(marks(*spans), match=match, neutral=0.125, places=places), tokens)
            for places in ("critic", "random")
        )
    assert sorted(at_random) == sorted(at_the_critics)
    assert at_random[-1] == at_the_critics[-1], "EOS has no characters, and is no place for a span"


@pytest.mark.parametrize("seed", range(20))
def test_a_span_stays_in_one_piece_wherever_it_is_put(seed: int) -> None:
    found = intrinsic(with_critic(marks(Span(0, 3, -1.0), Span(8, 10, 1.0)), places="random", seed=seed), LONG)
    assert runs(found) == [(-0.5, 3), (0.5, 2)]


def test_every_token_of_the_text_is_as_likely_a_place_as_any_other() -> None:
    env = with_critic(marks(Span(0, 1, -1.0)))
    critic: Any = env
    while not isinstance(critic, CriticReward):
        critic = critic.env
    critic.places = "random"
    counts = np.zeros(4)
    for seed in range(400):
        critic.seed = seed
        counts += np.array(intrinsic(env, ids("abcd", end=True))[:4]) / -0.5
    assert counts.sum() == 400
    assert abs(counts - 100).max() < 4 * np.sqrt(400 * 0.25 * 0.75)


def test_places_are_drawn_by_seed_text_and_prompt_and_stepping_draws_the_same() -> None:
    env = with_critic(TWO, places="random", seed=1)
    again, other = with_critic(TWO, places="random", seed=1), with_critic(TWO, places="random", seed=2)
    found = credited(env, LONG).rewards.tobytes()
    assert found == credited(again, LONG).rewards.tobytes()
    assert found != credited(other, LONG).rewards.tobytes()
    assert found != credited(env, LONG, "q: ").rewards.tobytes()
    paid, stepped = walk(env, LONG, options={"prompt": Prompt("p: ")})
    assert stepped is not None
    assert stepped.rewards.tobytes() == found
    assert sum(paid) == pytest.approx(SCORE - 1.5 + 0.5)


def test_a_text_of_eos_alone_has_no_place_to_draw() -> None:
    assert credited(with_critic(marks(), places="random"), [EOS]).rewards.tolist() == [SCORE]


def test_the_log_says_how_loud_the_critic_is_beside_the_score() -> None:  # relc §8, C4
    env = with_critic(marks(Span(0, 2, 1.0), Span(2, 5, -1.0)), score=-0.5, threshold=None)
    tokens = ids("abcdef", end=True)
    for _ in range(2):
        credited(env, tokens)
    credited(env, tokens[:-1])  # an unfinished text has no score to be compared with
    key = "credit/intrinsic_to_score"
    assert env.get_wrapper_attr("credit_metrics")()[key] == pytest.approx(5 * 0.5 / 0.5)
    assert env.get_wrapper_attr("credit_metrics")()[key] == 0.0
    silent = with_critic(marks(Span(0, 2, 1.0)), score=0.0)
    credited(silent, tokens)
    assert silent.get_wrapper_attr("credit_metrics")()[key] == 0.0, "no number is better than an infinite one"


def test_an_episode_without_a_verdict_keeps_its_plain_credit_and_is_counted() -> None:  # relc §7, 8
    env = with_critic(lambda episodes: [None for _ in episodes], positive=0.3)
    assert credited(env, ids("abc", end=True)).rewards.tolist() == [0.0, 0.0, 0.0, SCORE]
    assert env.get_wrapper_attr("credit_metrics")()["credit/critic_skipped"] == 1.0


def test_the_width_of_a_batch_and_the_prompt_do_not_matter() -> None:  # relc §7, 12
    env = with_critic(TWO)
    alone = credited(env, ids("0123456", end=True)).rewards
    make_episode = env.get_wrapper_attr("episode")
    episodes = [make_episode(Prompt("a longer prompt"), t) for t in (ids("0123456", end=True), ids("x" * 60, end=True))]
    assert env.get_wrapper_attr("credit")(episodes)[0].rewards.tobytes() == alone.tobytes()


# --- Critics that say nonsense -----------------------------------------------------------------------------------------


def test_a_span_beyond_its_text_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Span\(start=1, end=9.*ends beyond its text of 2 characters: 'ab'"):
        credited(with_critic(marks(Span(1, 9, 1.0))), ids("ab"))


def test_a_wrong_number_of_answers_is_an_error() -> None:
    with pytest.raises(ValueError, match="the critic <lambda> returned 2 lists of spans for 1 episodes"):
        credited(with_critic(lambda episodes: [[], []]), ids("ab"))


@pytest.mark.parametrize("wrapper", [CriticReward, CriticTokenReward])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, r"the critic told returned None; for each episode a list of textenv\.Span"),
        ([Span(0, 1, 1.0)], r"the critic told returned \[Span\(start=0, end=1"),
        ([[(0, 1, 1.0)]], r"the critic told returned \(0, 1, 1\.0\) for episode 0 \(text 'ab'\); for each episode a list of"),
    ],
)
def test_a_critic_that_returns_no_spans_is_named(wrapper: Any, said: Any, message: str) -> None:
    def told(episodes: Sequence[Episode], /) -> Any:
        return said

    with pytest.raises(TypeError, match=message):
        credited(make(reward=lambda env: wrapper(env, told), payment="end"), ids("ab"))


def test_spans_may_be_yielded() -> None:
    def yields(episodes: Sequence[Episode], /) -> Any:
        for episode in episodes:
            yield (Span(i, i + 1, -1.0) for i, character in enumerate(episode.text) if character == "b")

    assert credited(with_critic(yields), ids("abb")).rewards.tolist() == [0.0, -0.5, -0.5]


def test_what_a_critic_raises_is_not_turned_into_zero() -> None:
    def broken(episodes: Sequence[Episode]) -> Any:
        raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError, match="the server is gone"):
        credited(with_critic(broken), ids("ab"))


def test_a_critic_that_is_neither_a_name_nor_callable_is_refused() -> None:
    with pytest.raises(TypeError, match="critic must be callable"):
        with_critic(5)


@pytest.mark.parametrize(("start", "end", "reward"), [(3, 3, 1.0), (4, 3, 1.0), (-1, 2, 1.0), (0, 1, float("nan"))])
def test_an_impossible_span_cannot_be_made(start: int, end: int, reward: float) -> None:
    with pytest.raises(ValueError, match="span"):
        Span(start, end, reward)


@pytest.mark.parametrize(("start", "end"), [(0.5, 1), (0, 1.0), ("0", 1), (np.float64(0), 1)])
def test_a_span_begins_and_ends_at_whole_numbers(start: Any, end: Any) -> None:
    assert Span(np.int64(0), np.int32(1)) == Span(0, 1)
    with pytest.raises(TypeError, match="a span's start and end are whole numbers, got start="):
        Span(start, end, 1.0)


def test_an_empty_text_is_credited_without_asking() -> None:
    critic = CountedCritic(marks())
    assert credited(with_critic(critic), []).rewards.tolist() == []
    assert critic.calls == 0
