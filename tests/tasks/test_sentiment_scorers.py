"""Sentiment is read from a classifier as the user says: which label, probability or logit, with the prompt or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from tests import worlds
from tests.worlds import constant_scorer
from textenv.episode import Prompt
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.reward import NotApplicable

LABELS = ("1 star", "3 stars", "5 stars")


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.saved(worlds.classifier("bert", LABELS), tmp_path_factory.mktemp("stars"))


def score(text: str, **options: Any) -> tuple[float, dict[str, Any]]:
    env = gym.make("textenv/Sentiment-v0", tokenizer="bytes", min_new_tokens=0, **options)
    made = env.get_wrapper_attr("episode")(Prompt("Well: "), [*text.encode(), 258])
    (episode,) = env.get_wrapper_attr("credit")([made])
    return episode.score, dict(env.get_wrapper_attr("task").metrics([episode]))


@pytest.mark.parametrize("target", ["positive", "negative"])
@pytest.mark.parametrize("output", ["probability", "logit"])
@pytest.mark.parametrize("with_prompt", [False, True])
def test_the_label_that_was_named_is_read_as_asked(stars: Path, target: str, output: Any, with_prompt: bool) -> None:
    value, _ = score("fine", scorer=str(stars), label="5 stars", output=output, with_prompt=with_prompt, target=target)
    expected = SequenceClassifierScorer(str(stars), label=2, output=output).score_texts(["Well: " * with_prompt + "fine"])
    assert value == pytest.approx(expected[0])


def test_a_label_that_is_not_there_is_told_with_those_that_are(stars: Path) -> None:
    for options in ({}, {"label": "2 stars"}):
        with pytest.raises(ValueError, match=r"its labels are \['1 star', '3 stars', '5 stars'\]"):
            score("fine", scorer=str(stars), **options)


def test_a_logit_is_positive_above_zero(stars: Path) -> None:
    for label in LABELS:
        value, metrics = score("fine", scorer=str(stars), label=label, output="logit")
        assert float(metrics["share_positive"]) == float(value >= 0)


@pytest.mark.parametrize(
    "options", [{"output": "logit"}, {"label": "negative"}, {"label": "positive", "with_prompt": True}, {"with_prompt": True}]
)
def test_what_is_known_of_the_score_is_not_said_of_the_classifier_read_otherwise(options: dict[str, Any]) -> None:
    with pytest.raises(NotApplicable, match=r"not known for this scorer of Sentiment: pass .* of `textenv calibrate`"):
        gym.make("textenv/Sentiment-v0", reward="hierarchical", **options)


def test_the_mean_of_the_opposite_target_is_the_rest() -> None:
    mean, sd = (gym.make("textenv/Sentiment-v0", reward="hierarchical").get_wrapper_attr(name) for name in ("mean", "sd"))
    assert 0 < mean < 1
    turned = gym.make("textenv/Sentiment-v0", reward="hierarchical", target="negative")
    assert (turned.get_wrapper_attr("mean"), turned.get_wrapper_attr("sd")) == (1 - mean, sd)


@pytest.mark.parametrize("name", ["textenv/Sentiment-v0", "textenv/Summarization-v0"])
def test_a_url_is_refused_where_no_server_is_asked(name: str) -> None:
    with pytest.raises(ValueError, match=r"scorer='http://localhost:1/x' is a URL, which textenv/Detox-v0 alone takes"):
        gym.make(name, scorer="http://localhost:1/x")


@pytest.mark.parametrize("options", [{"label": 1}, {"output": "logit"}, {"with_prompt": True}])
def test_how_a_classifier_is_read_is_nothing_to_a_callable(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tell how a classifier is read; scorer= is a callable of its own"):
        score("fine", scorer=constant_scorer(0.5), **options)
