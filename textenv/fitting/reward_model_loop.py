"""Fitting a reward model: what is minimised for pairs, labels and scores, and when to stop.

Held-out accuracy decides: of pairs, how often the chosen text has the higher reward; of labelled texts, how often the right class
is likeliest, each class weighing alike; of scored texts, how often two of them stand in the right order. Ties count half. Between
models of the same accuracy, the one with the lower held-out loss is the better.

*Prefix validity*: redistribution (RED), guided decoding and delta rewards read the model on beginnings of texts, while it was
trained on whole ones. So the accuracy is measured at 25, 50, 75 and 100 % of the words, too: near chance before the end means
that differences of prefix scores are noise.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from textenv.data.labelled import balanced_weights
from textenv.data.preference_pairs import PreferencePair, RatedText
from textenv.episode import Prompt
from textenv.fitting.reward_model import RewardModel, bradley_terry_loss, dpo_loss
from textenv.fitting.training import fit
from textenv.judges.reading import Reading
from textenv.metrics import Estimate

__all__ = ["HeldOut", "Labels", "Objective", "Pairs", "Scores", "batches_by_length", "beginning", "fit_reward_model"]

Row = list[int]


def beginning(text: str, share: float) -> str:
    """The first words of a text, as many as make up that share of it, at least one.

    >>> [beginning(" a long, good text", share) for share in (0.25, 0.5, 1.0)]
    [' a', ' a long,', ' a long, good text']
    """
    words = list(re.finditer(r"\S+", text))
    return text if share >= 1 or not words else text[: words[max(1, math.ceil(share * len(words))) - 1].end()]


def batches_by_length(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Indices without end: shuffled, sorted by length within pools of 50 batches (little padding), batches shuffled."""
    while True:
        order = torch.randperm(len(lengths), generator=generator).tolist()
        pool = 50 * batch_size
        chunks = [sorted(order[i : i + pool], key=lengths.__getitem__) for i in range(0, len(order), pool)]
        ordered = [index for chunk in chunks for index in chunk]
        batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index]


class HeldOut(NamedTuple):
    """What a model makes of held-out examples."""

    accuracy: Estimate
    loss: float


class Objective(ABC):
    """What a reward model is fitted to.

    Attributes:
        lengths: tokens of each training example.
    """

    lengths: list[int]

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    @abstractmethod
    def loss(self, model: RewardModel, batch: Sequence[int]) -> Tensor:
        """Of these training examples."""

    @abstractmethod
    def held_out(self, model: RewardModel, share: float = 1.0) -> HeldOut:
        """On held-out examples, cut to the beginning of their texts."""

    def _row(self, prompt: Prompt, text: str, share: float = 1.0) -> Row:
        return self.reading.row(self._before(prompt) + beginning(text, share))

    def _before(self, prompt: Prompt) -> str:
        return self.reading.template.format(prompt=prompt.text, context="\n".join(prompt.context), text="")

    def _start(self, prompt: Prompt, text: str) -> int:
        """Where the text begins among its row's ids."""
        _, offsets = self.reading.row_with_offsets(self._before(prompt) + text)
        return int(np.argmax(offsets[:, 1] > len(self._before(prompt))))


