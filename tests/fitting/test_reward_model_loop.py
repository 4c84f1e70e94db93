"""What is minimised and measured for pairs, labels and scores; when fitting stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import worlds
from textenv.data.preference_pairs import PreferencePair, RatedText
from textenv.episode import Prompt
from textenv.fitting.reward_model import RewardModel
from textenv.fitting.reward_model_loop import (
    HeldOut,
    Labels,
    Objective,
    Pairs,
    Scores,
    batches_by_length,
    beginning,
    fit_reward_model,
)
from textenv.judges.reading import Reading
from textenv.metrics import Estimate

READING = Reading(worlds.BYTES, "{prompt}{text}", 64, "test")
NOWHERE = Prompt("")


class Longer(RewardModel):
    """The reward is the number of bytes, so that accuracies are known."""

    def __init__(self, labels: int = 1) -> None:
        super().__init__(worlds.classifier("llama", labels=[str(i) for i in range(labels)]))

    def rewards(self, rows: Sequence[Sequence[int]]) -> Tensor:
        values = torch.tensor([[float(len(row))] for row in rows])
        return values if self.classifier.config.num_labels == 1 else torch.cat([-values + 4, values - 4], 1)


def pair(chosen: str, rejected: str, source: str = "") -> PreferencePair:
    return PreferencePair(NOWHERE, chosen, rejected, source or chosen)


def rated(text: str, value: float) -> RatedText:
    return RatedText(NOWHERE, text, value, text)


def test_the_accuracy_of_pairs_counts_ties_half() -> None:
    tests = [pair("long text", "bad"), pair("bad", "long text"), pair("same", "size")]
    accuracy, loss = Pairs(READING, tests, tests).held_out(Longer())
    assert float(accuracy) == 0.5
    assert loss == pytest.approx((math.log(1 + math.exp(-6)) + math.log(1 + math.exp(6)) + math.log(2)) / 3)


def test_the_accuracy_of_beginnings_reads_beginnings() -> None:
    tests = [pair("a much longer text", "bb b b b"), pair("a bb ccc dddd", "e ff g h")]
    pairs = Pairs(READING, tests, tests)
    assert float(pairs.held_out(Longer(), 0.25).accuracy) == 0.25, "'a' loses against 'bb', and 'a' and 'e' are as long"
    assert float(pairs.held_out(Longer(), 1.0).accuracy) == 1.0


def test_the_pairs_of_a_source_are_one_unit_of_the_interval() -> None:
    tests = [pair("long text", "bad", "one"), pair("longer text", "bad", "one"), pair("bad", "long", "two")]
    accuracy = Pairs(READING, tests, tests).held_out(Longer()).accuracy
    assert float(accuracy) == pytest.approx(2 / 3)
    assert accuracy.values.tolist() == [1.0, 0.0]
    assert accuracy.weights.tolist() == [2.0, 1.0]


def test_the_accuracy_of_labels_weighs_classes_alike() -> None:
    tests = [rated("long text", 1), rated("longer text", 1), rated("longest text", 1), rated("long again", 0)]
    assert float(Labels(READING, tests, tests, 2).held_out(Longer(2)).accuracy) == 0.5


def test_the_accuracy_of_scores_is_the_share_in_the_right_order() -> None:
    tests = [rated("aaaa", 3.0), rated("aaa", 2.0), rated("aaaaa", 1.0), rated("a", 1.0)]
    # Right: aaaa > aaa, aaaa > a, aaa > a; wrong: aaaa and aaa against aaaaa; the last two have no order.
    assert float(Scores(READING, tests, tests).held_out(Longer()).accuracy) == pytest.approx(3 / 5)


def test_the_losses_of_labels_and_scores_by_hand() -> None:
    model = Longer(2)
    items = [rated("aaaa", 0), rated("aaaaaa", 1), rated("aaaaaa", 1)]
    labels = Labels(READING, items, items, 2)
    # Logits (0, 0) and (−2, 2); weights 3/2 and 3/4.
    expected = (1.5 * math.log(2) + 2 * 0.75 * math.log(1 + math.exp(-4))) / 3
    assert labels.loss(model, [0, 1, 2]).item() == pytest.approx(expected)
    scored = [rated("aa", 10.0), rated("aaaa", 30.0)]
    scores = Scores(READING, scored, scored)
    assert (scores.mean, scores.deviation) == (20.0, 10.0)
    assert scores.loss(Longer(), [0, 1]).item() == pytest.approx(((2 + 1) ** 2 + (4 - 1) ** 2) / 2)


def test_scores_that_are_the_same_in_training_are_an_error() -> None:
    with pytest.raises(ValueError, match="all scores of the training texts are 1"):
        Scores(READING, [rated("a", 1.0), rated("b", 1.0)], [rated("c", 2.0)])


def test_batches_hold_every_example_once_a_round_and_texts_of_like_length() -> None:
    lengths = [(7 * i) % 40 for i in range(90)]
    batches = batches_by_length(lengths, 8, torch.Generator().manual_seed(0))
    drawn = [next(batches) for _ in range(12)]
    assert sorted(i for batch in drawn for i in batch) == list(range(90))
    assert max(max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in drawn) <= 8


@pytest.mark.parametrize(
    ("share", "expected"), [(0.25, " a"), (0.26, " a long,"), (0.75, " a long, good"), (1.0, " a long, good text ")]
)
def test_a_beginning_is_whole_words(share: float, expected: str) -> None:
    assert beginning(" a long, good text ", share) == expected


def test_blank_text_has_no_beginning() -> None:
    assert beginning("  ", 0.5) == "  "


class Scripted(Objective):
    """Held-out accuracies and losses as they are told; a loss that trains nothing that matters."""

    def __init__(self, told: Sequence[tuple[float, float]]) -> None:
        super().__init__(READING)
        self.lengths, self._told = [3] * 8, iter(told)

    def loss(self, model: RewardModel, batch: Sequence[int]) -> Tensor:
        return model.classifier.score.weight.square().mean()

    def held_out(self, model: RewardModel, share: float = 1.0) -> HeldOut:
        accuracy, loss = next(self._told)
        return HeldOut(Estimate([accuracy]), loss)


def stopped(accuracies: Sequence[float], **options: Any) -> tuple[float, int, list[float]]:
    saved: list[float] = []
    settings = {"steps": 10, "batch_size": 2, "learning_rate": 1e-3, "every": 2, "patience": 2, "on_best": saved.append}
    model = RewardModel(worlds.classifier("llama", labels=("good",)))
    objective = Scripted([(each, 1.0) for each in accuracies])
    best, done = fit_reward_model(model, objective, torch.Generator(), **{**settings, **options})
    assert not model.training
    return best, done, saved


def test_fitting_stops_when_accuracy_has_not_risen_for_a_while() -> None:
    assert stopped([0.5, 0.7, 0.7, 0.6, 0.9]) == (0.7, 8, [0.5, 0.7])


def test_of_models_of_one_accuracy_the_lower_loss_is_better() -> None:
    saved: list[float] = []
    model = RewardModel(worlds.classifier("llama", labels=("good",)))
    told = [(1.0, 0.6), (1.0, 0.4), (0.9, 0.1), (1.0, 0.5), (1.0, 0.3)]
    options = {"steps": 10, "batch_size": 2, "learning_rate": 1e-3, "every": 2, "patience": 3}
    assert fit_reward_model(model, Scripted(told), torch.Generator(), on_best=saved.append, **options) == (1.0, 10)
    assert len(saved) == 3


def test_fitting_ends_with_a_measurement() -> None:
    assert stopped([0.5, 0.6], steps=3) == (0.6, 3, [0.5, 0.6])


def test_progress_tells_steps_and_tokens() -> None:
    seen: list[tuple[int, int]] = []
    stopped([0.5], steps=2, every=5, on_step=lambda step, loss, tokens: seen.append((step, tokens)))
    assert seen == [(1, 6), (2, 12)]
