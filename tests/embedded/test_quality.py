"""The shipped models are as good as the README says, on texts that they were not trained on."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from textenv import embedded
from textenv.data.labelled import area_under_curve
from textenv.embedded import grammar, judge_quality, policy_quality, quality, truth
from textenv.embedded.material import GENRE
from textenv.embedded.measures import BARS, Measure, table
from textenv.embedded.sampling import continuations

MODELS = Path(embedded.__file__).parent / "models"
SCORER = {"insults": "tiny-toxicity", "sentiment": "tiny-sentiment"}


# Bars that are missed, as the README says. A model that reaches one is to be taken off this list.
KNOWN_MISSES = {
    ("tiny-aspects", "aspect accuracy"),  # of translations, and by little of long answers
    ("tiny-critic-answers", "span F1, answers"),
    ("tiny", "answers that end"),  # .948 of summaries and of translations
    ("tiny-preferred", "above the model it was made of"),  # translations
}


def missed(measures: list[Measure]) -> list[str]:
    return [table([m]) for m in measures if not m.reached and (m.model, m.bar) not in KNOWN_MISSES]


def openings(task: str) -> list[str]:
    return [prompt.text for prompt in embedded.prompts(GENRE[task], "test")]


@pytest.mark.slow
def test_the_language_model_is_close_to_the_grammar() -> None:
    model, tokenizer = quality.load(MODELS, "tiny")
    assert not missed(quality.language_model_quality(model, tokenizer, seed=1, documents=300))


@pytest.mark.parametrize("task", ["insults", "sentiment"])
@pytest.mark.parametrize("length", [28, 72])
def test_the_scorers_agree_with_the_truth_on_cut_documents(task: str, length: int) -> None:
    model, tokenizer = quality.load(MODELS, SCORER[task])
    texts = quality.cut_documents(tokenizer, GENRE[task], length, 200, seed=1)
    assert not missed(quality.scorer_quality(model, tokenizer, task, texts, "cut"))


@pytest.mark.parametrize("task", ["insults", "sentiment"])
def test_the_scorers_agree_with_the_truth_on_samples_of_the_language_model(task: str) -> None:
    policy, tokenizer = quality.load(MODELS, "tiny")
    texts = continuations(policy, tokenizer, openings(task)[:200], 28, torch.Generator().manual_seed(1))
    model, _ = quality.load(MODELS, SCORER[task])
    assert not missed(quality.scorer_quality(model, tokenizer, task, texts, "sampled"))


@pytest.mark.parametrize("task", ["insults", "sentiment"])
def test_the_scorers_do_not_mind_the_side_of_the_padding(task: str) -> None:
    model, tokenizer = quality.load(MODELS, SCORER[task])
    texts = quality.cut_documents(tokenizer, GENRE[task], 40, 8)
    texts = [text[: 30 * (i + 1)] for i, text in enumerate(texts)]
    with torch.inference_mode():
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        for side in ("left", "right"):
            tokenizer.padding_side = side
            together = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
            torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_sentiment_scorer_is_graded() -> None:
    model, tokenizer = quality.load(MODELS, "tiny-sentiment")
    texts = ["The room was", "The room was good.", "The room was very good.", "The room was bad.", "The room was not good."]
    with torch.inference_mode():
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        nothing, good, very, bad, not_good = model(**batch).logits.softmax(-1)[:, 1].tolist()
    assert abs(nothing - 0.5) < 0.1
    assert 0.65 < good < very
    assert max(bad, not_good) < 0.35


@pytest.mark.parametrize(("task", "low", "high"), [(t, *b) for t in GENRE for b in quality.BUCKETS[:4]])
def test_the_critics_name_the_true_spans(task: str, low: int, high: int) -> None:
    model, tokenizer = quality.load(MODELS, f"tiny-critic-{task}")
    texts = quality._critic_texts([], task, low, high, 150, seed=1)
    measures = quality.critic_quality(model, tokenizer, task, texts, "documents", bar=f"span F1, {task}")
    assert not missed(measures)
    assert next(m.value for m in measures if m.what == "answers that parse") >= (0.97 if high <= 60 else 0.90)


def test_a_measure_knows_on_which_side_of_its_bar_it_is() -> None:
    below, above = next(iter(BARS)), "accuracy"
    assert Measure("m", "w", "", 0.04, below).reached
    assert not Measure("m", "w", "", 0.06, below).reached
    assert not Measure("m", "w", "", 0.96, above).reached
    assert Measure("m", "w", "", 0.0).reached
    assert "MISSED" in table([Measure("m", "w", "", 0.96, above)])


def test_the_documents_that_are_cut_have_exactly_the_length_asked_for() -> None:
    _, tokenizer = quality.load(MODELS, "tiny")
    texts = quality.cut_documents(tokenizer, "detox", 28, 20)
    assert {len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts} <= {28, 29}
    assert any(not truth.toxicity(text) for text in texts)
    assert all(grammar.accepted_share([text], skip_first=True) in (1.0,) for text in texts if text.count(".") > 1)


def test_nan_reaches_no_bar() -> None:
    assert not Measure("m", "w", "", float("nan"), "accuracy").reached


@pytest.mark.slow
def test_the_policies_answer_and_translate_with_mistakes_that_reward_can_mend() -> None:
    assert not missed(policy_quality.measure(MODELS, 1, 150, {"tiny", "tiny-translation"}))


@pytest.mark.slow
def test_the_preferred_copy_writes_better_texts_than_tiny() -> None:
    assert not missed(policy_quality.measure(MODELS, 1, 200, {"tiny-preferred"}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-reward", "tiny-aspects", "tiny-critic-answers"])
def test_the_judges_of_answers_agree_with_the_truth(name: str) -> None:
    assert not missed(judge_quality.measure(MODELS, 1, 150, {name}))


def test_the_principles_are_heeded() -> None:
    assert not missed(judge_quality.measure(MODELS, 1, 200, {"tiny-principles"}))


def test_the_area_under_the_roc_curve_counts_ties_half() -> None:
    assert area_under_curve(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert area_under_curve(np.array([0.0, 1.0, 2.0]), np.array([True, False, False])) == 0.0
    assert math.isnan(area_under_curve(np.array([1.0]), np.array([True])))


def test_judges_are_read_at_the_last_token_whatever_the_length_of_their_neighbours() -> None:
    model, tokenizer = quality.load(MODELS, "tiny-sentiment")
    texts = [" It was good.", " It was bad, and the room was very dull.", " It"]
    together = judge_quality.logits(model, tokenizer, texts)
    alone = [judge_quality.logits(model, tokenizer, [text])[0] for text in texts]
    assert torch.allclose(torch.tensor(together), torch.tensor(alone), atol=1e-4)
