"""A classifier's verdict: the right label, the same in any batch, at any length."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import worlds
from tests.worlds import BYTES, make
from textenv.episode import Prompt
from textenv.scorers import SequenceClassifierScorer

TEXTS = ["a", "a much longer text than the first", "", "short", "é", "x" * 40]


def scorer(model: Any = None, label: Any = "toxic", **options: Any) -> SequenceClassifierScorer:
    return SequenceClassifierScorer(worlds.classifier() if model is None else model, label=label, tokenizer=BYTES, **options)


def probability(model: Any, text: str) -> torch.Tensor:
    """One text, no padding."""
    return model(torch.tensor([worlds.ids(text)])).logits.detach()[0].softmax(-1)


def test_the_score_is_the_probability_of_the_label() -> None:
    model = worlds.classifier()
    assert scorer(model).score_texts(["some text"]) == pytest.approx([float(probability(model, "some text")[1])], abs=1e-6)


@pytest.mark.parametrize("label", ["toxic", "TOXIC", 1, ("hate", "toxic"), ("toxic", "civil")])
def test_a_label_is_found_by_name_by_index_or_as_the_first_of_several(label: Any) -> None:
    assert scorer(label=label).label == 1


@pytest.mark.parametrize("label", ["rude", 2, -1, ("hate", "rude")])
def test_an_unknown_label_lists_those_that_exist(label: Any) -> None:
    with pytest.raises(ValueError, match=r"its labels are .*civil.*toxic"):
        scorer(label=label)


def test_the_complement_is_one_minus_the_probability() -> None:
    model = worlds.classifier()
    assert scorer(model, complement=True).score_texts(TEXTS) == pytest.approx([1 - x for x in scorer(model).score_texts(TEXTS)])


def test_logits_are_given_where_asked_and_negated_as_complement() -> None:
    model = worlds.classifier()
    logit = model(torch.tensor([worlds.ids("text")])).logits[0, 1].item()
    assert scorer(model, output="logit").score_texts(["text"]) == pytest.approx([logit], abs=1e-5)
    assert scorer(model, output="logit", complement=True).score_texts(["text"]) == pytest.approx([-logit], abs=1e-5)


def test_a_model_of_one_output_gives_its_sigmoid_whatever_its_label_is_called() -> None:
    model = worlds.classifier(labels=["quality"])
    logit = model(torch.tensor([worlds.ids("text")])).logits[0, 0]
    assert scorer(model, label="toxic").score_texts(["text"]) == pytest.approx([logit.sigmoid().item()], abs=1e-6)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_batch_scores_as_one_text_at_a_time(kind: str, batch_size: int) -> None:
    judge = scorer(worlds.classifier(kind), batch_size=batch_size)
    assert judge.score_texts(TEXTS) == pytest.approx([judge.score_texts([text])[0] for text in TEXTS], abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoder_is_read_at_its_last_token_whatever_its_own_padding_id(kind: str) -> None:
    model = worlds.classifier(kind)
    expected = scorer(model).score_texts(TEXTS)
    for pad in (None, 97):
        model.config.pad_token_id = pad
        assert scorer(model).score_texts(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_text_that_is_too_long_loses_its_left_end() -> None:
    judge = scorer()
    assert judge.max_tokens == 64
    assert judge.score_texts(["x" * 30 + "y" * 64]) == judge.score_texts(["y" * 64])


def test_a_text_that_is_too_long_keeps_the_tokens_around_it() -> None:
    from tokenizers import processors

    tokenizer = copy.deepcopy(BYTES)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 257), ("</s>", 258)]
    )
    judge = SequenceClassifierScorer(worlds.classifier(), label="toxic", tokenizer=tokenizer)
    assert judge.score_texts(["x" * 30 + "y" * 62]) == judge.score_texts(["y" * 62])


def test_the_continuation_is_judged_alone_unless_asked_with_its_prompt() -> None:
    model = worlds.classifier()
    episode = make(max_new_tokens=8).get_wrapper_attr("episode")(Prompt("go: "), worlds.ids("text"))
    assert scorer(model)([episode]) == scorer(model).score_texts(["text"])
    assert scorer(model, with_prompt=True)([episode]) == scorer(model).score_texts(["go: text"])


def test_a_saved_directory_scores_like_the_model_it_was_saved_from(classifier_directory: Path) -> None:
    by_name = SequenceClassifierScorer(classifier_directory, label="toxic")
    assert by_name.score_texts(TEXTS) == pytest.approx(scorer().score_texts(TEXTS), abs=1e-6)


def test_a_saved_directory_judges_the_texts_of_an_environment(classifier_directory: Path) -> None:
    judge = SequenceClassifierScorer(classifier_directory, label="civil")
    env = make(scorer=judge, max_new_tokens=4)
    _, episode = worlds.walk(env, worlds.ids("abcd"))
    assert episode is not None
    assert episode.score == judge.score_texts(["abcd"])[0]


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = worlds.classifier()
    before = copy.deepcopy(model)
    scorer(model).score_texts(TEXTS)
    assert worlds.same_weights(model, before)
    assert not model.training


def test_no_texts_have_no_scores() -> None:
    assert scorer().score_texts([]) == []


def test_a_model_object_needs_its_tokenizer() -> None:
    with pytest.raises(ValueError, match="a model object needs its tokenizer: pass tokenizer="):
        SequenceClassifierScorer(worlds.classifier(), label="toxic")


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(ValueError, match='output must be "probability" or "logit", got \'odds\''):
        scorer(output="odds")


def test_a_scorer_is_not_copied_with_its_environment() -> None:
    judge = scorer()
    assert copy.deepcopy(judge) is judge


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("none", FileNotFoundError, "no tokenizer directory at"), (".", ValueError, "holds no tokenizer")],
)
def test_a_directory_that_holds_no_model_is_named(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SequenceClassifierScorer(tmp_path / name, label="toxic")
