"""What a language model attended to while it wrote: in one pass what it is step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import EOS
from textenv.judges.attention import generation_attention

MODELS: dict[str, Any] = {
    "llama": worlds.llama,
    "gpt2": worlds.gpt2,
    "t5": worlds.t5,
    "bart": worlds.bart,
    "bart, a deeper decoder": lambda: worlds.bart(decoder_layers=3, decoder_attention_heads=4),
}
PROMPTS = [np.array(list(b"some prompt")), np.array(list(b"b")), np.array(list(b"xyz"))]
TEXTS = [np.array([*b"a text", EOS]), np.array([*b"a longer text than that"]), np.array([EOS])]
kinds = pytest.mark.parametrize("kind", MODELS)


def step_by_step(model: Any, prompt: Any, text: Any, layer: int, heads: Any, steps: str) -> Any:
    """The same from a pass for each token, as a text is written."""
    model.set_attn_implementation("eager")
    seen = []
    for s in range(len(text)):
        if model.config.is_encoder_decoder:
            written = torch.tensor([[model.config.decoder_start_token_id, *text[:s]]])
            out = model(input_ids=torch.tensor(prompt)[None], decoder_input_ids=written, output_attentions=True, use_cache=False)
            row = out.decoder_attentions[layer][0, :, -1, 1:]
        else:
            row = model(torch.tensor([*prompt, *text[:s]])[None], output_attentions=True).attentions[layer][0, :, -1, len(prompt) :]
        row = row.mean(0) if heads == "mean" else row[heads]
        seen.append(np.r_[row.detach().double().numpy(), np.zeros(len(text) - s)])
    return np.mean(seen, axis=0) if steps == "mean" else seen[-1]


@kinds
@pytest.mark.parametrize(("layer", "heads", "steps"), [(-1, "mean", "mean"), (0, 1, "mean"), (-1, "mean", "last")])
def test_one_pass_over_a_batch_is_every_step_of_every_text(kind: str, layer: int, heads: Any, steps: Any) -> None:
    model = MODELS[kind]()
    found = generation_attention(model, PROMPTS, TEXTS, layer=layer, heads=heads, steps=steps, batch_size=2)
    for prompt, text, seen in zip(PROMPTS, TEXTS, found, strict=True):
        assert seen == pytest.approx(step_by_step(model, prompt, text, layer, heads, steps), abs=1e-5)
    assert found[0][:-1].min() > 0
    assert found[2].tolist() == [0.0], "nothing is written after the last token"


@kinds
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = MODELS[kind]()
    before = model.config._attn_implementation
    generation_attention(model, PROMPTS, TEXTS)
    assert model.config._attn_implementation == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, r"layer 2 of a model of 2 layers; give -2\.\.1"),
        ({"heads": 2}, r'heads must be "mean" or one of 0\.\.1, got 2'),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_a_layer_or_a_head_that_is_not_there_is_named(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generation_attention(MODELS[kind](), PROMPTS, TEXTS, **options)


def test_a_text_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="positions"):
        generation_attention(worlds.llama(), PROMPTS[:1], [np.zeros(200, np.int64)])
