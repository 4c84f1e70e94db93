"""Principles are drawn for a text, told to the reward model, and the same wherever the text is credited (related F7)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import worlds
from tests.worlds import constant_scorer, credited, ids, make, walk
from textenv.embedded import principles as embedded
from textenv.episode import Episode, Prompt
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.wrappers.principles import TEMPLATE, PrinciplesReward

FOUR = {"a": ("many a", "few a"), "b": ("many b", "few b"), "c": ("many c", "few c"), "d": ("many d", "few d")}


def votes(episodes: Sequence[Episode], principles: Sequence[Sequence[str]]) -> list[float]:
    """Adds up, for each principle, the letters that it asks for."""
    return [
        sum((1.0 if wish.startswith("many") else -1.0) * e.text.count(wish[-1]) for wish in said)
        for e, said in zip(episodes, principles, strict=True)
    ]


def principles(**options: Any) -> Any:
    arguments = {"model": votes, "principles": FOUR, **options}
    return make(reward=("principles", arguments), scorer=constant_scorer(0.5), payment="end")


def wrapper(env: Any) -> PrinciplesReward:
    while not isinstance(env, PrinciplesReward):
        env = env.env
    return env


def texts(n: int, prompt: str = "p") -> list[Episode]:
    env = make().unwrapped
    return [env.episode(Prompt(prompt), ids(f"{i:03d}", end=True)) for i in range(n)]


def test_the_verdict_takes_the_place_of_the_score_on_the_last_token() -> None:
    episode = credited(principles(k=4), ids("abca", end=True))
    assert episode.rewards.tolist() == [0, 0, 0, 0, 4.0]
    assert episode.score == 0.5
    assert credited(principles(k=4, mix=0.25), ids("abca", end=True)).rewards[-1] == pytest.approx(0.25 * 4 + 0.75 * 0.5)
    assert credited(principles(k=4, mix=0.0), ids("abca", end=True)).rewards[-1] == 0.5


def test_negating_every_principle_turns_the_verdict_around() -> None:
    for text in ("abca", "dd", ""):
        plain, negated = (credited(principles(k=4, negate=names), ids(text, end=True)).rewards.sum() for names in ((), tuple(FOUR)))
        assert negated == -plain


def test_k_are_drawn_without_replacement() -> None:
    reward = wrapper(principles(k=3))
    for drawn in map(reward.drawn, texts(200)):
        assert len(set(drawn)) == 3
        assert set(drawn) <= set(FOUR)


def test_they_are_drawn_in_proportion_to_their_weights() -> None:
    reward = wrapper(principles(k=1, weights={"a": 4.0, "b": 2.0, "d": 0.0}))
    counts = Counter(drawn for (drawn,) in map(reward.drawn, texts(1000)))
    assert counts["d"] == 0
    assert counts["a"] / 1000 == pytest.approx(4 / 7, abs=0.05)
    assert counts["b"] / 1000 == pytest.approx(2 / 7, abs=0.05)
    pairs = wrapper(principles(k=2, weights={"a": 4.0, "b": 2.0, "d": 0.0}))
    with_c = np.mean(["c" in pairs.drawn(e) for e in texts(1000)])
    assert with_c == pytest.approx(1 / 7 + 4 / 7 * 1 / 3 + 2 / 7 * 1 / 5, abs=0.05)  # sequential draws


def test_a_boost_makes_a_principle_near_certain_for_its_prompts() -> None:
    reward = wrapper(principles(k=1, boosts=lambda prompt: {"c": 500.0} if "maths" in prompt.text else {}))
    assert np.mean([reward.drawn(e) == ("c",) for e in texts(200, "a maths question")]) > 0.97
    assert np.mean([reward.drawn(e) == ("c",) for e in texts(200)]) < 0.5


def test_fixed_principles_are_always_among_them_and_never_drawn_twice() -> None:
    reward = wrapper(principles(k=2, fixed=["d"]))
    for drawn in map(reward.drawn, texts(50)):
        assert drawn[0] == "d"
        assert len(set(drawn)) == 3
    assert wrapper(principles(k=0, fixed=["d", "a"])).drawn(texts(1)[0]) == ("d", "a")


def test_the_same_seed_draws_the_same_principles_and_another_seed_others() -> None:
    first, again, other = (wrapper(principles(k=2, seed=seed)) for seed in (1, 1, 2))
    drawn = [[reward.drawn(e) for e in texts(50)] for reward in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_texts_of_a_prompt_are_judged_alike_or_each_by_its_own_draw() -> None:
    alike, apart = wrapper(principles(k=2, draw_by="prompt")), wrapper(principles(k=2))
    assert len({alike.drawn(e) for e in texts(50)}) == 1
    assert len({apart.drawn(e) for e in texts(50)}) > 5
    assert len({alike.drawn(texts(1, f"p{i}")[0]) for i in range(50)}) > 5


def test_stepping_draws_what_the_batch_draws() -> None:
    env = make(reward=("principles", {"model": votes, "principles": FOUR, "k": 2}), scorer=constant_scorer(0.5), prompts=["p: "])
    for text in ("abcd", "aabb", "dcc"):
        rewards, stepped = walk(env, ids(text, end=True))
        assert stepped is not None
        assert stepped.rewards.tobytes() == credited(env, ids(text, end=True)).rewards.tobytes()
        assert rewards[:-1] == [0.0] * len(text)


def test_an_unfinished_text_is_not_judged_and_a_batch_is_one_call() -> None:
    calls: list[int] = []

    def model(episodes: Sequence[Episode], said: Any) -> list[float]:
        calls.append(len(episodes))
        return votes(episodes, said)

    env = principles(model=model)
    make_episode = env.get_wrapper_attr("episode")
    tokens = (ids("ab"), ids("a", end=True), ids("b", end=True))
    credit = env.get_wrapper_attr("credit")([make_episode(Prompt("p"), chosen) for chosen in tokens])
    assert calls == [2]
    assert credit[0].rewards.tolist() == [0, 0]


def test_how_often_each_was_asked_for_is_logged() -> None:
    env = principles(k=2)
    for i in range(20):
        credited(env, ids(f"{i}", end=True))
    metrics = env.get_wrapper_attr("credit_metrics")()
    assert sum(metrics.values()) == 40
    assert set(metrics) == {f"credit/principle/{name}" for name in FOUR}
    assert not any(env.get_wrapper_attr("credit_metrics")().values())


def test_a_named_model_reads_principles_and_text_as_the_template_says(tmp_path: Path) -> None:
    name = str(worlds.saved(worlds.classifier("llama", ("bad", "good")), tmp_path / "rm"))
    template = "{context}|{prompt}|{text}|{principles}"
    env = principles(model=name, k=2, fixed=["b"], template=template)
    episode = credited(env, ids("abc", end=True))
    names = wrapper(env).drawn(episode)
    read = "|p: |abc|" + "; ".join(FOUR[n][0] for n in names)
    expected = SequenceClassifierScorer(name, label="good", output="logit").score_texts([read])
    assert episode.rewards[-1] == pytest.approx(expected[0], abs=1e-6)


def test_the_template_is_what_the_embedded_model_was_taught() -> None:
    wordings = [embedded.PRINCIPLES["civil"][0], embedded.PRINCIPLES["cheerful"][1]]
    assert TEMPLATE.format(principles="; ".join(wordings), text=" Fine.") == embedded.question(["civil", "not cheerful"]) + " Fine."


def test_by_default_one_of_few_principles_is_left_out_so_that_there_is_a_draw() -> None:
    reward = wrapper(make(reward=("principles", {"model": votes}), payment="end"))
    assert reward.principles == embedded.PRINCIPLES
    assert reward.k == len(embedded.PRINCIPLES) - 1
    assert wrapper(principles()).k == 3
    assert wrapper(principles(principles={"a": "many a"})).k == 1


def test_a_copy_of_its_arguments_holds_no_second_model(tmp_path: Path) -> None:
    reward = wrapper(principles(model=str(worlds.saved(worlds.classifier("llama", ("bad", "good")), tmp_path / "rm"))))
    assert copy.deepcopy(reward.model) is reward.model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 5}, "k=5 principles are drawn of 4"),
        ({"k": 0}, "at least one is read"),
        ({"fixed": ["e"]}, r"fixed: no principle \['e'\]; there are a, b, c, d"),
        ({"negate": ["e"]}, "negate: no principle"),
        ({"weights": {"e": 1.0}}, "weights: no principle"),
        ({"weights": {"a": -1.0}}, "finite and not below 0, got {'a': -1.0}"),
        ({"weights": dict.fromkeys("abc", 0.0), "k": 2}, r"only \['d'\] have a weight above 0"),
        ({"principles": {"a": "many a", "b": "b"}, "negate": ["a"]}, r"negate=\['a'\]: principles="),
        ({"mix": 2.0}, r"mix must lie in \[0, 1\], got 2.0"),
        ({"draw_by": "episode"}, 'draw_by must be "text" or "prompt"'),
        ({"model": "textenv/tiny-toxicity", "template": "{text}"}, "needs the fields {principles} and {text}"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        principles(**options)


def test_a_boost_of_nothing_known_is_refused_when_it_is_drawn() -> None:
    with pytest.raises(ValueError, match="boosts: no principle"):
        credited(principles(boosts=lambda prompt: {"e": 1.0}), ids("a", end=True))


def test_a_reward_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match="returned nan for episode 0"):
        credited(principles(model=lambda episodes, said: [float("nan")]), ids("a", end=True))
