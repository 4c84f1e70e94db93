"""What makes a z-score of a score, and when it is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import textenv
from tests import worlds
from tests.worlds import make
from textenv.judges import statistics
from textenv.judges.statistics import (
    DISTINCT,
    aspect_distributions,
    checked_statistics,
    distribution_of,
    quantile,
    read_statistics,
    same_scorer,
    score_distribution,
)


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded file of this test's own."""
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"Detox": {"mean": 0.7, "sd": 0.2}, "Sentiment": {"mean": 0.6, "sd": 0.3}}))
    monkeypatch.setattr(statistics, "EMBEDDED", file)
    return file


def task(environment: str, **arguments: Any) -> Any:
    return gym.make(environment, **arguments).get_wrapper_attr("task")


def test_the_default_score_has_statistics(embedded: Path) -> None:
    assert task("textenv/Detox-v0").score_statistics == (0.7, 0.2)


def test_another_scorer_has_none(embedded: Path, classifier_directory: Path) -> None:
    assert task("textenv/Detox-v0", scorer=worlds.constant_scorer(1.0)).score_statistics is None
    assert task("textenv/Detox-v0", scorer=str(classifier_directory)).score_statistics is None


def test_a_negative_target_turns_them_around(embedded: Path) -> None:
    assert task("textenv/Sentiment-v0", target="negative").score_statistics == pytest.approx((0.4, 0.3))


def test_a_task_that_the_file_does_not_name_has_none(embedded: Path) -> None:
    embedded.write_text("{}")
    assert task("textenv/Detox-v0").score_statistics is None


def test_uniform_bytes_have_binomial_statistics() -> None:
    env = make(max_new_tokens=10).unwrapped
    mean, sd = env.task.score_statistics
    rng = worlds.np.random.default_rng(0)
    scores = (rng.integers(0, 259, (40_000, 10)) == ord("a")).mean(1)
    assert mean == pytest.approx(scores.mean(), rel=0.05)
    assert sd == pytest.approx(scores.std(), rel=0.05)


def test_a_file_of_calibrate_is_read(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text('{"mean": 1, "sd": 2.5, "n": 512}')
    assert read_statistics(file) == (1.0, 2.5)


@pytest.mark.parametrize("content", ["{", "[]", '{"mean": 1}', '{"mean": "x", "sd": 1}', '{"mean": 1, "sd": 0}'])
def test_a_broken_file_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"s\.json"):
        read_statistics(file)


def test_a_missing_file_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="textenv calibrate ENV_ID"):
        read_statistics(tmp_path / "none.json")


@pytest.mark.parametrize("numbers", [(1.0, 0.0), (1.0, -1.0), (math.nan, 1.0), (1.0,), "ab"])
def test_numbers_that_make_no_z_score_are_refused(numbers: Any) -> None:
    with pytest.raises(ValueError, match=r"statistics: .*standard deviation"):
        checked_statistics(numbers)


def test_scorers_are_the_same_by_type_and_settings() -> None:
    toxicity = textenv.SequenceClassifierScorer("textenv/tiny-toxicity", label="toxic")
    assert same_scorer(toxicity, textenv.SequenceClassifierScorer("textenv/tiny-toxicity", label="toxic"))
    assert not same_scorer(toxicity, textenv.SequenceClassifierScorer("textenv/tiny-toxicity", label="toxic", complement=True))
    assert not same_scorer(toxicity, textenv.SequenceClassifierScorer("textenv/tiny-sentiment", label="positive"))
    assert not same_scorer(lambda episodes: [], lambda episodes: [])


# --- Distributions -----------------------------------------------------------------------------------------------------


def test_few_values_are_counted_and_many_become_quantiles() -> None:
    assert distribution_of([0.5, -0.5, 0.5]) == [(-0.5, 1), (0.5, 2)]
    many = worlds.np.random.default_rng(0).normal(size=5000)
    found = distribution_of(many)
    assert sum(count for _, count in found) == DISTINCT == len(found)
    for q in (0.1, 0.5, 0.9):
        assert quantile(found, q) == pytest.approx(worlds.np.quantile(many, q), abs=0.05)


@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.75, 1.0])
def test_at_least_one_minus_q_of_all_reach_the_quantile_and_at_least_q_do_not_exceed_it(q: float) -> None:
    values = worlds.np.random.default_rng(0).choice([0.0, 0.1, 0.9, 1.0], 57)
    at = quantile(distribution_of(values), q)
    assert (values >= at).mean() >= 1 - q
    assert (values <= at).mean() >= q


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_a_quantile_beyond_all_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match=r"a quantile lies in 0\.\.1"):
        quantile([(0.0, 1)], q)


@pytest.mark.parametrize(
    "record", [{}, {"distribution": None}, {"distribution": []}, {"distribution": [[1.0]]}, {"distribution": [[1.0, 0]]}]
)
def test_a_file_that_tells_no_distribution_is_refused(tmp_path: Path, record: Any) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"mean": 0.0, "sd": 1.0, "aspects": {"fact": {"mean": 0.0, **record}}, **record}))
    with pytest.raises(ValueError, match="does not tell the distribution of the score; textenv calibrate writes a file that does"):
        score_distribution(file)
    with pytest.raises(ValueError, match="does not tell the distribution of the aspect 'fact'"):
        aspect_distributions(file, ["fact"])
