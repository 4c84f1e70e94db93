"""Texts of unequal length in passes: no number changes, and padding is not computed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import EOS, make
from textenv.agents import TokenPPO
from textenv.episode import Episode, Prompt

WORDS = ["a", "bb", "a long prompt", "cc", "a very long prompt indeed", "d"]
MODELS = {"llama": worlds.llama, "gpt2": worlds.gpt2, "gemma2": worlds.gemma2, "t5": worlds.t5, "bart": worlds.bart}


def agent(model: Any = worlds.llama, **options: Any) -> TokenPPO:
    env = make(reward="critic_span", payment="end", max_new_tokens=24, max_prompt_tokens=32, scorer=worlds.even_share)
    given = {"n_episodes": 6, "batch_size": 6, "n_epochs": 1, "learning_rate": 1e-3, "seed": 0, "ent_coef": 0.1, **options}
    return TokenPPO(model(), env, **given)


def ragged(one: TokenPPO) -> list[Episode]:
    """Credited texts of 1, 5, 9 … tokens."""
    rng = np.random.default_rng(1)
    tokens = [np.append(rng.integers(97, 122, 4 * i), EOS) for i in range(len(WORDS))]
    make_episode, credit = (one.env.get_wrapper_attr(name) for name in ("episode", "credit"))
    return credit([make_episode(Prompt(word), ids) for word, ids in zip(WORDS, tokens, strict=True)])  # type: ignore[no-any-return]


def gradients(one: TokenPPO) -> dict[str, torch.Tensor]:
    batch = one.prepare(ragged(one))
    one._minibatch(batch, list(range(6)), {"clip_range": 0.2})
    return {name: p.grad for name, p in one.policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("packed", [False, True], ids=["apart", "packed"])
@pytest.mark.parametrize("limits", [{}, {"micro_batch_tokens": 80}, {"micro_batch_tokens": 1}, {"micro_batch_size": 4}])
def test_gradients_of_passes_by_length_and_of_packed_rows_are_those_of_one_padded_pass(
    name: str, packed: bool, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textenv.layouts.pass_tokens", lambda _: 10_000)  # as few passes as the limits allow
    parts_of, whole_of = agent(MODELS[name], **limits), agent(MODELS[name])
    with monkeypatch.context() as patch:
        patch.setattr("textenv.layouts.packs", lambda *_: False)
        whole = gradients(whole_of)
        parts = None if packed else gradients(parts_of)
    parts = parts or gradients(parts_of)
    assert whole.keys() == parts.keys()
    for key, gradient in whole.items():
        assert (gradient - parts[key]).abs().max() <= 1e-6 * max(1.0, float(gradient.abs().max())), key


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
@pytest.mark.parametrize("tokens", [None, 50])
def test_any_order_of_the_batch_gives_the_same_credit_and_advantages(advantage: str, tokens: int | None) -> None:
    one = agent(advantage=advantage, group_size=1 if advantage == "gae" else 2, micro_batch_tokens=tokens)
    one.reference = agent(lambda: worlds.llama(seed=1)).policy
    torch.nn.init.ones_(one.policy.value_head.weight)
    episodes = ragged(one)
    order = [3, 0, 5, 1, 4, 2]
    given = one.prepare(episodes, [i // 2 for i in range(6)]).select(order)
    mixed = one.prepare([episodes[i] for i in order], [i // 2 for i in order])
    assert [e.rewards.tolist() for e in given.episodes] == [e.rewards.tolist() for e in mixed.episodes]
    for name in ("log_probs", "values", "advantages", "returns", "log_ratio", "ref_log_probs"):
        assert torch.allclose(getattr(given, name), getattr(mixed, name), atol=1e-6), name


def test_the_padding_of_ragged_texts_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textenv.layouts.pass_tokens", lambda _: 0)
    one = agent(micro_batch_tokens=200)
    batch, seen = one.prepare(ragged(one)), list[int]()
    one.policy.model.get_input_embeddings().register_forward_hook(lambda _, ids, __: seen.append(ids[0].numel()))
    one._minibatch(batch, list(range(6)), {"clip_range": 0.2})
    real = sum(len(e.prompt_tokens) + len(e.tokens) for e in batch.episodes)
    assert sum(seen) <= 1.05 * real


def test_statistics_are_asked_for_once_an_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator each such question waits for the device."""
    asked: dict[int, int] = {}
    for size in (6, 1):
        one, count = agent(micro_batch_size=size), itertools.count()
        batch = one.prepare(ragged(one))
        with monkeypatch.context() as patch:
            for name in ("item", "tolist"):
                real = getattr(torch.Tensor, name)
                patch.setattr(torch.Tensor, name, lambda self, real=real, count=count: (next(count), real(self))[1])
            one.train(batch)
        asked[size] = next(count)
    assert asked[6] == asked[1]
