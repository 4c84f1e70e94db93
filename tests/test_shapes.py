"""Few shapes: what fills them up changes no number."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from textenv.agents import LMPolicy
from textenv.agents.ppo.nlpo import NLPO, MaskedPolicy
from textenv.batching import by_length
from textenv.generation import ActionRule
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.shapes import COARSE, FINE, few, grain, halved

RULE = ActionRule(worlds.VOCABULARY, 2, 16)
PROMPTS = [np.arange(3, 3 + n) for n in (4, 1, 7, 5, 2)]
TEXTS = [np.arange(10, 10 + n) for n in (3, 9, 1, 6, 2)]
USERS = ("layouts", "generation", "agents.reading", "judges.scorers")


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make every shape coarse, in float32, from the call on."""

    def switch() -> None:
        for module in USERS:
            monkeypatch.setattr(f"textenv.{module}.grain", lambda _: COARSE)

    return switch


def read(policy: LMPolicy) -> tuple[torch.Tensor, ...]:
    """Numbers and gradients of finished texts."""
    torch.nn.init.ones_(policy.value_head.weight)
    policy.zero_grad()
    out = policy.evaluate(PROMPTS, TEXTS, RULE, entropy=True)
    (out.log_probs.mean() + 0.1 * out.values.mean() + out.entropy.mean()).backward()
    gradients = [p.grad.clone() for p in policy.parameters() if p.grad is not None]
    return out.log_probs.detach(), out.values.detach(), out.entropy.detach(), *gradients


@pytest.mark.parametrize("frozen", [0, 1])
def test_rounded_passes_say_what_exact_ones_say(frozen: int, coarse: Any) -> None:
    policy = LMPolicy(worlds.llama(), frozen_layers=frozen)

    def numbers() -> Iterator[torch.Tensor]:
        yield from read(policy)
        if frozen:
            lower = policy.lower_states(PROMPTS, TEXTS, RULE)
            yield policy.evaluate(PROMPTS, TEXTS, RULE, lower=lower).log_probs.detach()

    exact = list(numbers())
    coarse()
    for one, other in zip(exact, numbers(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_texts_are_the_same_whichever_rows_stay(coarse: Any) -> None:
    policy, numbers = LMPolicy(worlds.llama()), torch.rand(5, 16, generator=torch.Generator().manual_seed(0))
    rule = ActionRule(worlds.VOCABULARY, 97, 16)  # an id that is drawn now and then
    exact = policy.generate(PROMPTS, rule, numbers)
    coarse()
    assert [t.tolist() for t in policy.generate(PROMPTS, rule, numbers)] == [t.tolist() for t in exact]


def test_masks_of_an_older_policy_stay_with_their_texts_whichever_rows_stay(coarse: Any) -> None:
    model = worlds.gpt2(initializer_range=0.6)
    with torch.no_grad():
        model.transformer.ln_f.bias.copy_(model.transformer.wte.weight[worlds.EOS])  # texts end at any length
    policy, rule = MaskedPolicy(LMPolicy(model), NLPO(top_p=0.5)), ActionRule(worlds.VOCABULARY, worlds.EOS, 12)
    prompts = [np.random.default_rng(i).integers(97, 122, 5) for i in range(32)]
    coarse()
    texts = policy.generate(prompts, rule, torch.rand(32, 12, generator=torch.Generator().manual_seed(0)))
    kept = policy.masks(prompts, texts, rule)
    policy.forget()
    assert len({len(text) for text in texts}) > 3
    assert torch.equal(kept, policy.masks(prompts, texts, rule))


def test_columns_are_rounded_where_a_model_multiplies_in_bfloat16() -> None:
    model = worlds.llama()
    layout = LMPolicy(model).layout
    assert grain(model) == FINE
    assert layout.positions(PROMPTS, TEXTS, apart=True).inputs["input_ids"].shape == (5, 11)
    with torch.autocast("cpu", torch.bfloat16):
        assert grain(model) == COARSE
        assert layout.positions(PROMPTS, TEXTS, apart=True).inputs["input_ids"].shape == (5, 16)
        assert layout.positions(PROMPTS, TEXTS).inputs["input_ids"].shape == (3, 16)


def test_columns_are_never_more_than_the_positions_of_the_model() -> None:
    model = worlds.llama()
    model.config.max_position_embeddings = 12
    with torch.autocast("cpu", torch.bfloat16):
        assert LMPolicy(model).layout.positions(PROMPTS, TEXTS, apart=True).inputs["input_ids"].shape == (5, 12)


def test_weights_of_bfloat16_count_on_a_cpu_alone() -> None:
    assert halved("cpu", torch.bfloat16)
    assert not halved("cuda", torch.bfloat16)
    assert not halved("cpu", torch.float32)


def test_a_judge_scores_alike_in_rounded_rows(coarse: Any) -> None:
    scorer = SequenceClassifierScorer("textenv/tiny-toxicity", label="toxic")
    texts = ["You are a fool.", "I read your note and it was kind.", "No."]
    exact = scorer.score_texts(texts)
    coarse()
    assert scorer.score_texts(texts) == pytest.approx(exact, abs=1e-6)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(1, 20), st.integers(1, 600))
def test_batches_come_in_multiples_of_rows_but_for_the_last(lengths: list[int], batch_size: int, tokens: int) -> None:
    batches = by_length(lengths, batch_size, tokens, overhead=10, grain=COARSE)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        wide = -(-max(lengths[i] for i in batch) // COARSE.columns) * COARSE.columns
        assert len(batch) == 1 or (len(batch) <= batch_size and len(batch) * wide <= tokens)
    if batch_size >= COARSE.rows and COARSE.rows * (max(lengths) + COARSE.columns) <= tokens:
        assert all(len(batch) % COARSE.rows == 0 for batch in batches[:-1])


@given(st.integers(1, 10_000))
def test_few_numbers_of_rows_are_each_at_most_a_third_too_many(n: int) -> None:
    assert n <= few(n) < max(n + 1, 1.5 * n)
    assert few(few(n)) == few(n)


def test_a_judge_of_bfloat16_attends_as_the_policy_does() -> None:
    scorer = SequenceClassifierScorer("textenv/tiny-toxicity", label="toxic", dtype=torch.bfloat16, device="cpu")
    assert scorer.model.config._attn_implementation == "textenv_matmul"
    plain = SequenceClassifierScorer("textenv/tiny-toxicity", label="toxic", device="cpu")
    texts = ["You are a fool.", "I read your note and it was kind."]
    assert scorer.score_texts(texts) == pytest.approx(plain.score_texts(texts), abs=0.05)
