"""The work of an iteration is what it says: ids a prompt, weights a size, ends of texts."""

import numpy as np
import pytest
import torch

from benchmarks.arithmetic import Needs
from benchmarks.work_unit import EOS, SIZES, Work, words


def test_each_word_of_a_prompt_is_one_token() -> None:
    work = Work()
    tokenizer = words(work.vocabulary)
    texts = [" ".join(f"w{i}" for i in row) for row in work.prompts(50)]
    assert np.array_equal([tokenizer(text)["input_ids"] for text in texts], work.prompts(50))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("size", "millions"), [("S", 4.2), ("M", 27.4), ("124M", 124.0), ("1.1B", 1100.0)])
def test_a_size_has_the_weights_that_it_is_called_by(family: str, size: str, millions: float) -> None:
    with torch.device("meta"):
        model = Work(size, family=family, new_tokens=112).policy()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.15)


def test_policy_and_reference_are_the_same_and_the_reward_model_is_another() -> None:
    work = Work()
    one, other = work.policy(), work.policy()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(work.judge().transformer.wte.weight, one.transformer.wte.weight)


def test_ragged_texts_end_at_each_length_with_the_same_probability() -> None:
    work = Work(new_tokens=128, ragged=True)
    ids = torch.from_numpy(np.concatenate([work.prompts(8), np.random.default_rng(1).integers(4, 4096, (8, 127))], 1))
    with torch.no_grad():
        ends = work.policy().eval()(ids).logits[:, 15:].softmax(-1)[:, :, EOS].double()  # (8, 128): hazard after 0 … 127 tokens
    alive = torch.cat([torch.ones(8, 1), (1 - ends).cumprod(1)[:, :-1]], 1)
    at = (alive * ends).mean(0)
    at[-1] = alive[:, -1].mean()  # the budget
    assert torch.allclose(at, torch.full((128,), 1 / 128, dtype=torch.float64), rtol=0.15)
    assert float((at * torch.arange(1, 129)).sum()) == pytest.approx(64.5, abs=1)


def test_an_iteration_needs_the_operations_of_its_products() -> None:
    """One layer of 12 · 8² weights, 2 texts of 1 + 3 tokens, vocabulary 10."""
    needs = Needs(blocks=768, layers=1, width=8, vocabulary=10, prompt=2, tokens=6, pairs=16.0, epochs=2)
    trunk, head = 2 * 768 * 8 + 4 * 8 * 16, 2 * 8 * 10 * 6
    assert needs.flops == {"sample": trunk + head, "score": 2 * trunk + head, "update": 6 * (trunk + head)}


def test_frozen_blocks_need_no_update_and_a_separate_value_reads_every_text() -> None:
    given = {"blocks": 768, "layers": 2, "width": 8, "vocabulary": 10, "prompt": 2, "tokens": 6, "pairs": 16.0, "epochs": 1}
    plain, frozen, separate = Needs(**given), Needs(**given, frozen=1), Needs(**given, separate=True)  # type: ignore[arg-type]
    trunk, head = plain.forward(head=False), 2 * 8 * 10 * 6
    assert frozen.flops["update"] == 3 * trunk / 2 + 2 * head
    assert sum(separate.flops.values()) - sum(plain.flops.values()) == 4 * trunk


def test_every_size_has_its_heads_divide_its_width() -> None:
    assert all(width % heads == 0 and heads % shared == 0 for _, width, heads, shared, *_ in SIZES.values())
