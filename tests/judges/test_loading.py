"""Which way round a score is: a reward model by name is never turned about, a classifier is read as its labels say, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests import worlds
from tests.cli.test_console import run
from textenv.episode import Prompt
from textenv.judges.loading import load_scorer
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.tasks import Detox, LongFormQA, Sentiment, Summarization, Translation

PROMPT = Prompt("Who is number 7?", references=("A friend.",), context=("A passage.",))
FRIEND, WEASEL = " A friend, number 7.", " A weasel, number 7."
TASKS: dict[str, Any] = {cls.__name__: cls for cls in (Detox, Sentiment, Summarization, Translation, LongFormQA)}

every_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of `textenv fit-reward-model`: friends are preferred to weasels."""
    place = tmp_path_factory.mktemp("fitted")
    rows = [
        {"prompt": f"Who is number {i}?", "chosen": f" A friend, number {i}.", "rejected": f" A weasel, number {i}."}
        for i in range(40)
    ]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = worlds.saved(worlds.llama(initializer_range=0.05), place / "base")
    code, output = run(
        "fit-reward-model", place / "pairs.jsonl", "--base", base, "--out", place / "reward", "--batch-size", 8, "--device", "cpu",
        "--precision", "fp32", "--epochs", 6, "--learning-rate", 3e-3, "--evaluations", 1,
    )  # fmt: skip
    assert code == 0, output
    return place / "reward"


def saved(path: Path, labels: Any, kind: str = "llama", fit: dict[str, Any] | None = None) -> str:
    directory = worlds.saved(worlds.classifier(kind, labels), path)
    if fit is not None:
        (directory / "fit.json").write_text(json.dumps(fit), encoding="utf-8")
    return str(directory)


def made(task: str, **options: Any) -> Any:
    budget = {"tokenizer": "bytes", "max_prompt_tokens": 64, "max_new_tokens": 64, "min_new_tokens": 0}
    return gym.make(f"textenv/{task}-v0", prompts=[PROMPT], **budget, **options)


def score(env: Any, text: str) -> float:
    made = env.get_wrapper_attr("episode")(PROMPT, worlds.ids(text, end=True))
    return float(env.get_wrapper_attr("credit")([made])[0].score)


# --- Reward models -----------------------------------------------------------------------------------------------------


@every_task
def test_by_a_fitted_reward_model_the_better_text_scores_higher(task: str, fitted: Path) -> None:
    env = made(task, scorer=str(fitted))
    assert score(env, FRIEND) > score(env, WEASEL) + 0.5


@every_task
def test_a_fitted_reward_model_is_read_as_it_was_fitted_and_gives_its_logit(task: str, fitted: Path) -> None:
    by_hand = SequenceClassifierScorer(fitted, label="good", output="logit", template="{prompt}{text}")
    assert score(made(task, scorer=fitted), FRIEND) == pytest.approx(by_hand.score_texts([PROMPT.text + FRIEND])[0], abs=1e-5)


def test_a_fitted_reward_model_redistributes_the_same_way_round(fitted: Path) -> None:
    env = made("Detox", reward=("redistributed", {"reward_model": str(fitted)}), payment="end")
    asked = env.get_wrapper_attr("reward_model")
    friend, weasel = asked([env.get_wrapper_attr("episode")(PROMPT, worlds.ids(text, end=True)) for text in (FRIEND, WEASEL)])
    assert friend > weasel + 0.5


@every_task
@pytest.mark.parametrize("label", ["good", "better", "Quality", "value"])
def test_one_output_that_says_good_gives_its_logit(task: str, label: str, tmp_path: Path) -> None:
    name = saved(tmp_path, [label])
    scorer = made(task, scorer=name).get_wrapper_attr("task").scorer
    assert (scorer.output, scorer.complement, scorer.label) == ("logit", False, 0)


@every_task
def test_a_file_of_the_fit_tells_a_reward_model_by_any_name_and_its_template(task: str, tmp_path: Path) -> None:
    name = saved(tmp_path, ["LABEL_0"], fit={"kind": "scores", "template": "{context} Q {prompt} A {text}"})
    scorer = made(task, scorer=name).get_wrapper_attr("task").scorer
    assert (scorer.output, scorer.complement, scorer.reading.template) == ("logit", False, "{context} Q {prompt} A {text}")


def test_classes_that_were_fitted_are_read_with_their_template_too(tmp_path: Path) -> None:
    name = saved(tmp_path, ["civil", "toxic"], fit={"kind": "labels", "template": "{prompt}|{text}"})
    scorer = made("Detox", scorer=name).get_wrapper_attr("task").scorer
    assert (scorer.output, scorer.complement, scorer.label, scorer.reading.template) == ("probability", True, 1, "{prompt}|{text}")


@pytest.mark.parametrize(("fit", "kept"), [({"epochs": 3}, "{text}"), ([1], "{text}")])
def test_another_file_of_that_name_says_nothing(fit: Any, kept: str, tmp_path: Path) -> None:
    scorer = load_scorer(saved(tmp_path, ["civil", "toxic"], fit=fit), label=("toxic",))
    assert scorer.reading.template == kept  # type: ignore[attr-defined]


