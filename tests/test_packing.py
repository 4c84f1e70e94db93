"""Several texts in one row: none is lost, none reads another, and no number is another than alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tests import worlds
from textenv.agents import LMPolicy
from textenv.generation import ActionRule
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.layouts import layout_of
from textenv.packing import fill, passes
from textenv.shapes import COARSE, FINE

RULE = ActionRule(worlds.VOCABULARY, 2, 48)
LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=40)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 250, n) for n in (3, 5, 2, 9, 4, 7, 1, 2)]
TEXTS = [RNG.integers(3, 250, n) for n in (20, 2, 7, 11, 1, 5, 3, 30)]


PACK = {
    "gpt2": worlds.gpt2, "llama": worlds.llama, "gemma2": worlds.gemma2,
    "mistral, windows": lambda: worlds.decoder("Mistral", sliding_window=4),
    "qwen2, windows": lambda: worlds.decoder("Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": lambda: worlds.decoder("Qwen3", head_dim=8), "mixtral": lambda: worlds.decoder("Mixtral", num_local_experts=4),
    "eager": lambda: worlds.decoder("Llama", attn_implementation="eager"),
}  # fmt: skip
APART = {
    "bloom, ALiBi": lambda: worlds.decoder("Bloom", n_layer=2, n_head=4),
    "opt, positions of its mask": lambda: worlds.decoder("OPT", ffn_dim=64, word_embed_proj_dim=32),
    "gpt-neo, masks of its own": lambda: worlds.decoder(
        "GPTNeo", attention_types=[[["global", "local"], 1]], num_layers=2, num_heads=4, window_size=4
    ),
    "t5": worlds.t5, "bart": worlds.bart,
}  # fmt: skip


def numbers(policy: LMPolicy) -> list[torch.Tensor]:
    """Log-probabilities, values and gradients of the texts."""
    policy.zero_grad()
    torch.nn.init.ones_(policy.value_head.weight)
    found = policy.evaluate(PROMPTS, TEXTS, RULE)
    (found.log_probs.mean() + found.values.mean()).backward()
    return [found.log_probs.detach(), found.values.detach(), *(p.grad for p in policy.parameters() if p.grad is not None)]


# --- Where texts stand -------------------------------------------------------------------------------------------------


@given(LENGTHS, st.sampled_from([FINE, COARSE]), st.none() | st.integers(1, 400))
def test_every_text_is_in_one_row_and_every_row_holds_its_texts(lengths: list[int], grain: Any, most: int | None) -> None:
    rows = fill(lengths, most=most, grain=grain)
    assert sorted(i for row in rows.texts for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= rows.width for row in rows.texts)
    assert rows.width % grain.columns == 0
    assert most is None or rows.width <= max(most, -(-max(lengths) // grain.columns) * grain.columns)


@given(LENGTHS, st.integers(1, 20), st.integers(1, 900), st.sampled_from([FINE, COARSE]))
def test_no_pass_exceeds_its_bounds_but_a_text_alone(lengths: list[int], batch_size: int, tokens: int, grain: Any) -> None:
    plan = passes(lengths, batch_size, tokens, overhead=10, grain=grain)
    assert sorted(i for part in plan for i in part) == list(range(len(lengths)))
    for part in plan:
        rows = fill([lengths[i] for i in part], grain=grain)
        assert len(part) == 1 or (len(part) <= batch_size and rows.width * len(rows.texts) <= tokens)


@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("grain", [FINE, COARSE])
def test_texts_that_end_anywhere_take_few_passes_of_little_padding(n: int, grain: Any) -> None:
    shares, counts = [], []
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(17, 145, n).tolist()
        plan = passes(lengths, n, 10**6, overhead=64, grain=grain)
        rows = [fill([lengths[i] for i in part], grain=grain) for part in plan]
        shares.append(sum(len(one.texts) * one.width for one in rows) / sum(lengths))
        counts.append(len(plan))
    assert np.mean(shares) <= 1.15  # passes by length: 1.06 to 1.26, and three to eight of them
    assert np.mean(counts) <= 3


def test_texts_of_one_length_have_a_row_each() -> None:
    assert fill([48] * 16).texts == [[i] for i in range(16)]


# --- What is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("kind", PACK)
def test_numbers_and_gradients_in_a_row_with_others_are_those_alone(
    kind: str, frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = LMPolicy(PACK[kind](), frozen_layers=frozen, device="cpu")
    shape = policy.layout.positions(PROMPTS, TEXTS).inputs["input_ids"].shape
    assert shape[0] < len(TEXTS)
    packed = numbers(policy)
    monkeypatch.setattr("textenv.layouts.packs", lambda *_: False)
    for one, other in zip(packed, numbers(policy), strict=True):
        assert (one - other).abs().max() <= 1e-6 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_frozen_layers_are_replayed_where_their_texts_stand(kind: str) -> None:
    policy = LMPolicy(PACK[kind](), frozen_layers=1, device="cpu")
    lower = policy.lower_states(PROMPTS, TEXTS, RULE)
    assert [len(states) for states in lower] == [len(p) + len(t) for p, t in zip(PROMPTS, TEXTS, strict=True)]
    order = [3, 0, 7, 1, 6]
    some = [[rows[i] for i in order] for rows in (PROMPTS, TEXTS, lower)]
    replayed = policy.evaluate(some[0], some[1], RULE, lower=some[2]).log_probs
    assert torch.allclose(replayed, policy.evaluate(some[0], some[1], RULE).log_probs, atol=1e-5)


@pytest.mark.parametrize("kind", APART)
def test_models_that_would_read_otherwise_have_a_row_for_each_text(kind: str) -> None:
    model = APART[kind]()
    at = layout_of(model).positions(PROMPTS, TEXTS)
    assert at.begins.tolist() == [[i, 0] for i in range(len(TEXTS))]


def test_a_kernel_that_overlooks_the_mask_is_found_out() -> None:
    def heedless(module: Any, query: Any, key: Any, value: Any, mask: Any, **others: Any) -> tuple[torch.Tensor, None]:
        read = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1, enable_gqa=True)
        return read.transpose(1, 2).contiguous(), None

    AttentionInterface.register("heedless", heedless)
    AttentionMaskInterface.register("heedless", sdpa_mask)
    model = worlds.llama()
    assert len(layout_of(model).positions(PROMPTS, TEXTS).inputs["input_ids"]) < len(TEXTS)
    model.set_attn_implementation("heedless")
    assert len(layout_of(model).positions(PROMPTS, TEXTS).inputs["input_ids"]) == len(TEXTS)


def test_a_row_may_be_wider_than_the_positions_of_a_model() -> None:
    policy = LMPolicy(worlds.gpt2(n_positions=32), device="cpu")
    prompts, texts = [np.arange(3, 5)] * 12, [RNG.integers(3, 250, 10 + i) for i in range(12)]
    assert policy.layout.positions(prompts, texts).inputs["input_ids"].shape[1] > 32
    found = policy.evaluate(prompts, texts, RULE).log_probs
    alone = torch.cat([policy.evaluate([p], [t], RULE).log_probs for p, t in zip(prompts, texts, strict=True)])
    assert torch.allclose(found, alone, atol=1e-5)


def test_dropout_does_not_hide_that_a_model_packs_and_its_mode_stays() -> None:
    model = worlds.gpt2(resid_pdrop=0.5).train()
    before = torch.get_rng_state()
    assert len(layout_of(model).positions(PROMPTS, TEXTS).inputs["input_ids"]) < len(TEXTS)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_judge_says_in_a_row_with_others_what_it_says_alone(kind: str) -> None:
    judge = SequenceClassifierScorer(worlds.classifier(kind), label=1, tokenizer=worlds.BYTES)
    texts = ["Short.", "A much longer text, by far.", "x", "Middling, as it is.", "So. It. Goes.", "Yes"]
    alone = [judge.score_texts([text])[0] for text in texts]
    seen: list[int] = []
    judge.model.get_input_embeddings().register_forward_hook(lambda _, ids, __: seen.append(len(ids[0])))
    judge.score_texts(texts)  # the first time it is tried
    seen.clear()
    assert judge.score_texts(texts) == pytest.approx(alone, abs=1e-6)
    assert sum(seen) < len(texts)


def test_a_row_without_a_mask_is_not_looked_through_for_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, asked = LMPolicy(worlds.gpt2(pad_token_id=0), device="cpu"), list[int]()
    trunk = policy.model.get_decoder()
    monkeypatch.setattr(type(trunk), "warn_if_padding_and_no_attention_mask", lambda *_: asked.append(1))
    assert (policy.layout.positions(PROMPTS, TEXTS).inputs["input_ids"][:, -1] == 0).any()
    policy.evaluate(PROMPTS, TEXTS, RULE)
    assert not asked
    assert "warn_if_padding_and_no_attention_mask" not in vars(trunk)
