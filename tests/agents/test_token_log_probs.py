"""The head in parts gives what the head in one piece gives: log-probabilities, entropies and every gradient, for every family."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests import worlds
from tests.worlds import EOS, VOCABULARY
from textenv.agents import LMPolicy, token_log_probs
from textenv.generation import ActionRule

RULE = ActionRule(VOCABULARY, EOS, 8, min_new_tokens=2)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101], [102, 103])]
TEXTS = [np.array(t) for t in ([1, 2, 3, EOS], [4], [5, 6, 7, 8, 9, 10, 11, 12])]


def qwen2() -> Any:
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.2, pad_token_id=256, bos_token_id=257,
        eos_token_id=258, tie_word_embeddings=True,
    )  # fmt: skip
    with worlds.seeded():
        return transformers.Qwen2ForCausalLM(config).eval()


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": worlds.gpt2, "llama": worlds.llama, "qwen2": qwen2, "gemma2": worlds.gemma2, "t5": worlds.t5,
    "bart with a bias": lambda: worlds.bart(bias=True),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", FAMILIES)


def read(policy: LMPolicy, entropy: bool) -> dict[str, torch.Tensor]:
    """Numbers, and the gradient of each parameter with a weight of its own for each token."""
    out = policy.evaluate(PROMPTS, TEXTS, RULE, entropy=entropy)
    weights = torch.linspace(-1, 1, len(out.log_probs))
    loss = (weights * (out.log_probs + out.values)).sum() / len(weights)
    if out.entropy is not None:
        loss = loss + (weights.cos() * out.entropy).sum() / len(weights)
    policy.zero_grad()
    loss.backward()
    found = {f"gradient of {name}": p.grad for name, p in policy.named_parameters() if p.grad is not None}
    return {"log_probs": out.log_probs.detach(), **({} if out.entropy is None else {"entropy": out.entropy.detach()}), **found}


def assert_the_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        scale = max(1.0, tensor.abs().max().item())
        assert (tensor - other[name]).abs().max().item() <= 1e-6 * scale, name


@EVERY
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("lora", [None, 4])
def test_the_head_in_parts_is_the_head_whole(name: str, entropy: bool, lora: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LMPolicy(FAMILIES[name](), lora=lora)
    torch.nn.init.ones_(policy.value_head.weight)
    whole = read(policy, entropy)
    monkeypatch.setattr(token_log_probs, "MAX_LOGITS", 5 * VOCABULARY)
    assert_the_same(whole, read(policy, entropy))


@EVERY
@pytest.mark.parametrize("gradients", [False, True])
def test_the_logits_of_all_tokens_never_stand_in_memory(name: str, gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LMPolicy(FAMILIES[name]())
    policy.evaluate(PROMPTS, TEXTS, RULE)
    monkeypatch.setattr(token_log_probs, "MAX_LOGITS", 5 * VOCABULARY)
    rows: list[int] = []
    policy.layout.head.register_forward_hook(lambda _, __, output: rows.append(output.shape[:-1].numel()))
    with torch.set_grad_enabled(gradients):
        out = policy.evaluate(PROMPTS, TEXTS, RULE)
    if gradients:
        out.log_probs.sum().backward()
    assert rows == [1, 5, 5, 3, *([3, 5, 5] if gradients else [])]


@pytest.mark.parametrize(("fewest", "rows"), [(1, [1, 4, 4, 4, 1]), (6, [1, 6, 6, 1])])
def test_without_gradients_parts_are_small_but_not_tiny(fewest: int, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LMPolicy(worlds.llama())
    with torch.no_grad():
        whole = policy.evaluate(PROMPTS, TEXTS, RULE).log_probs
        monkeypatch.setattr(token_log_probs, "SMALL_PART", 4 * VOCABULARY)
        monkeypatch.setattr(token_log_probs, "FEWEST_ROWS", fewest)
        found: list[int] = []
        policy.layout.head.register_forward_hook(lambda _, __, output: found.append(output.shape[:-1].numel()))
        assert torch.allclose(policy.evaluate(PROMPTS, TEXTS, RULE).log_probs, whole, atol=1e-6)
    assert found == rows


def test_a_head_that_reads_more_than_the_last_hidden_state_is_refused() -> None:
    class Strange(transformers.LlamaForCausalLM):
        def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
            output = super().forward(input_ids=input_ids, **kwargs)
            output.logits = output.logits + input_ids[..., -1:, None]
            return output

    policy = LMPolicy(Strange(worlds.llama().config).eval())
    with pytest.raises(ValueError, match="Strange are not a function of what its LlamaModel puts out"):
        policy.evaluate(PROMPTS, TEXTS, RULE)


MEASURE = """
import resource, sys, numpy as np, torch, transformers
from textenv.agents import LMPolicy
from textenv.generation import ActionRule
config = transformers.GPT2Config(vocab_size={vocabulary}, n_embd=64, n_layer=1, n_head=2, n_positions=128)
policy = LMPolicy(transformers.GPT2LMHeadModel(config).eval(), device="cpu")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
rule, before = ActionRule({vocabulary}, 0, 64), None
for texts in (1, {texts}):
    before, out = peak(), policy.evaluate([np.arange(1, 9)] * texts, [np.arange(1, 65)] * texts, rule)
    out.log_probs.sum().backward()
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_tokens_times_vocabulary() -> None:
    code = MEASURE.format(vocabulary=50_257, texts=32)  # whole, logits are 392 MiB, three times
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 500
