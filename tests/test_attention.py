"""Attention by batched products equals PyTorch's fused kernel, for every mask, bias and sharing of key heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from textenv.attention import attention


class Layer(torch.nn.Module):
    """What an attention function reads of the layer that calls it."""

    def __init__(self, groups: int = 1, is_causal: bool = True) -> None:
        super().__init__()
        self.num_key_value_groups, self.is_causal = groups, is_causal


def tensors(q: int, length: int, groups: int = 1, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4, q, 8), (3, 4 // groups, length, 8), (3, 4 // groups, length, 8))
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return query, key, value


def both(layer: Layer, q: int, length: int, mask: Tensor | None = None, **given: Any) -> tuple[Tensor, Tensor]:
    """What is tested, and the fused kernel on the same numbers in float32."""
    query, key, value = tensors(q, length, layer.num_key_value_groups)
    fast, _ = attention(layer, query, key, value, mask, **given)
    slow, _ = sdpa_attention_forward(layer, query.float(), key.float(), value.float(), mask, **given)
    return fast.float(), slow


MASK = torch.ones(3, 1, 5, 5, dtype=torch.bool).tril()
MASK[1, :, :, :2] = False
MASK[1, :, 0, 0] = MASK[1, :, 1, 1] = True


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("mask", [None, MASK, torch.zeros(3, 1, 5, 5).masked_fill(~MASK, -1e9)], ids=["none", "bool", "addend"])
def test_products_equal_the_fused_kernel(groups: int, mask: Tensor | None) -> None:
    fast, slow = both(Layer(groups), 5, 5, mask)
    assert torch.allclose(fast, slow, atol=0.03)


@pytest.mark.parametrize("groups", [1, 2])
def test_one_new_token_reads_all_that_is_kept(groups: int) -> None:
    fast, slow = both(Layer(groups), 1, 7)
    assert torch.allclose(fast, slow, atol=0.03)


def test_an_encoder_reads_what_follows() -> None:
    fast, slow = both(Layer(is_causal=False), 5, 5)
    assert torch.allclose(fast, slow, atol=0.03)


def test_room_behind_a_prompt_is_not_read() -> None:
    fast, slow = both(Layer(), 5, 9)
    assert torch.allclose(fast, slow, atol=0.03)


def test_a_position_bias_is_added_and_the_scale_is_the_callers() -> None:
    bias = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    fast, slow = both(Layer(), 5, 5, MASK, position_bias=bias, scaling=1.0)
    assert torch.allclose(fast, slow, atol=0.06)


def test_float32_is_left_to_the_fused_kernel_bit_for_bit() -> None:
    query, key, value = tensors(5, 5, dtype=torch.float32)
    assert torch.equal(attention(Layer(), query, key, value, MASK)[0], sdpa_attention_forward(Layer(), query, key, value, MASK)[0])


def test_float32_queries_under_autocast_are_products_of_bfloat16() -> None:
    query, key, value = tensors(5, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(Layer(), query, key, value, MASK)[0].dtype == torch.bfloat16
