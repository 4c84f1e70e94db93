"""Bradley–Terry and HaF-RM's hybrid: the identities of related.md G7, on real tiny models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import worlds
from textenv.data.preference_pairs import PreferencePair
from textenv.episode import Prompt
from textenv.fitting.reward_model import RewardModel, bradley_terry_loss, dpo_loss, load_reward_model
from textenv.fitting.reward_model_loop import Pairs
from textenv.judges.reading import Reading

TEXTS = [("good text", "bad one"), ("é, fine", "no"), ("a longer answer", "short")]
PAIRS = [PreferencePair(Prompt("ask: "), chosen, rejected, str(i)) for i, (chosen, rejected) in enumerate(TEXTS)]


def reading(max_tokens: int = 64) -> Reading:
    return Reading(worlds.BYTES, "{prompt}{text}", max_tokens, "test")


def hybrid(base: Path, *, weight: float = 0.2, head: float = 0.3, **options: Any) -> tuple[RewardModel, Pairs]:
    """A model whose reward head is not zero, and its pairs, with the reference taken."""
    model = load_reward_model(str(base), worlds.BYTES, policy_head=True).eval()
    with torch.no_grad():
        model.classifier.score.weight.fill_(head)
    pairs = Pairs(reading(), PAIRS, PAIRS, policy_loss_weight=weight, **options)
    if weight:
        pairs.reference(model)
    return model, pairs


def gradients(model: RewardModel, loss: Tensor) -> dict[str, bool]:
    """Which parts a loss moves."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    blocks = (p for n, p in model.classifier.base_model.named_parameters() if p.dim() > 1 and n[:3] not in ("wte", "wpe", "emb"))
    parts = {
        "reward head": model.classifier.score.weight,
        "lm head": model.language_model.get_output_embeddings().weight,
        "trunk": next(blocks),
        "embeddings": model.classifier.get_input_embeddings().weight,
    }
    return {name: part.grad is not None and bool(part.grad.abs().sum() > 0) for name, part in parts.items()}


@pytest.fixture(params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest, llama_directory: Path, gpt2_directory: Path) -> Path:
    """A Llama with a head of its own, and a GPT-2 whose head is its input embeddings."""
    return {"llama": llama_directory, "gpt2": gpt2_directory}[request.param]


def test_without_a_policy_loss_it_is_bradley_terry_exactly(base: Path) -> None:
    model, plain = hybrid(base, weight=0.0)
    batch = [0, 1, 2]
    chosen = model.rewards([reading().row("ask: " + c) for c, _ in TEXTS])[:, 0]
    rejected = model.rewards([reading().row("ask: " + r) for _, r in TEXTS])[:, 0]
    assert plain.loss(model, batch).item() == pytest.approx(bradley_terry_loss(chosen, rejected).item(), abs=1e-6)
    # The same with α = 0 as the limit of the hybrid: the second term is α times a finite number.
    losses = []
    for weight in (1e-12, 0.2, 0.4):
        other, pairs = hybrid(base, weight=weight)
        losses.append(pairs.loss(other, batch).item())
    assert losses[0] == pytest.approx(plain.loss(model, batch).item(), abs=1e-6)
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), abs=1e-6)


def test_at_the_reference_the_second_term_is_alpha_log_2(base: Path) -> None:
    model, pairs = hybrid(base, weight=0.2)
    bradley_terry = hybrid(base, weight=0.0)[1].loss(model, [0, 1, 2]).item()
    assert pairs.loss(model, [0, 1, 2]).item() == pytest.approx(bradley_terry + 0.2 * math.log(2), abs=1e-6)


def test_a_zero_head_gives_log_2_and_moves_no_trunk(base: Path) -> None:
    model = load_reward_model(str(base), worlds.BYTES).eval()
    loss = Pairs(reading(), PAIRS, PAIRS).loss(model, [0, 1])
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
    loss.backward()
    assert not any(p.grad.abs().sum() for p in model.classifier.base_model.parameters() if p.grad is not None)
    assert model.classifier.score.weight.grad.abs().sum() > 0


def test_each_loss_reaches_the_heads_that_it_should(base: Path) -> None:
    model, pairs = hybrid(base, weight=1.0)
    rows = [pairs._chosen[0], pairs._rejected[0]]
    rewards, log_probs = model.rewards_and_log_probs(rows, [5, 5])
    first = gradients(model, bradley_terry_loss(rewards[:1, 0], rewards[1:, 0]))
    assert first == {"reward head": True, "lm head": False, "trunk": True, "embeddings": True}
    rewards, log_probs = model.rewards_and_log_probs(rows, [5, 5])
    second = gradients(model, dpo_loss(log_probs[:1], log_probs[1:], torch.zeros(1), torch.zeros(1)))
    assert second == {"reward head": False, "lm head": True, "trunk": True, "embeddings": True}


