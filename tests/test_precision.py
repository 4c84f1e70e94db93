"""What a policy computes in bf16 and "medium" is near what it computes in float32, and leaves no trace outside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from tests import worlds
from tests.worlds import EOS, VOCABULARY, make
from textenv.agents import LMPolicy, TokenPPO
from textenv.generation import ActionRule
from textenv.precision import medium, prepare, resolved

RULE = ActionRule(VOCABULARY, EOS, 8)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101], [102, 103])]
TEXTS = [np.array(t) for t in ([1, 2, 3, EOS], [4], [5, 6, 7, 8, 9, 10, 11, 12])]
CPU = torch.device("cpu")
MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": worlds.gpt2, "llama": worlds.llama, "gemma2": worlds.gemma2, "t5": worlds.t5, "bart": worlds.bart,
}  # fmt: skip


def usual(layers: int = 4, width: int = 256) -> Any:
    """A GPT-2 with the usual random weights."""
    with worlds.seeded():
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY, n_positions=64, n_layer=layers, n_head=4, n_embd=width, bos_token_id=257, eos_token_id=258
            )
        ).eval()


def read(policy: LMPolicy) -> torch.Tensor:
    with torch.no_grad():
        return policy.evaluate(PROMPTS, TEXTS, RULE).log_probs


def test_bf16_log_probabilities_are_near_those_of_float32() -> None:
    model = usual()
    apart = (read(LMPolicy(copy.deepcopy(model), precision="bf16")) - read(LMPolicy(model, precision="fp32"))).abs()
    assert apart.max() < 0.05
    assert 0 < apart.mean() < 0.005


@pytest.mark.parametrize("name", MODELS)
def test_bf16_is_near_float32_in_every_family(name: str) -> None:
    one, other = (read(LMPolicy(MODELS[name](), precision=precision)) for precision in ("fp32", "bf16"))  # type: ignore[arg-type]
    assert torch.allclose(one, other, atol=0.15)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_bf16_are_float32_not_rounded_to_eight_bits(name: str) -> None:
    policy = LMPolicy(MODELS[name](), precision="bf16")
    with torch.no_grad():
        _, logits, _ = policy.distributions(PROMPTS, TEXTS, RULE)
    assert logits.dtype == torch.float32
    finite = logits[torch.isfinite(logits)]
    assert not torch.equal(finite, finite.bfloat16().float())


def test_gradients_of_bf16_arrive_in_float32_and_point_where_those_of_float32_do() -> None:
    gradients = []
    for precision in ("fp32", "bf16"):
        policy = LMPolicy(usual(2, 64), precision=precision)  # type: ignore[arg-type]
        policy.evaluate(PROMPTS, TEXTS, RULE).log_probs.sum().backward()
        assert {p.grad.dtype for p in policy.model.parameters()} == {torch.float32}
        gradients.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999


def test_medium_is_of_the_forward_pass_alone() -> None:
    policy = LMPolicy(worlds.llama(), precision="medium")
    seen = []
    policy.model.get_output_embeddings().register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    policy.generate(PROMPTS, RULE, None)
    read(policy)
    assert set(seen) == {"medium"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_medium_is_undone_by_an_error_too() -> None:
    with pytest.raises(ValueError, match="within"), medium():
        raise ValueError("within")
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_prepared_model_computes_in_float32_what_it_did_before() -> None:
    model = worlds.gpt2()
    before = read(LMPolicy(model, precision="fp32"))
    read(LMPolicy(model, precision="bf16"))
    prepare(model)
    assert model.config._attn_implementation == "textenv_matmul"
    assert torch.equal(read(LMPolicy(model, precision="fp32")), before)


def test_a_copy_of_a_prepared_policy_has_a_head_of_its_own() -> None:
    policy = LMPolicy(worlds.llama(), precision="bf16")
    before = read(policy)
    copied = policy.copy()
    with torch.no_grad():
        copied.model.lm_head.weight.zero_()
    assert torch.equal(read(policy), before)
    assert torch.allclose(read(copied), -torch.tensor(float(VOCABULARY)).log())


def test_a_prepared_model_is_saved_as_any_other(tmp_path: Path) -> None:
    policy = LMPolicy(worlds.llama(), precision="bf16")
    read(policy)
    policy.save_pretrained(tmp_path)
    assert "textenv_matmul" not in (tmp_path / "config.json").read_text()
    assert worlds.same_weights(LMPolicy(tmp_path, worlds.BYTES).model, policy.model)


def test_auto_is_float32_on_a_cpu_and_for_weights_that_are_no_float32() -> None:
    assert resolved("auto", CPU, torch.float32) == "fp32"
    assert resolved("auto", CPU, torch.bfloat16) == "fp32"
    assert resolved("bf16", CPU, torch.float32) == "bf16"


def test_an_unknown_precision_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown precision 'fp8'; one of auto, fp32, bf16, medium"):
        LMPolicy(worlds.llama(), precision="fp8")  # type: ignore[arg-type]


def test_a_checkpoint_keeps_the_precision_and_load_may_say_another(tmp_path: Path) -> None:
    TokenPPO(worlds.llama(), make(), precision="bf16").save(tmp_path / "agent")
    kept, other = TokenPPO.load(tmp_path / "agent", make()), TokenPPO.load(tmp_path / "agent", make(), precision="medium")
    assert (kept.policy.precision, kept.reference.precision, other.policy.precision) == ("bf16", "bf16", "medium")


def test_a_precision_beside_a_policy_that_has_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision='bf16' .*are for a policy that is made here"):
        TokenPPO(LMPolicy(worlds.llama()), make(), precision="bf16")


class _Casts(TorchDispatchMode):
    """How often a matrix of this shape was cast."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.count += operation is torch.ops.aten._to_copy.default and arguments[0].shape == self.shape
        return operation(*arguments, **(options or {}))


def test_weights_are_cast_once_and_not_for_each_token() -> None:
    policy = LMPolicy(worlds.llama(), precision="bf16", device="cpu")
    weight = policy.model.model.layers[0].mlp.up_proj.weight
    with _Casts(weight.shape) as casts:
        policy.sample([np.array([5, 6])] * 3, ActionRule(VOCABULARY, EOS, 12, 12), torch.rand(3, 12))
    assert 1 <= casts.count <= 2 * len(policy.model.model.layers), "gate_proj has that shape, too"


def test_an_agent_learns_in_bf16() -> None:
    agent = TokenPPO(worlds.llama(), make(), n_episodes=4, batch_size=2, n_epochs=1, precision="bf16", seed=0)
    assert agent.learn(1).num_timesteps
    assert all(torch.isfinite(p).all() for p in agent.policy.parameters())
