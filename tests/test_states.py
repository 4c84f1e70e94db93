"""Reading with a memory, reading in one pass, and reading each text alone give the same numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests import worlds
from tests.worlds import VOCABULARY
from textenv.layouts import layout_of
from textenv.states import PrefixCache, read_states


def small(name: str, **options: Any) -> Any:
    """Another kind of causal model."""
    settings = {"vocab_size": VOCABULARY, "hidden_size": 32, "initializer_range": 0.2, "bos_token_id": 257, "eos_token_id": 258}
    with worlds.seeded():
        return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**{**settings, **options})).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "llama": worlds.llama,
    "gpt2: learned positions": worlds.gpt2,
    "gemma2: a sliding window, capped logits": worlds.gemma2,
    "mistral: a window shorter than the texts": lambda: small(
        "Mistral", intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, sliding_window=4
    ),
    "bloom: no positions": lambda: small("Bloom", n_layer=2, n_head=2),
}


def growing(seed: int, calls: int, n: int = 4, fresh: float = 0.15) -> list[list[Any]]:
    """Ragged texts that grow by a token a call; now and then one begins anew."""
    random = np.random.default_rng(seed)

    def new() -> Any:
        return random.integers(VOCABULARY, size=random.integers(1, 9))

    rows, out = [new() for _ in range(n)], []
    for _ in range(calls):
        out.append(rows)
        rows = [new() if random.random() < fresh else np.append(row, random.integers(VOCABULARY)) for row in rows]
    return out


def alone(model: Any, row: Any) -> Any:
    """The logits after a text, by the model itself, without padding."""
    with torch.no_grad():
        return model(input_ids=torch.tensor(row)[None]).logits[0, -1]


@pytest.mark.parametrize("kind", MODELS)
def test_with_and_without_memory_the_numbers_are_those_of_each_text_alone(kind: str) -> None:
    model = MODELS[kind]()
    cache = PrefixCache(model)
    for rows in growing(0, 25):
        kept = cache.read(rows)
        with torch.no_grad():
            read = read_states(model, rows)
        assert torch.allclose(kept.logits, read.logits, atol=1e-5)
        assert torch.allclose(kept.hidden, read.hidden, atol=1e-5)
        assert torch.allclose(kept.logits[0], alone(model, rows[0]), atol=1e-5)


def test_a_token_is_read_once() -> None:
    cache = PrefixCache(worlds.llama())
    calls = growing(1, 12)
    expected = sum(map(len, calls[0]))
    for before, rows in itertools.pairwise(calls):
        went_on = [len(b) + 1 == len(a) and np.array_equal(a[:-1], b) for a, b in zip(rows, before, strict=True)]
        expected += sum(1 if on else len(row) for on, row in zip(went_on, rows, strict=True))
    for rows in calls:
        cache.read(rows)
    assert cache.tokens_read == expected < sum(len(row) for rows in calls for row in rows)


def test_the_same_texts_again_cost_nothing() -> None:
    cache = PrefixCache(worlds.llama())
    first = cache.read([np.array([1, 2]), np.array([3])])
    again = cache.read([np.array([1, 2]), np.array([3])])
    assert cache.tokens_read == 3
    assert torch.equal(first.logits, again.logits)


def test_the_memory_is_no_wider_than_its_longest_text() -> None:
    cache = PrefixCache(worlds.llama())
    for rows in growing(2, 40, fresh=0.3):
        cache.read(rows)
        assert cache._mask.shape[1] <= max(12, *(len(row) for row in rows))
        assert cache._cache.layers[0].keys.shape[2] == cache._mask.shape[1]


@pytest.mark.parametrize("kind", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_it_is_forgotten_when_the_weights_change(kind: dict[str, bool]) -> None:
    model = worlds.llama()
    cache = PrefixCache(model)
    cache.read([np.array([1, 2])])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, **kind)
    read_states(model, [np.array([5, 6])]).logits.sum().backward()
    optimizer.step()
    row = np.array([1, 2, 3])
    assert torch.allclose(cache.read([row]).logits[0], alone(model, row), atol=1e-5)


def test_another_number_of_texts_begins_anew() -> None:
    model = worlds.llama()
    cache = PrefixCache(model)
    cache.read([np.array([1, 2]), np.array([3])])
    row = np.array([1, 2, 4])
    assert torch.allclose(cache.read([row]).logits[0], alone(model, row), atol=1e-5)


def test_a_model_without_keys_and_values_is_read_whole() -> None:
    model = small("Mamba", num_hidden_layers=1)
    cache = PrefixCache(model)
    for rows in growing(3, 4, n=2):
        assert torch.allclose(cache.read(rows).logits[0], alone(model, rows[0]), atol=1e-5)


def test_a_call_that_fails_leaves_no_half_memory() -> None:
    model = worlds.llama()
    cache = PrefixCache(model)
    rows = [np.array([1, 2]), np.array([3])]
    cache.read(rows)
    with pytest.raises((IndexError, RuntimeError)):
        cache.read([np.array([1, 2, 4]), np.array([VOCABULARY + 5])])
    grown = [np.array([1, 2, 4]), np.array([3, 5])]
    assert torch.allclose(cache.read(grown).logits[1], alone(model, grown[1]), atol=1e-5)


def test_texts_that_begin_others_are_read_as_part_of_them() -> None:
    model = worlds.llama()
    rows = [np.array(row) for row in ([1, 2], [9], [1, 2, 3, 4], [1], [1, 2, 3], [9, 8], [1, 2], [1, 3])]
    read_states(model, rows)  # the first time, the head is checked
    shapes: list[Any] = []
    handle = model.register_forward_pre_hook(lambda _, __, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True)
    logits = read_states(model, rows).logits
    handle.remove()
    assert shapes == [(3, 4), (1, 1)]  # [1, 2, 3, 4], [9, 8] and [1, 3]
    for row, read in zip(rows, logits, strict=True):
        assert torch.allclose(read, alone(model, row), atol=1e-5)


def test_gradients_are_those_of_texts_read_apart() -> None:
    model = worlds.llama()
    rows = [np.array([1, 2]), np.array([1, 2, 3])]
    together, apart = [], []
    read_states(model, rows).logits.square().sum().backward()
    together = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for row in rows:
        model(input_ids=torch.tensor(row)[None]).logits[0, -1].square().sum().backward()
    apart = [parameter.grad for parameter in model.parameters()]
    assert all(torch.allclose(a, b, atol=1e-3, rtol=1e-4) for a, b in zip(together, apart, strict=True))


def test_a_full_text_needs_no_position_beyond_the_models() -> None:
    model = worlds.gpt2(n_positions=4)
    row = np.array([1, 2, 3, 4])
    assert torch.allclose(read_states(model, [row]).logits[0], alone(model, row), atol=1e-5)
    assert layout_of(model).room(4) == 0
