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
from textenv.judges.statistics import checked_statistics, read_statistics, same_scorer


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
