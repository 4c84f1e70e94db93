"""What prompts begin with in common is read once, and changes no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import EOS, VOCABULARY
from textenv import shared_prefix
from textenv.agents import LMPolicy
from textenv.generation import ActionRule, generate
from textenv.shared_prefix import common_beginning

SHARED = list(range(40, 80))
PROMPTS = [np.array([*SHARED, *more]) for more in ([5], [7, 8, 9, 10, 11], [7, 9], [1] * 20)]


def qwen() -> Any:
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    with worlds.seeded():
        return transformers.Qwen3ForCausalLM(config).eval()


def gpt_neo() -> Any:
    """Its second layer looks eight places back."""
    config = transformers.GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=8,
        max_position_embeddings=128, initializer_range=0.2, bos_token_id=257, eos_token_id=EOS,
    )  # fmt: skip
    with worlds.seeded():
        return transformers.GPTNeoForCausalLM(config).eval()


DECODERS: dict[str, Callable[[], Any]] = {"gpt2": worlds.gpt2, "llama": worlds.llama, "qwen": qwen}
OTHERS: dict[str, Callable[[], Any]] = {
    "gemma2, a sliding window": worlds.gemma2, "gpt_neo, a local layer": gpt_neo, "t5": worlds.t5, "bart": worlds.bart,
}  # fmt: skip


def told(model: Any) -> tuple[list[torch.Tensor], list[np.ndarray], int]:
    """The logits of each step, the texts, and the number of ids that the model was given in all."""
    logits, read = list[torch.Tensor](), list[int]()

    def choose(found: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        logits.append(found.clone())
        return found.argmax(-1)

    handle = model.get_input_embeddings().register_forward_hook(lambda _, __, output: read.append(output.shape[:2].numel()))
    texts = generate(model, PROMPTS, max_new_tokens=8, eos_token_id=EOS, choose=choose)
    handle.remove()
    return logits, texts, sum(read)


@pytest.mark.parametrize("name", DECODERS)
def test_logits_and_texts_are_those_of_prompts_that_were_read_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, texts, few = told(DECODERS[name]())
    monkeypatch.setattr(shared_prefix, "LEAST", 1000)
    apart, expected, many = told(DECODERS[name]())
    assert [text.tolist() for text in texts] == [text.tolist() for text in expected]
    for one, other in zip(shared, apart, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert few == many - (len(PROMPTS) - 1) * len(SHARED)


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_for_which_it_would_not_be_exact_reads_every_prompt_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OTHERS[name]()
    found = told(model)
    monkeypatch.setattr(shared_prefix, "LEAST", 1000)
    expected = told(model)
    assert [logits.tolist() for logits in found[0]] == [logits.tolist() for logits in expected[0]]


def test_beyond_a_window_what_is_recorded_of_texts_is_what_is_computed_afterwards() -> None:
    policy, rule = LMPolicy(gpt_neo(), device="cpu"), ActionRule(VOCABULARY, EOS, 8)
    sampled = policy.sample(PROMPTS, rule, torch.rand(len(PROMPTS), 8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        again = policy.evaluate(PROMPTS, sampled.tokens, rule).log_probs
    assert sampled.log_probs is not None
    assert np.concatenate(sampled.log_probs) == pytest.approx(again.numpy(), rel=1e-5, abs=1e-5)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 40))
def test_each_prompt_begins_with_what_is_in_common_and_goes_on(tails: list[list[int]], length: int) -> None:
    prompts = [np.array([9] * length + tail) for tail in tails]
    known = common_beginning(prompts)
    assert all(prompt[:known].tolist() == prompts[0][:known].tolist() and len(prompt) > known for prompt in prompts)
    if known:
        nexts = {int(prompt[known]) for prompt in prompts}
        assert len(nexts) > 1 or min(map(len, prompts)) == known + 1