class Pairs(Objective):
    """Bradley–Terry on preference pairs; with a policy loss, HaF-RM's hybrid.

    Args:
        reading: how texts are read.
        train, test: pairs.
        policy_loss_weight: α; 0: Bradley–Terry alone.
        tau: DPO's temperature.
    """

    def __init__(
        self,
        reading: Reading,
        train: Sequence[PreferencePair],
        test: Sequence[PreferencePair],
        *,
        policy_loss_weight: float = 0.0,
        tau: float = 0.1,
    ) -> None:
        super().__init__(reading)
        if policy_loss_weight < 0 or tau <= 0:
            raise ValueError(f"the policy loss needs a weight >= 0 and tau > 0, got {policy_loss_weight:g} and {tau:g}")
        self.weight, self.tau, self._test = policy_loss_weight, tau, test
        self._chosen = [self._row(pair.prompt, pair.chosen) for pair in train]
        self._rejected = [self._row(pair.prompt, pair.rejected) for pair in train]
        self.lengths = [max(map(len, rows)) for rows in zip(self._chosen, self._rejected, strict=True)]
        self._reference: Tensor | None = None  # (2, pairs) log π_ref of chosen and rejected
        if self.weight:
            texts = ([(p.prompt, p.chosen) for p in train], [(p.prompt, p.rejected) for p in train])
            self._starts = [[self._start(*text) for text in side] for side in texts]

    def reference(self, model: RewardModel) -> None:
        """Take the model as it is, before any training, for the reference of the policy loss."""
        sides = zip((self._chosen, self._rejected), self._starts, strict=True)
        self._reference = torch.stack([model.all_log_probs(rows, starts) for rows, starts in sides])

    def loss(self, model: RewardModel, batch: Sequence[int]) -> Tensor:
        rows = [side[i] for side in (self._chosen, self._rejected) for i in batch]
        if not self.weight:
            chosen, rejected = model.rewards(rows)[:, 0].chunk(2)
            return bradley_terry_loss(chosen, rejected)
        if self._reference is None:
            raise RuntimeError("the policy loss has no reference yet: call reference(model) before training")
        rewards, log_probs = model.rewards_and_log_probs(rows, [side[i] for side in self._starts for i in batch])
        chosen, rejected = rewards[:, 0].chunk(2)
        likely_chosen, likely_rejected = log_probs.chunk(2)
        before_chosen, before_rejected = self._reference[:, list(batch)].to(log_probs.device)
        policy = dpo_loss(likely_chosen, likely_rejected, before_chosen, before_rejected, tau=self.tau)
        return bradley_terry_loss(chosen, rejected) + self.weight * policy

    def held_out(self, model: RewardModel, share: float = 1.0) -> HeldOut:
        rows = [self._row(pair.prompt, text, share) for pair in self._test for text in (pair.chosen, pair.rejected)]
        chosen, rejected = model.all_rewards(rows)[:, 0].reshape(-1, 2).double().T
        right = (chosen > rejected) + (chosen == rejected) / 2
        by_source: dict[str, list[float]] = {}
        for pair, value in zip(self._test, right.tolist(), strict=True):
            by_source.setdefault(pair.source, []).append(value)
        sizes = [len(values) for values in by_source.values()]
        accuracy = Estimate([np.mean(values) for values in by_source.values()], sizes)
        return HeldOut(accuracy, bradley_terry_loss(chosen, rejected).item())


class _Rated(Objective):
    def __init__(self, reading: Reading, train: Sequence[RatedText], test: Sequence[RatedText]) -> None:
        super().__init__(reading)
        self._rows = [self._row(item.prompt, item.text) for item in train]
        self.lengths = list(map(len, self._rows))
        self._train, self._test = train, test

    def _test_rewards(self, model: RewardModel, share: float) -> Tensor:
        """(test texts, labels) float64."""
        return model.all_rewards([self._row(item.prompt, item.text, share) for item in self._test]).double()


class Labels(_Rated):
    """Cross-entropy on labelled texts; classes weigh alike, however many texts each has."""

    def __init__(self, reading: Reading, train: Sequence[RatedText], test: Sequence[RatedText], classes: int) -> None:
        super().__init__(reading, train, test)
        self._classes, self._truth = (torch.tensor([int(item.value) for item in items]) for items in (train, test))
        self._weights, self._test_weights = (
            torch.tensor(balanced_weights(of.tolist(), classes)) for of in (self._classes, self._truth)
        )

    def loss(self, model: RewardModel, batch: Sequence[int]) -> Tensor:
        classes = self._classes[list(batch)]
        return _cross_entropy(model.rewards([self._rows[i] for i in batch]), classes, self._weights[classes])

    def held_out(self, model: RewardModel, share: float = 1.0) -> HeldOut:
        logits, weights = self._test_rewards(model, share), self._test_weights[self._truth]
        right = logits.argmax(1) == self._truth
        return HeldOut(Estimate(right.double(), weights), _cross_entropy(logits, self._truth, weights).item())


