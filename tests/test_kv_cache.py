"""Keys and values with room: the same texts, without a copy at every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.cache_utils import DynamicLayer

from tests import worlds
from tests.worlds import EOS
from textenv.generation import generate
from textenv.kv_cache import BLOCK, make_room
from textenv.layouts import layout_of

PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101, 102], [103, 104], [98, 99, 100, 101, 102])]


def alibi(kind: str, **options: Any) -> Any:
    """A tiny model that knows distances, and no positions: "Bloom", or "Falcon" with `alibi=True`."""
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2, "pad_token_id": None}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=worlds.VOCABULARY, bos_token_id=257, eos_token_id=EOS, **settings, **options
    )
    with worlds.seeded():
        return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


DECODERS: dict[str, Callable[[], Any]] = {
    "gpt2": worlds.gpt2, "llama": worlds.llama, "gemma2": worlds.gemma2, "many heads": lambda: worlds.llama(num_attention_heads=4),
    "bloom": lambda: alibi("Bloom"), "falcon with alibi": lambda: alibi("Falcon", alibi=True),
}  # fmt: skip


def prefilled(model: Any, prompts: list[Any] = PROMPTS) -> Any:
    with torch.inference_mode():
        return model(**layout_of(model).inputs(layout_of(model).begin(prompts))).past_key_values


@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_a_long_text_equal_those_of_a_fresh_pass(name: str) -> None:
    model, length = DECODERS[name](), 3 * BLOCK
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def choose(logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        for row, values in zip(rows.tolist(), logits, strict=True):
            seen[row, step] = values.clone()
        return torch.where((rows % 2 == 0) & (step >= BLOCK + 3), EOS, (rows * 7 + step * 11) % 256)  # two leave within a block

    texts = generate(model, PROMPTS, max_new_tokens=length, eos_token_id=EOS, choose=choose)
    for row, (prompt, text) in enumerate(zip(PROMPTS, texts, strict=True)):
        with torch.no_grad():
            fresh = model(torch.from_numpy(np.concatenate([prompt, text]))[None]).logits[0, len(prompt) - 1 : -1]
        cached = torch.stack([seen[row, step] for step in range(len(text))])
        assert torch.allclose(cached, fresh, atol=3e-5, rtol=0)


def test_a_token_is_written_into_the_same_memory_until_a_block_is_full() -> None:
    model = worlds.llama()
    cache = prefilled(model)
    make_room(model, cache)
    layer = cache.layers[0]
    places = []
    for _ in range(BLOCK + 1):
        keys, _ = layer.update(torch.ones(4, 1, 1, 16), torch.ones(4, 1, 1, 16))
        places.append(keys.data_ptr())
    assert len(set(places)) == 2
    assert layer.get_seq_length() == 5 + BLOCK + 1
    assert keys.shape[2] == 2 * BLOCK


def test_what_is_not_written_yet_is_zero() -> None:
    model = worlds.llama()
    cache = prefilled(model)
    make_room(model, cache)
    assert not cache.layers[0].values[:, :, 5:].any()


def test_encoder_decoders_keep_the_cache_they_have() -> None:
    model = worlds.t5()
    cache = prefilled(model)
    make_room(model, cache)
    assert all(type(layer) is DynamicLayer for layer in cache.self_attention_cache.layers)


def test_models_that_do_not_take_masked_columns_keep_the_cache_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    model = worlds.llama()
    cache = prefilled(model)
    monkeypatch.setattr(type(model), "_can_compile_fullgraph", False)
    make_room(model, cache)
    assert all(type(layer) is DynamicLayer for layer in cache.layers)


def test_under_autocast_float32_keys_are_kept_in_bfloat16() -> None:
    model = worlds.llama()
    with torch.autocast("cpu", torch.bfloat16):
        cache = prefilled(model)
        make_room(model, cache)
    assert {cache.layers[0].keys.dtype, cache.layers[0].values.dtype} == {torch.bfloat16}
