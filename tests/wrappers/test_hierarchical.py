"""ALaRM: the gate, the sums, the places (the identities of alarm §7, by number)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import EOS, CountedCritic, constant_scorer, credited, ids, make, walk
from textenv.aspects import Aspect
from textenv.episode import Episode, Prompt, Span
from textenv.judges.statistics import distribution_of
from textenv.reward import NotApplicable
from textenv.segments import sentences
from textenv.wrappers import HierarchicalReward, WeightedSumReward

SIGMOID = {0.5: 0.6225, -0.5: 0.3775, 0.3: 0.5744, -0.3: 0.4256, 0.0: 0.5, -1.0: 0.2689}
TEXT = ids("ab. cd!", end=True)


def sentence_aspect(*values: float, name: str = "fact", **options: Any) -> Aspect:
    def judge(episodes: Sequence[Episode]) -> list[list[Span]]:
        return [[Span(*at, value) for at, value in zip(sentences(e.text), values, strict=False)] for e in episodes]

    return Aspect(name, judge, "sentence", **options)


FACT = sentence_aspect(0.5, -0.5)
WRONG = Aspect("grammar", lambda es: [[Span(1, 3, -1.0)] if len(e.text) > 2 else [] for e in es], "token")


def hierarchical(score: Any, aspects: Any = FACT, **options: Any) -> Any:
    scorer = score if callable(score) else constant_scorer(score)
    options = {"statistics": (0.0, 1.0), **options}
    return make(reward=("hierarchical", {"aspects": aspects, **options}), scorer=scorer, payment="end")


def weighted(score: float, aspects: Any = FACT, **options: Any) -> Any:
    options = {"statistics": (0.0, 1.0), **options}
    return make(reward=("weighted_sum", {"aspects": aspects, **options}), scorer=constant_scorer(score), payment="end")


def rewards(env: Any, tokens: list[int] = TEXT) -> list[float]:
    return [float(r) for r in credited(env, tokens).rewards]


def test_1_below_the_gate_is_the_holistic_reward_alone_and_at_the_gate_it_is_open() -> None:
    below, at, above = (rewards(hierarchical(score, gate=0.5)) for score in (0.5 - 1e-9, 0.5, 0.5 + 1e-9))
    assert below == [0, 0, 0, 0, 0, 0, 0, 0.5 - 1e-9]
    assert at == pytest.approx([0, 0, 0.6225, 0, 0, 0, 0.3775, 0.5], abs=1e-4)
    assert above[:-1] == at[:-1]


@given(h=st.floats(-3, 3), weight=st.floats(0, 4), w_h=st.floats(0, 4), gate=st.floats(-1, 1))
def test_2_the_return_is_what_the_formula_says(h: float, weight: float, w_h: float, gate: float) -> None:
    found = rewards(hierarchical(h, weights=weight, holistic_weight=w_h, gate=gate))
    squashed = sum(1 / (1 + math.exp(-a)) for a in (0.5, -0.5))
    assert sum(found) == pytest.approx(w_h * h + (weight * squashed if h >= gate else 0.0), abs=1e-9)


def test_3_the_return_rises_with_the_score_and_never_falls_at_the_gate() -> None:
    sweep = [sum(rewards(hierarchical(h, gate=0.5))) for h in np.linspace(-1, 2, 31)]
    assert all(np.diff(sweep) > 0)
    jump = sum(rewards(hierarchical(0.5))) - sum(rewards(hierarchical(np.nextafter(0.5, 0))))
    assert jump == pytest.approx(1.0)


@pytest.mark.parametrize("score", [-1.0, 0.4, 2.0])
def test_4_the_other_modes_are_settings_of_it_bit_for_bit(score: float) -> None:
    plain = [0.0] * (len(TEXT) - 1) + [score]
    shaped = [0.0] * len(TEXT)
    shaped[2], shaped[6] = (float(0.5 * (1.0 + np.tanh(a / 2))) for a in (0.5, -0.5))
    both = [a + b for a, b in zip(plain, shaped, strict=True)]
    assert rewards(hierarchical(score, gate=math.inf)) == plain  # holistic only
    assert rewards(hierarchical(score, gate=-math.inf)) == rewards(weighted(score)) == both
    assert rewards(weighted(score, holistic_weight=0)) == rewards(hierarchical(score, gate=-math.inf, holistic_weight=0)) == shaped


def test_5_without_weights_there_are_no_aspects_and_no_judge_is_asked() -> None:
    critic = CountedCritic(FACT.judge)
    silent = Aspect("silent", critic, "sentence")
    for env in (hierarchical(2.0, silent, weights=0), weighted(2.0, silent, weights=0)):
        assert rewards(env) == [0.0] * 7 + [2.0]
    assert critic.calls == 0


@pytest.mark.parametrize(("raw", "squashed"), SIGMOID.items())
def test_6_the_sigmoid_of_each_raw_value(raw: float, squashed: float) -> None:
    assert rewards(weighted(0.0, sentence_aspect(raw)))[2] == pytest.approx(squashed, abs=1e-4)
    assert rewards(weighted(0.0, sentence_aspect(raw), squash=None))[2] == raw


def test_6_no_raw_value_is_too_large_to_squash() -> None:
    assert rewards(weighted(0.0, sentence_aspect(-1e6, 1e6)))[2::4] == [0.0, 1.0]


def test_7_two_sentences_are_paid_at_their_last_tokens_and_the_score_at_the_last_of_all_however_long_the_neighbours() -> None:
    env = weighted(3.0)
    make_episode = env.get_wrapper_attr("episode")
    texts = ["ab. cd!", "a. b.", "a.", ""]
    episodes = [make_episode(Prompt("p"), ids(text, end=True)) for text in texts]
    for text, episode in zip(texts, env.get_wrapper_attr("credit")(episodes), strict=True):
        ends = [len(text[:end].rstrip()) - 1 for _, end in sentences(text)]
        assert np.flatnonzero(episode.rewards).tolist() == [*ends, len(text)]
        assert episode.rewards[-1] == 3.0


def test_8_the_neighbours_in_a_batch_do_not_matter() -> None:
    env = hierarchical(lambda es: [len(e) / 8 for e in es], [FACT, WRONG], gate=0.5)
    make_episode, credit = env.get_wrapper_attr("episode"), env.get_wrapper_attr("credit")
    episodes = [make_episode(Prompt("p"), ids(text, end=True)) for text in ("ab. cd!", "a", "abc.", "abcd efg. hi")]
    together = credit(episodes)
    assert [e.rewards.tobytes() for e in together] == [credit([e])[0].rewards.tobytes() for e in episodes]


def test_9_the_holistic_term_is_the_z_score() -> None:
    for score, h in ((-4.0, 0.0), (-1.0, 1.0), (2.0, 2.0)):
        assert rewards(hierarchical(score, statistics=(-4.0, 3.0), gate=math.inf))[-1] == h


def test_13_a_short_text_gets_minus_ten_weights_and_no_aspect_is_asked() -> None:
    critic = CountedCritic(FACT.judge)
    env = hierarchical(9.0, Aspect("fact", critic, "sentence"), short_tokens=2, holistic_weight=5.0)
    assert rewards(env, ids("a", end=True)) == [0.0, -50.0]
    assert rewards(env, [EOS]) == [-50.0]
    assert critic.calls == 0
    assert rewards(env, ids("ab", end=True))[-1] == 45.0
    assert critic.calls == 1


def test_14_grammar_pays_every_token_so_that_length_pays() -> None:
    for text in ("abcd", "abcdefgh"):
        tokens = ids(text, end=True)
        found = rewards(weighted(0.0, WRONG), tokens)
        assert sum(found) == pytest.approx(0.5 * (len(tokens) - 2) + 0.2689 * 2, abs=1e-3)
    even = [sum(rewards(weighted(0.0, WRONG, normalise="per_position"), ids(text, end=True))) for text in ("abcd", "abcdefgh")]
    assert even == pytest.approx([0.5 - 0.2311 * 2 / 5, 0.5 - 0.2311 * 2 / 9], abs=1e-3)


# --- What the formulas leave open --------------------------------------------------------------------------------------


def test_an_aspect_of_which_lower_is_better_is_turned_around() -> None:
    errors = sentence_aspect(0.5, name="errors", lower_is_better=True)
    assert rewards(weighted(0.0, errors))[2] == pytest.approx(SIGMOID[-0.5], abs=1e-4)


def test_the_credit_of_wrappers_inside_stays_and_the_score_in_the_episode_too() -> None:
    inside = ("critic_span", {"critic": lambda es: [[Span(0, 1, 1.0)] for _ in es], "positive": 0.25})
    env = make(reward=[inside, ("hierarchical", {"aspects": FACT, "statistics": (1.0, 2.0), "gate": math.inf})],
               scorer=constant_scorer(0.3), payment="end")  # fmt: skip
    episode = credited(env, TEXT)
    assert episode.rewards.tolist() == [0.25, 0, 0, 0, 0, 0, 0, (0.3 - 1.0) / 2.0]
    assert episode.score == 0.3


def test_an_unfinished_text_has_its_credit_so_far_and_without_a_gate_its_settled_aspects() -> None:
    so_far = ids("ab. cd")
    assert rewards(hierarchical(9.0, gate=-5.0), so_far) == [0.0] * 6
    assert rewards(weighted(9.0), so_far) == pytest.approx([0, 0, 0.6225, 0, 0, 0], abs=1e-4)
    assert rewards(weighted(9.0), ids("ab. cd."))[6] == pytest.approx(0.3775, abs=1e-4)
    assert rewards(hierarchical(9.0), []) == rewards(weighted(9.0), []) == []


def test_one_judge_call_for_all_texts_whose_gate_is_open() -> None:
    critic = CountedCritic(FACT.judge)
    env = hierarchical(lambda es: [float(len(e.text)) for e in es], Aspect("fact", critic, "sentence"), gate=3.0)
    make_episode = env.get_wrapper_attr("episode")
    env.get_wrapper_attr("credit")([make_episode(Prompt("p"), ids(text, end=True)) for text in ("ab", "abc", "abcd")])
    assert (critic.calls, critic.texts) == (1, ["abc", "abcd"])


def test_the_share_of_open_gates_and_what_aspects_paid_are_told_once() -> None:
    env = hierarchical(lambda es: [float(len(e.text)) for e in es], gate=5.0)
    for text in ("ab.", "ab. cd!"):
        credited(env, ids(text, end=True))
    metrics = env.get_wrapper_attr("credit_metrics")()
    assert metrics == pytest.approx({"credit/gate_open": 0.5, "credit/aspect/fact": 0.5})
    assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}


def test_length_is_paid_over_the_mean_of_the_initial_policy_and_not_squashed(tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"mean": 0.0, "sd": 1.0, "aspects": {"length": {"mean": 4.0, "sd": 1.0, "n": 9}}}))
    for text, paid in (("ab.", 1.0), ("ab. cd!", 2.0)):
        found = rewards(weighted(0.0, "length", statistics=file), ids(text, end=True))
        assert found == [0.0] * len(text) + [paid]
        assert rewards(hierarchical(0.5, "length", statistics=str(file)), ids(text, end=True))[-1] == 0.5 + paid


@pytest.mark.parametrize("aspects", [{}, {"length": {"mean": None, "sd": None, "n": 0}}, {"fluency": {"mean": 2.0}}])
def test_length_is_paid_over_the_budget_where_its_mean_was_not_measured(tmp_path: Path, aspects: dict[str, Any]) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"mean": 0.0, "sd": 1.0, "aspects": aspects}))
    env = weighted(0.0, "length", statistics=file)
    budget = env.get_wrapper_attr("action_rule").max_new_tokens
    assert rewards(env)[-1] == rewards(weighted(0.0, "length"))[-1] == len(TEXT) / budget


def test_an_aspect_says_itself_whether_it_is_squashed_and_by_what_it_is_divided() -> None:
    assert rewards(weighted(0.0, sentence_aspect(3.0, squash=False)))[2] == 3.0
    assert rewards(weighted(0.0, sentence_aspect(3.0, squash=False, scale=1.5)))[2] == 2.0
    assert rewards(weighted(0.0, sentence_aspect(1.0, scale=2.0)))[2] == pytest.approx(SIGMOID[0.5], abs=1e-4)
    for scale in (0.0, -1.0, math.inf, math.nan, "median"):
        with pytest.raises(ValueError, match='scale is a positive number or "mean"'):
            sentence_aspect(1.0, scale=scale)


@pytest.mark.parametrize("aspects", ["length", [], {"length": 4.0}, {"length": {"mean": "long"}}])
def test_a_file_whose_aspects_are_none_is_refused(tmp_path: Path, aspects: Any) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"mean": 0.0, "sd": 1.0, "aspects": aspects}))
    with pytest.raises(ValueError, match=r"statistics.json is not what textenv calibrate writes"):
        weighted(0.0, "length", statistics=file)


def test_a_mean_that_cannot_divide_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"mean": 0.0, "sd": 1.0, "aspects": {"fact": {"mean": -1.0}}}))
    with pytest.raises(ValueError, match=r"the aspect 'fact' is divided by its mean, -1.0"):
        weighted(0.0, sentence_aspect(1.0, scale="mean"), statistics=file)


# --- A gate at a quantile, and values drawn at random (alarm §8) -------------------------------------------------------

SCORES = [0.0] * 30 + [0.2] * 30 + [0.9] * 40


def measured_file(tmp_path: Path, values: Sequence[float] = (), name: str = "fact") -> str:
    """What textenv calibrate would have written about these scores and values."""
    file = tmp_path / "statistics.json"
    aspects = {name: {"mean": float(np.mean(values)), "distribution": distribution_of(values)}} if len(values) else {}
    mean, sd = float(np.mean(SCORES)), float(np.std(SCORES))
    file.write_text(json.dumps({"mean": mean, "sd": sd, "distribution": distribution_of(SCORES), "aspects": aspects}))
    return str(file)


@pytest.mark.parametrize(("q", "open_share"), [(0.0, 1.0), (0.3, 1.0), (0.31, 0.7), (0.6, 0.7), (0.7, 0.4), (1.0, 0.4)])
def test_a_gate_at_a_quantile_is_open_for_the_texts_of_the_initial_policy_that_reach_it(
    tmp_path: Path, q: float, open_share: float
) -> None:
    opened = 0
    for score in (0.0, 0.2, 0.9):
        env = hierarchical(score, statistics=measured_file(tmp_path), gate_quantile=q)
        credited(env, TEXT)
        opened += SCORES.count(score) * int(env.get_wrapper_attr("credit_metrics")()["credit/gate_open"])
    assert opened / len(SCORES) == open_share


def test_a_quantile_is_of_a_file_and_there_is_one_gate(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=r"gate_quantile=0\.5 is a quantile of what was seen on texts .* statistics=FILE"):
        hierarchical(0.5, gate_quantile=0.5)
    with pytest.raises(ValueError, match=r"gate=0\.6 and gate_quantile=0\.5 are two gates"):
        hierarchical(0.5, gate=0.6, gate_quantile=0.5, statistics=measured_file(tmp_path))
    with pytest.raises(ValueError, match=r"a quantile lies in 0\.\.1, got 2"):
        hierarchical(0.5, gate_quantile=2, statistics=measured_file(tmp_path))


@pytest.mark.parametrize("make_env", [hierarchical, weighted])
def test_random_values_stand_where_the_aspect_judges_and_have_its_distribution(tmp_path: Path, make_env: Any) -> None:
    seen = [0.5] * 3 + [-0.5]
    file = measured_file(tmp_path, seen)
    found = []
    for seed in range(300):
        paid = rewards(make_env(2.0, statistics=file, squash=None, values="random", seed=seed))
        assert [paid[i] for i in (0, 1, 3, 4, 5)] == [0.0] * 5
        found += [paid[2], paid[6]]
    assert set(found) == {0.5, -0.5}
    assert np.mean(found) == pytest.approx(np.mean(seen), abs=4 * np.std(seen) / np.sqrt(600))


def test_random_values_are_drawn_by_seed_and_text_whatever_the_text_says(tmp_path: Path) -> None:
    file = measured_file(tmp_path, np.linspace(-1, 1, 50))
    options = {"statistics": file, "squash": None, "values": "random"}
    judged_so, judged_otherwise = sentence_aspect(0.5, -0.5), sentence_aspect(-0.5, 0.5)
    found = rewards(weighted(2.0, judged_so, **options))
    assert found == rewards(weighted(2.0, judged_otherwise, **options))
    assert found != rewards(weighted(2.0, judged_so, **options, seed=1))
    env = weighted(2.0, judged_so, **options)
    _, stepped = walk(env, TEXT, options={"prompt": Prompt("p: ")})
    assert stepped is not None
    assert stepped.rewards.tolist() == found


def test_two_random_aspects_are_drawn_apart(tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    record = {"mean": 0.0, "distribution": distribution_of(np.linspace(-1, 1, 50))}
    file.write_text(json.dumps({"mean": 0.0, "sd": 1.0, "aspects": {"fact": record, "tone": record}}))
    options = {"statistics": str(file), "squash": None, "values": "random"}
    both = [FACT, sentence_aspect(0.5, -0.5, name="tone")]
    first, second = (rewards(weighted(0.0, both, weights=weights, **options)) for weights in ([1.0, 0.0], [0.0, 1.0]))
    assert first[2] != second[2]


def test_random_values_need_a_file_that_tells_what_was_seen(tmp_path: Path) -> None:
    with pytest.raises(
        NotApplicable, match='values="random" draws what was seen on texts of the initial policy: pass statistics=FILE'
    ):
        hierarchical(0.5, values="random")
    with pytest.raises(ValueError, match="does not tell the distribution of the aspect 'fact'"):
        hierarchical(0.5, values="random", statistics=measured_file(tmp_path))
    with pytest.raises(ValueError, match='values must be "judged" or "random", and seed not negative'):
        hierarchical(0.5, values="guessed")


# --- Where the numbers come from ---------------------------------------------------------------------------------------


def test_by_default_the_first_aspect_is_paid_by_the_gate_and_all_of_the_tasks_own_without_it() -> None:
    env = make()
    task = env.get_wrapper_attr("task")
    own = {"fact": FACT, "grammar": WRONG, **task.aspects}
    type(task).aspects, before = property(lambda self: own), type(task).aspects  # type: ignore[assignment,method-assign]
    try:
        assert [a.name for a in HierarchicalReward(env).aspects] == ["fact"]
        assert [a.name for a in WeightedSumReward(env).aspects] == ["fact", "grammar"]
    finally:
        type(task).aspects = before  # type: ignore[method-assign]


def test_the_tasks_weight_and_gate_are_the_defaults() -> None:
    reward = HierarchicalReward(make())
    assert (reward.holistic_weight, reward.gate) == (1.0, 0.5)


def test_statistics_may_be_a_file_that_calibrate_wrote(tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"mean": 1.0, "sd": 4.0}))
    assert rewards(hierarchical(3.0, statistics=file, gate=math.inf))[-1] == 0.5
    assert rewards(hierarchical(3.0, statistics=str(file), gate=math.inf))[-1] == 0.5


def test_a_scorer_of_ones_own_needs_its_statistics_measured() -> None:
    with pytest.raises(NotApplicable, match=r"HierarchicalReward needs the mean and .* CountLetter: pass statistics=.*calibrate"):
        make(reward="hierarchical", scorer=constant_scorer(1.0))
    make(reward=("weighted_sum", {"holistic_weight": 0}), scorer=constant_scorer(1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"squash": "tanh"}, "squash must be \"sigmoid\" or None, got 'tanh'"),
        ({"normalise": "length"}, 'normalise must be "per_position" or None'),
        ({"gate": math.nan}, "gate must be a number"),
        ({"holistic_weight": math.inf}, "holistic_weight must be finite, got inf"),
        ({"aspects": "beauty"}, "no aspect 'beauty'; the task's are sentence_score, fluency, length"),
        ({"weights": [1.0, 2.0]}, r"weights=\[1.0, 2.0\] for the aspects \['fact'\]"),
        ({"statistics": (0.0, 0.0)}, "standard deviation positive"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hierarchical(1.0, **options)


def test_another_kind_of_environment_is_refused() -> None:
    import gymnasium as gym

    with pytest.raises(TypeError, match="HierarchicalReward wraps text environments"):
        HierarchicalReward(gym.make("CartPole-v1"))