def _cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    losses = nn.functional.cross_entropy(logits, classes.to(logits.device), reduction="none")
    return (losses * weights.to(losses)).mean()


class Scores(_Rated):
    """Squared error on scores, in standard deviations from the mean of the training texts (`mean`, `deviation`).

    Raises:
        ValueError: all training texts, or all held-out ones, have one score.
    """

    def __init__(self, reading: Reading, train: Sequence[RatedText], test: Sequence[RatedText]) -> None:
        super().__init__(reading, train, test)
        values = np.array([item.value for item in train])
        self.mean, self.deviation = float(values.mean()), float(values.std())
        if not self.deviation:
            raise ValueError(f"all scores of the training texts are {self.mean:g}; there is nothing to learn")
        if len({item.value for item in test}) < 2:
            raise ValueError(
                f"the {len(test)} held-out texts have one score, {test[0].value:g}, so that no two of them stand in an order to be "
                "learned; give more texts, or raise --held-out"
            )
        self._targets, self._truth = (
            torch.tensor([(item.value - self.mean) / self.deviation for item in items]) for items in (train, test)
        )

    def loss(self, model: RewardModel, batch: Sequence[int]) -> Tensor:
        rewards = model.rewards([self._rows[i] for i in batch])[:, 0]
        return nn.functional.mse_loss(rewards, self._targets[list(batch)].to(rewards.device))

    def held_out(self, model: RewardModel, share: float = 1.0) -> HeldOut:
        found = self._test_rewards(model, share)[:, 0]
        apart = (self._truth[:, None] - self._truth).sign()  # (B, B): 0 where there is no right order
        right = (1 + apart * (found[:, None] - found).sign()) / 2 * apart.abs()
        counts = apart.abs().sum(1)
        return HeldOut(Estimate(right.sum(1) / counts.clamp(min=1), counts), (found - self._truth).square().mean().item())


def fit_reward_model(
    model: RewardModel,
    objective: Objective,
    generator: torch.Generator,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    every: int,
    patience: int,
    on_best: Callable[[float], None],
    on_step: Callable[[int, float, int], None] | None = None,
    weight_decay: float = 0.01,
) -> tuple[float, int]:
    """Train until `steps` are done, or `patience` measurements on held-out examples were no better than the best.

    Args:
        every: steps between two measurements; one is made at the end, too.
        on_best: called with the accuracy of the best model so far (the first is); save it here.
        on_step: called after every step with (steps done, loss, tokens seen).

    Returns:
        The highest accuracy, and the number of steps taken.
    """
    best, since, done, seen = (-math.inf, -math.inf), 0, 0, 0

    def batches() -> Iterator[list[int]]:
        nonlocal seen
        for batch in batches_by_length(objective.lengths, batch_size, generator):
            if since >= patience:
                return
            seen += sum(objective.lengths[i] for i in batch)
            yield batch

    def after(step: int, loss: float) -> None:
        nonlocal best, since, done
        done = step
        if on_step is not None:
            on_step(step, loss, seen)
        if step % every and step != steps:
            return
        accuracy, measured = objective.held_out(model)
        since += 1
        if (float(accuracy), -measured) > best:
            best, since = (float(accuracy), -measured), 0
            on_best(float(accuracy))

    fit(
        model, batches(), lambda module, batch: objective.loss(module, batch), steps=steps, learning_rate=learning_rate,
        weight_decay=weight_decay, on_step=after,
    )  # fmt: skip
    return best[0], done
