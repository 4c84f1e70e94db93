"""The supervised loop: it learns, schedules, clips, reports, and stops at NaN."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from textenv.fitting.training import fit, learning_rate_factor


def pairs(seed: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(16, 3, generator=generator)
        yield x, x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3.0


def squared(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (module(batch[0]) - batch[1]).square().mean()


def test_a_linear_map_is_learned() -> None:
    module = nn.Linear(3, 1)
    losses = fit(module, pairs(), squared, steps=300, learning_rate=0.1, weight_decay=0.0)
    assert len(losses) == 300
    assert losses[-1] < 1e-3 < losses[0]
    assert not module.training


def test_the_same_batches_give_the_same_weights() -> None:
    def weights() -> torch.Tensor:
        module = nn.Linear(3, 1)
        nn.init.zeros_(module.weight), nn.init.zeros_(module.bias)
        fit(module, pairs(), squared, steps=20)
        return module.weight.detach()

    assert torch.equal(weights(), weights())


def test_fewer_batches_than_steps_end_the_training_early() -> None:
    batches = [next(pairs()) for _ in range(4)]
    assert len(fit(nn.Linear(3, 1), batches, squared, steps=10)) == 4


def test_no_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batch"):
        fit(nn.Linear(3, 1), [], squared, steps=10)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="requires a gradient"):
        fit(nn.Linear(3, 1).requires_grad_(False), pairs(), squared, steps=1)


def test_a_loss_that_is_nan_raises_and_leaves_the_weights_alone() -> None:
    module = nn.Linear(3, 1)
    before = module.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="step 1: loss nan"):
        fit(module, pairs(), lambda m, b: squared(m, b) * float("nan"), steps=3)
    assert torch.equal(module.weight, before)


def test_only_what_requires_a_gradient_is_trained() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    module[0].requires_grad_(False)
    before = module[0].weight.detach().clone()
    fit(module, pairs(), squared, steps=5)
    assert torch.equal(module[0].weight, before)


def test_every_step_and_the_progress_are_told() -> None:
    steps, lines = [], []
    fit(nn.Linear(3, 1), pairs(), squared, steps=5, on_step=lambda s, loss: steps.append(s), progress=lines.append)
    assert steps == [1, 2, 3, 4, 5]
    assert lines[-1].startswith("step 5/5  loss ")


def test_the_learning_rate_rises_and_falls_to_its_floor() -> None:
    factors = [learning_rate_factor(s, 100, 10, 0.1) for s in range(100)]
    assert factors[9] == 1.0
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.1 <= factors[-1] < 0.11