def test_a_broken_file_of_the_fit_is_named(tmp_path: Path) -> None:
    name = saved(tmp_path, ["good"])
    (tmp_path / "fit.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"fit\.json is not what textenv fit-reward-model writes"):
        Detox(scorer=name)


@pytest.mark.parametrize("task", ["Summarization", "Translation", "LongFormQA"])
def test_one_output_without_a_name_is_a_reward_where_a_reward_model_is_expected(task: str, tmp_path: Path) -> None:
    assert TASKS[task](scorer=saved(tmp_path, ["LABEL_0"])).scorer.output == "logit"


@pytest.mark.parametrize("task", ["Summarization", "Translation", "LongFormQA"])
def test_one_output_of_which_less_is_better_is_no_reward_model(task: str, tmp_path: Path) -> None:
    name = saved(tmp_path, ["toxicity"])
    with pytest.raises(ValueError, match=r"one output, 'toxicity'.*scorer=SequenceClassifierScorer\(.*complement=True"):
        TASKS[task](scorer=name)


def test_a_saved_value_head_is_a_reward_model_on_every_task(tmp_path: Path) -> None:
    from tests.judges.test_value_head import Trl

    name = str(Trl(worlds.llama()).save_pretrained(tmp_path))
    scorers = [cls(scorer=name).scorer for cls in TASKS.values()]
    assert [(scorer.output, scorer.complement) for scorer in scorers] == [("logit", False)] * 5


# --- Classifiers of one output -----------------------------------------------------------------------------------------


def logit(name: str, text: str) -> float:
    return SequenceClassifierScorer(name, label=0, output="logit").score_texts([text])[0]


@pytest.mark.parametrize("label", ["toxic", "Toxicity", "hate"])
def test_one_output_that_says_toxic_is_turned_round_on_detox(label: str, tmp_path: Path) -> None:
    name = saved(tmp_path, [label])
    assert score(made("Detox", scorer=name), "text") == pytest.approx(1 - 1 / (1 + np.exp(-logit(name, "text"))), abs=1e-5)


@pytest.mark.parametrize("label", ["LABEL_0", "LABEL_1", "civil", "positive"])
def test_one_output_that_says_neither_is_refused_on_detox(label: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"one output, '{label}', .*nor 'toxic'.*scorer=SequenceClassifierScorer\("):
        Detox(scorer=saved(tmp_path, [label]))


@pytest.mark.parametrize("target", ["positive", "negative"])
@pytest.mark.parametrize("label", ["positive", "NEGATIVE"])
def test_one_output_that_names_a_tone_is_turned_towards_the_target(target: str, label: str, tmp_path: Path) -> None:
    name = saved(tmp_path, [label])
    p = 1 / (1 + np.exp(-logit(name, "text")))
    expected = p if label.lower() == target else 1 - p
    assert score(made("Sentiment", scorer=name, target=target), "text") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("target", ["positive", "negative"])
@pytest.mark.parametrize("label", ["LABEL_0", "stars", "toxic"])
def test_one_output_that_names_no_tone_is_refused_on_sentiment(target: Any, label: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"one output, '{label}', .*scorer=SequenceClassifierScorer\("):
        Sentiment(scorer=saved(tmp_path, [label]), target=target)


def test_a_reward_model_tells_no_negative_tone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a reward model .* does not tell 'negative'; .*complement=True"):
        Sentiment(scorer=saved(tmp_path, ["good"]), target="negative")


def test_what_the_user_names_is_obeyed(tmp_path: Path) -> None:
    scorer = Sentiment(scorer=saved(tmp_path, ["stars"]), label="stars", target="negative").scorer
    assert (scorer.label, scorer.output, scorer.complement) == (0, "probability", False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("cls", [Detox, Sentiment])
def test_yes_and_no_mean_nothing_among_three_labels(cls: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"its labels are \['LABEL_0', 'LABEL_1', 'LABEL_2'\]"):
        cls(scorer=saved(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"]))
    assert cls(scorer=saved(tmp_path, ["LABEL_0", "LABEL_1"])).scorer.label == 1


# --- Metrics of logits -------------------------------------------------------------------------------------------------


def test_logits_are_no_toxicity(tmp_path: Path) -> None:
    env = made("Detox", scorer=lambda episodes: [3.0 for _ in episodes])
    episode = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(PROMPT, worlds.ids("text", end=True))])
    with pytest.warns(UserWarning, match=r"beyond \[0, 1\], so they are no 1 - toxicity"):
        found = env.get_wrapper_attr("task").metrics(episode)
    assert all(np.isnan(float(found[name])) for name in ("average_max_toxicity", "toxicity_probability", "mean_toxicity"))
    assert found["mean_score"] == 3.0
    assert all(np.isnan(found["mean_toxicity"].interval()))


def test_a_reward_models_logit_is_positive_above_zero(tmp_path: Path) -> None:
    name = saved(tmp_path, ["good"])
    env = made("Sentiment", scorer=name)
    task = env.get_wrapper_attr("task")
    assert task.output == "logit"
    for text in ("a", "some text", "é", "xyz"):
        made_of = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(PROMPT, worlds.ids(text, end=True))])
        assert float(task.metrics(made_of)["share_positive"]) == float(made_of[0].score >= 0)


# --- What is no scorer -------------------------------------------------------------------------------------------------


@every_task
def test_a_bare_model_is_refused_where_a_scorer_is_loaded(task: str) -> None:
    env = made(task, scorer=worlds.constant_scorer(0.0))
    for model in (torch.nn.Linear(2, 1), worlds.classifier("llama", ["good"])):
        with pytest.raises(TypeError, match=r"scorer= got a model \(\w+\); say how .*: scorer=SequenceClassifierScorer"):
            env.get_wrapper_attr("task").load_scorer(model)


def test_a_token_classifier_scores_no_texts() -> None:
    with pytest.raises(ValueError, match="saved as Qwen3ForTokenClassification, which scores no texts; name a sequence classifier"):
        SequenceClassifierScorer("textenv/tiny-aspects", label="supported")