def test_the_policy_head_is_a_copy_that_changes_no_embedding(gpt2_directory: Path) -> None:
    model, _ = hybrid(gpt2_directory)
    head = model.language_model.get_output_embeddings().weight
    embeddings = model.classifier.get_input_embeddings().weight
    assert torch.equal(head, embeddings)
    assert head.data_ptr() != embeddings.data_ptr()
    assert model.language_model.base_model is model.classifier.base_model


def test_log_probabilities_are_those_of_the_whole_language_model(base: Path) -> None:
    model, _ = hybrid(base)
    rows = [reading().row(text) for text in ("ask: good", "é", "longer than the others")]
    starts = [5, 0, 3]
    _, found = model.rewards_and_log_probs(rows, starts)
    for row, start, value in zip(rows, starts, found.tolist(), strict=True):
        logits = model.language_model(torch.tensor([row])).logits[0].log_softmax(-1)
        assert value == pytest.approx(sum(logits[t - 1, row[t]].item() for t in range(max(start, 1), len(row))), abs=1e-4)


def test_a_soft_cap_on_the_logits_is_kept(tmp_path: Path) -> None:
    directory = worlds.saved(worlds.gemma2(), tmp_path / "gemma")
    model, _ = hybrid(directory)
    row = reading().row("ask: capped")
    _, (value,) = model.rewards_and_log_probs([row], [5])
    logits = model.language_model(torch.tensor([row])).logits[0].log_softmax(-1)
    assert value.item() == pytest.approx(sum(logits[t - 1, row[t]].item() for t in range(5, len(row))), abs=1e-4)


def test_the_reward_is_read_at_the_last_real_token_whatever_pads(base: Path) -> None:
    model, _ = hybrid(base)
    rows = [reading().row("short"), reading().row("a much longer text"), [0, 0, 0]]  # id 0 is what fills a row, and a token
    together = model.rewards(rows)[:, 0].tolist()
    alone = [model.rewards([row])[0, 0].item() for row in rows]
    assert together == pytest.approx(alone, abs=1e-5)
    with_log_probs = model.rewards_and_log_probs(rows, [1, 1, 1])[0][:, 0].tolist()
    assert with_log_probs == pytest.approx(alone, abs=1e-5)


def test_the_policy_loss_counts_the_tokens_of_the_text_alone(base: Path) -> None:
    _, pairs = hybrid(base)
    assert pairs._starts == [[5, 5, 5], [5, 5, 5]], "the prompt has five bytes"
    spaced = Pairs(reading(max_tokens=8), PAIRS, PAIRS, policy_loss_weight=0.2)
    assert len(spaced._chosen[2]) == 8
    assert spaced._starts[0][2] == 0, "a text that fills the row begins where the row does"


def test_dpo_by_hand() -> None:
    chosen, rejected, zero = torch.tensor([-1.0]), torch.tensor([-4.0]), torch.tensor([0.0])
    assert dpo_loss(chosen, rejected, zero, zero, tau=0.5).item() == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert dpo_loss(chosen, rejected, chosen, rejected).item() == pytest.approx(math.log(2))


def test_an_encoder_has_rewards_but_no_policy_loss(tmp_path: Path) -> None:
    directory = worlds.saved(worlds.classifier("bert", labels=("good",)), tmp_path / "bert")
    model = load_reward_model(str(directory), worlds.BYTES)
    assert model.rewards([reading().row("text")]).shape == (1, 1)
    with pytest.raises(ValueError, match="share no trunk"):
        RewardModel(worlds.classifier("bert"), worlds.llama())


def test_a_reward_model_that_is_trained_on_keeps_its_head(tmp_path: Path) -> None:
    model = load_reward_model(str(worlds.saved(worlds.classifier("llama", labels=("good",)), tmp_path / "rm")), worlds.BYTES)
    assert model.classifier.score.weight.abs().sum() > 0
    assert model.classifier.config.id2label == {0: "good"}
    other = load_reward_model(str(worlds.saved(worlds.classifier("llama"), tmp_path / "two")), worlds.BYTES)
    assert other.classifier.score.weight.shape[0] == 1
    assert not other.classifier.score.weight.abs().sum(), "a head for other labels is replaced"


def test_training_before_the_reference_is_taken_is_an_error(llama_directory: Path) -> None:
    model = load_reward_model(str(llama_directory), worlds.BYTES, policy_head=True)
    with pytest.raises(RuntimeError, match=r"call reference\(model\)"):
        Pairs(reading(), PAIRS, PAIRS, policy_loss_weight=0.2).loss(model, [0])
    with pytest.raises(ValueError, match="weight >= 0 and tau > 0"):
        Pairs(reading(), PAIRS, PAIRS, policy_loss_weight=0.2, tau=0)
