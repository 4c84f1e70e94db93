"""Cached, batched decoding says what recomputing every step would say, and samples what the model believes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import EOS
from textenv.generation import ActionRule, generate, greedy, sample
from textenv.padding import left_pad

PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101, 102], [103, 104], [0, 1, 2, 3, 4, 5, 6])]  # ragged
MODELS: dict[str, Callable[[], Any]] = {
    "llama": worlds.llama, "gpt2": worlds.gpt2, "gemma2": worlds.gemma2, **worlds.ENCODER_DECODERS,
}  # fmt: skip


def by_itself(model: Any, prompt: Any, text: Any) -> torch.Tensor:
    """(T, V) logits of one text's tokens, from one plain forward pass."""
    if model.config.is_encoder_decoder:
        written = torch.tensor([[model.config.decoder_start_token_id, *text[:-1]]])
        return model(input_ids=torch.from_numpy(prompt)[None], decoder_input_ids=written).logits[0]
    return model(torch.from_numpy(np.concatenate([prompt, text]))[None]).logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_cached_logits_equal_those_of_a_fresh_pass(name: str) -> None:
    model, length = MODELS[name](), 12
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def choose(logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        for row, values in zip(rows.tolist(), logits, strict=True):
            seen[row, step] = values.clone()
        # Texts 0 and 2 end early: their rows leave the batch.
        tokens = (rows * 7 + step * 11) % 256
        return torch.where(((rows % 2 == 0) & (step >= 3)), EOS, tokens)

    texts = generate(model, PROMPTS, max_new_tokens=length, eos_token_id=EOS, choose=choose)
    assert [len(text) for text in texts] == [4, 12, 4, 12]
    for row, (prompt, text) in enumerate(zip(PROMPTS, texts, strict=True)):
        fresh = by_itself(model, prompt, text)
        cached = torch.stack([seen[row, step] for step in range(len(text))])
        assert torch.allclose(cached, fresh, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "t5", "bart"])
