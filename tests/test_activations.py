"""The fused activation is the formula."""

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import NewGELUActivation

from tests import worlds
from textenv.activations import fuse_gelu
from textenv.agents import LMPolicy


def gpt2() -> GPT2LMHeadModel:
    with worlds.seeded():
        config = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5)
        return GPT2LMHeadModel(config).eval()


def test_it_says_and_learns_what_the_formula_does() -> None:
    plain = gpt2()
    fused, ids = copy.deepcopy(plain), torch.arange(2, 18).view(2, 8)
    fuse_gelu(fused)
    assert not [m for m in fused.modules() if isinstance(m, NewGELUActivation)]
    for model in (plain, fused):
        model(ids, labels=ids).loss.backward()
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_other_activations_stay() -> None:
    model = worlds.llama()
    kinds = [type(m) for m in model.modules()]
    fuse_gelu(model)
    assert [type(m) for m in model.modules()] == kinds


def test_a_policy_is_saved_as_it_was(tmp_path: object) -> None:
    policy = LMPolicy(gpt2())
    assert any(isinstance(m, nn.GELU) for m in policy.model.modules())
    policy.model.save_pretrained(str(tmp_path))
    loaded = GPT2LMHeadModel.from_pretrained(str(tmp_path))
    ids = torch.arange(2, 10)[None]
    assert torch.allclose(loaded(ids).logits, policy.model(ids).logits, atol=1e-5)
    assert loaded.config.activation_function == "gelu_new"


@pytest.mark.parametrize("value", [-4.0, -0.5, 0.0, 3.0])
def test_the_functions_agree(value: float) -> None:
    x = torch.tensor(value)
    assert torch.allclose(nn.GELU("tanh")(x), NewGELUActivation()(x), atol=1e-6)
