"""ROUGE against numbers worked out by hand: stems, the best reference, sentences for Lsum, means by prompt."""

import math

import numpy as np
import pytest

from textenv.episode import Episode, Prompt
from textenv.metrics.rouge import Rouge, mean_by_prompt, rouge, rouge_metrics


def episode(prompt: Prompt, text: str) -> Episode:
    nothing = np.zeros(0, np.int64)
    return Episode(prompt, nothing, nothing, text, np.zeros((0, 2), np.int64), "stop", 0.0, np.zeros(0))


def test_words_are_compared_by_their_stems_and_the_best_reference_counts() -> None:
    # "hotel moves" against "hotel moved far": precision 1, recall 2/3; against "a cat": nothing
    assert rouge("Hotel moves.", ["a cat", "hotel moved far"], ("rouge1", "rouge2")) == {
        "rouge1": pytest.approx(0.8),
        "rouge2": pytest.approx(2 / 3),
    }


def test_lsum_compares_sentences_and_l_the_whole() -> None:
    # The sentences in the other order: a longest common subsequence of 3 of 6 words, but each sentence is there.
    found = rouge("dogs bark loudly. cats sleep late.", ["cats sleep late. dogs bark loudly."], ("rougeL", "rougeLsum"))
    assert found == {"rougeL": pytest.approx(0.5), "rougeLsum": pytest.approx(1.0)}


@pytest.mark.parametrize("text", ["", " ", "…", "\ud7ff\n"])
def test_a_text_without_words_scores_nothing(text: str) -> None:
    assert set(rouge(text, ["a cat"]).values()) == {0.0}


def test_the_scorer_reads_the_prompts_references() -> None:
    episodes = [episode(Prompt("p", references=("a cat sat",)), text) for text in ("a cat sat", "a cat", "dog")]
    assert Rouge("rouge1")(episodes) == [1.0, pytest.approx(0.8), 0.0]


def test_without_references_or_with_an_unknown_kind_the_error_says_so() -> None:
    with pytest.raises(ValueError, match="'a cat' has none"):
        Rouge()([episode(Prompt("p"), "a cat")])
    with pytest.raises(ValueError, match="unknown kind of ROUGE 'rouge9'; one of rouge1"):
        Rouge("rouge9")
    with pytest.raises(ValueError, match=r"unknown kind of ROUGE \['rouge9'\]"):
        rouge("a", ["a"], ("rouge9",))


def test_the_mean_goes_by_prompt_and_leaves_out_texts_without_references() -> None:
    one, two, bare = Prompt("1", references=("a b",)), Prompt("2", references=("c d",)), Prompt("3")
    episodes = [episode(one, "a b"), episode(one, "x"), episode(two, "c d"), episode(bare, "a b")]
    found = rouge_metrics(episodes, ("rouge1",))["rouge1"]
    assert found == pytest.approx(2 / 3)
    assert found.values.tolist() == [0.5, 1.0]
    assert rouge_metrics([episode(bare, "a b")]) == {}


def test_values_that_are_not_there_do_not_count() -> None:
    one, two = Prompt("1"), Prompt("2")
    episodes = [episode(one, "a"), episode(one, "b"), episode(two, "c")]
    assert mean_by_prompt(episodes, [1.0, math.nan, 0.0]) == 0.5
    assert math.isnan(mean_by_prompt(episodes, [math.nan] * 3))