def test_rows_that_have_ended_leave_the_batch(name: str) -> None:
    widths = []

    def choose(logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        widths.append(len(rows))
        return torch.where(rows <= step, EOS, 97)

    generate(MODELS[name](), PROMPTS, max_new_tokens=8, eos_token_id=EOS, choose=choose)
    assert widths == [4, 3, 2, 1]


@pytest.mark.parametrize("name", MODELS)
def test_a_text_does_not_depend_on_its_neighbours(name: str) -> None:
    model = MODELS[name]()
    together = generate(model, PROMPTS, max_new_tokens=6, eos_token_id=EOS)
    alone = [generate(model, [prompt], max_new_tokens=6, eos_token_id=EOS)[0] for prompt in PROMPTS]
    assert [text.tolist() for text in together] == [text.tolist() for text in alone]


def test_any_of_several_ids_ends_a_text() -> None:
    def choose(logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        return torch.where(rows == 0, 10, 11) if step == 2 else torch.full_like(rows, 97)

    texts = generate(worlds.llama(), PROMPTS[:2], max_new_tokens=6, eos_token_id=[10, 11], choose=choose)
    assert [text.tolist() for text in texts] == [[97, 97, 10], [97, 97, 11]]


def test_no_prompts_give_no_texts() -> None:
    assert generate(worlds.llama(), [], max_new_tokens=4, eos_token_id=EOS) == []


def test_the_budget_ends_every_text() -> None:
    texts = generate(worlds.llama(), PROMPTS, max_new_tokens=5, eos_token_id=-1)
    assert [len(text) for text in texts] == [5] * 4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_more_tokens_than_positions_are_refused_with_both_numbers(name: str) -> None:
    with pytest.raises(ValueError, match="a prompt of 7 tokens and 122 new ones need 129 positions; the model has 128"):
        generate(MODELS[name](), PROMPTS, max_new_tokens=122, eos_token_id=EOS)


def test_the_last_position_can_be_used() -> None:
    assert len(generate(worlds.gpt2(), [np.array([1])], max_new_tokens=127, eos_token_id=-1)[0]) == 127


def test_an_encoder_and_its_decoder_have_positions_each() -> None:
    assert len(generate(worlds.bart(), [np.full(128, 97)], max_new_tokens=128, eos_token_id=-1)[0]) == 128
    with pytest.raises(ValueError, match="a prompt of 129 tokens in 128 positions"):
        generate(worlds.bart(), [np.full(129, 97)], max_new_tokens=1, eos_token_id=EOS)
    with pytest.raises(ValueError, match="the decoder writes 129 in 128"):
        generate(worlds.bart(), [np.array([97])], max_new_tokens=129, eos_token_id=EOS)


def test_relative_positions_have_no_end() -> None:
    assert len(generate(worlds.t5(), [np.full(600, 97)], max_new_tokens=140, eos_token_id=-1)[0]) == 140


def test_a_decoder_that_does_not_know_how_to_begin_is_named() -> None:
    model = worlds.t5()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(ValueError, match=r"set model\.config\.decoder_start_token_id"):
        generate(model, PROMPTS, max_new_tokens=2, eos_token_id=EOS)


def test_padding_is_on_the_left_under_a_mask() -> None:
    tokens, mask = left_pad([np.array([5]), np.array([6, 7, 8])])
    assert tokens.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


# --- Sampling ----------------------------------------------------------------------------------------------------------

LOGITS = st.lists(st.floats(-30, 30) | st.just(float("-inf")), min_size=2, max_size=9).filter(lambda x: max(x) > float("-inf"))


@given(logits=LOGITS)
def test_evenly_spread_numbers_sample_every_token_as_often_as_it_is_likely(logits: list[float]) -> None:
    n = 1000
    row = torch.tensor(logits)
    tokens = sample(row.expand(n, -1), (torch.arange(n) + 0.5) / n)
    counts = torch.bincount(tokens, minlength=len(logits)) / n
    assert torch.allclose(counts, row.softmax(0), atol=2 / n)


@given(logits=LOGITS, uniform=st.floats(0, 1, exclude_max=True, width=32))
def test_a_token_of_probability_zero_is_never_sampled(logits: list[float], uniform: float) -> None:
    row = torch.tensor([logits])
    for u in (uniform, 0.0, float(np.nextafter(np.float32(1), np.float32(0)))):
        (token,) = sample(row, torch.tensor([u])).tolist()
        assert row.softmax(-1)[0, token] > 0


@given(
    logits=st.lists(st.floats(-5, 5), min_size=2, max_size=9),
    k=st.integers(1, 9),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
)
def test_top_k_samples_among_the_k_most_likely(logits: list[float], k: int, uniform: float) -> None:
    (token,) = sample(torch.tensor([logits]), torch.tensor([uniform]), top_k=k).tolist()
    probabilities = torch.tensor(logits).softmax(0)
    assert int((probabilities > probabilities[token]).sum()) < k


def test_top_k_keeps_k_tokens_of_equal_probability() -> None:
    tokens = sample(torch.zeros(100, 10), torch.arange(100) / 100, top_k=3)
    assert len(set(tokens.tolist())) == 3


@given(
    logits=st.lists(st.floats(-5, 5), min_size=2, max_size=9),
    p=st.floats(0.05, 0.95),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
)
def test_top_p_samples_from_the_smallest_set_that_holds_p(logits: list[float], p: float, uniform: float) -> None:
    (token,) = sample(torch.tensor([logits]), torch.tensor([uniform]), top_p=p).tolist()
    probabilities = torch.tensor(logits).softmax(0)
    assert float(probabilities[probabilities > probabilities[token]].sum()) < p + 1e-5


def test_top_p_keeps_the_most_likely_token_at_least() -> None:
    assert set(sample(torch.tensor([[1.0, 3.0, 2.0]]).expand(50, -1), torch.arange(50) / 50, top_p=1e-9).tolist()) == {1}


def test_truncated_distributions_keep_their_proportions() -> None:
    n, row = 1000, torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    for options in ({"top_k": 2}, {"top_p": 0.65}):
        tokens = sample(row.expand(n, -1), (torch.arange(n) + 0.5) / n, **options)
        counts = torch.bincount(tokens, minlength=4) / n
        assert torch.allclose(counts, torch.tensor([0, 0, 3 / 7, 4 / 7]), atol=2 / n)


def test_greedy_takes_the_most_likely() -> None:
    assert greedy(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0]), 0).tolist() == [1]


# --- What may be said --------------------------------------------------------------------------------------------------


def test_the_rule_cuts_rows_that_are_no_ids_and_forbids_an_early_end() -> None:
    rule = ActionRule(vocabulary=3, eos_token_id=2, max_new_tokens=5, min_new_tokens=2)
    logits = rule.restrict(torch.zeros(3, 5), torch.tensor([0, 1, 2]))
    assert torch.isinf(logits).tolist() == [[False, False, True], [False, False, True], [False, False, False]]


def test_the_rule_reads_one_step_for_all_rows() -> None:
    rule = ActionRule(vocabulary=3, eos_token_id=2, max_new_tokens=5, min_new_tokens=2)
    assert torch.isinf(rule.restrict(torch.zeros(2, 3), 1))[:, 2].all()
    assert not torch.isinf(rule.restrict(torch.zeros(2, 3), 2)).any()
