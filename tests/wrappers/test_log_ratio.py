"""RTO: the identities of the method (r3hf C7, by number), over pairs of real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import EOS, credited, ids, make, walk
from textenv.agents import LMPolicy
from textenv.episode import Prompt
from textenv.reward import NotApplicable
from textenv.wrappers import ImplicitReward, TokenLogRatioReward, log_ratio

TEXTS = [ids("some text", end=True), ids("b", end=True), [EOS], ids("sixteen letters!")]
INF = float("inf")
PAIRS = {
    "llama": (worlds.llama(seed=1), worlds.llama()),
    "mixed": (worlds.gpt2(), worlds.llama()),
    "t5": (worlds.t5(seed=1), worlds.t5()),
}
pairs = pytest.mark.parametrize("pair", PAIRS)


def rto(pair: str = "llama", *, score: float = 0.75, **options: Any) -> Any:
    model, reference = PAIRS[pair]
    return make(reward=lambda env: TokenLogRatioReward(env, model, reference, **options), payment="end",
                scorer=worlds.constant_scorer(score))  # fmt: skip


def log_probs(model: Any, tokens: list[int]) -> Any:
    policy = LMPolicy(model, tokenizer=worlds.BYTES, device="cpu")
    prompt = make().get_wrapper_attr("prompt_tokens")(Prompt("p: "))
    return policy.evaluate([prompt], [np.array(tokens)], make().get_wrapper_attr("action_rule")).log_probs.detach().numpy()


def dense(env: Any, tokens: list[int]) -> Any:
    """The credit beside the score."""
    rewards = credited(env, tokens).rewards.copy()
    rewards[-1] -= 0.75
    return rewards


@pairs
@pytest.mark.parametrize("tokens", TEXTS)
def test_unclipped_it_sums_to_the_log_ratio_of_the_text(pair: str, tokens: list[int]) -> None:  # 1
    ours, theirs = (log_probs(model, tokens) for model in PAIRS[pair])
    found = dense(rto(pair, scale=0.3, clip=INF), tokens)
    assert found.sum() == pytest.approx(0.3 * (ours.sum() - theirs.sum()), abs=1e-4)
    assert found == pytest.approx(0.3 * (ours - theirs), abs=1e-5)
    assert abs(found).max() > 1e-3


def test_a_model_against_itself_is_the_plain_reward() -> None:  # 2
    same = worlds.llama()
    env = make(reward=lambda env: TokenLogRatioReward(env, same, same), payment="end", scorer=worlds.constant_scorer(0.75))
    plain = make(scorer=worlds.constant_scorer(0.75))
    for tokens in TEXTS:
        assert credited(env, tokens).rewards.tolist() == credited(plain, tokens).rewards.tolist()


def test_it_cancels_the_kl_term_of_the_policy_that_it_is() -> None:  # 3
    tokens = TEXTS[0]
    policy, reference = PAIRS["llama"]
    penalty = 0.05 * (log_probs(policy, tokens) - log_probs(reference, tokens))
    rewards = credited(rto(scale=0.05, clip=INF), tokens).rewards - penalty
    assert rewards[:-1] == pytest.approx(0.0, abs=1e-6)
    assert rewards[-1] == pytest.approx(0.75, abs=1e-6)


@pairs
@pytest.mark.parametrize("clip", [0.001, 0.05])
def test_no_token_is_paid_more_than_the_clip_and_the_score_is_on_the_last_alone(pair: str, clip: float) -> None:  # 4
    for tokens in TEXTS:
        found = dense(rto(pair, clip=clip), tokens)
        unclipped = dense(rto(pair, clip=INF), tokens)
        assert (abs(found) <= clip + 1e-12).all()
        assert found == pytest.approx(unclipped.clip(-clip, clip), abs=1e-9)


@pairs
def test_a_sigmoid_bounds_every_ratio_and_keeps_their_order(pair: str) -> None:  # treg §8, C10
    for tokens in TEXTS:
        ratio = dense(rto(pair, scale=1.0, clip=INF), tokens)
        found = dense(rto(pair, scale=0.4, squash="sigmoid"), tokens)
        assert found == pytest.approx(0.4 * (1 / (1 + np.exp(-ratio)) - 0.5), abs=1e-6)
        assert (abs(found) < 0.2).all()
        assert np.argsort(found).tolist() == np.argsort(ratio).tolist()


def test_a_sigmoid_of_the_swapped_pair_is_the_negative() -> None:
    (model, reference), tokens = PAIRS["llama"], TEXTS[0]
    swapped = make(reward=lambda env: TokenLogRatioReward(env, reference, model, squash="sigmoid"), payment="end",
                   scorer=worlds.constant_scorer(0.75))  # fmt: skip
    assert dense(swapped, tokens) == pytest.approx(-dense(rto(squash="sigmoid"), tokens), abs=1e-9)


def test_no_ratio_is_too_large_for_a_sigmoid(monkeypatch: pytest.MonkeyPatch) -> None:
    env = rto(scale=1.0, squash="sigmoid")
    answers = iter([np.full(3, 1e4), np.zeros(3), np.full(3, -1e4), np.zeros(3)])
    monkeypatch.setattr(log_ratio, "token_log_probs", lambda *_, **__: [next(answers)])
    assert credited(env, [1, 2, 3]).rewards.tolist() == [0.5] * 3
    assert credited(env, [1, 2, 3]).rewards.tolist() == [-0.5] * 3
    assert env.get_wrapper_attr("credit_metrics")()["credit/clipped_share"] == 0.0


def test_no_gradient_reaches_the_two_models() -> None:  # 5
    credited(rto(), TEXTS[0])
    for model in PAIRS["llama"]:
        assert all(not p.requires_grad and p.grad is None for p in model.parameters())
    assert not torch.is_inference_mode_enabled()


@pairs
def test_credit_does_not_depend_on_what_follows(pair: str) -> None:
    env = rto(pair)
    whole = dense(env, TEXTS[0])
    for t in range(1, len(TEXTS[0])):
        assert credited(env, TEXTS[0][:t]).rewards == pytest.approx(whole[:t], abs=1e-6)
    assert credited(env, []).rewards.tolist() == []


@pairs
def test_stepping_delivers_the_credit_of_the_batch_bit_for_bit(pair: str) -> None:
    model, reference = PAIRS[pair]
    env = make(reward=lambda env: TokenLogRatioReward(env, model, reference), prompts=["p: "])
    for tokens in TEXTS:
        paid, stepped = walk(env, tokens)
        assert stepped is not None
        assert stepped.rewards.tobytes() == credited(env, tokens).rewards.tobytes()
        assert sum(paid) == pytest.approx(stepped.rewards.sum(), abs=1e-9)


@pairs
def test_a_batch_is_credited_as_its_texts_one_by_one(pair: str) -> None:
    env = rto(pair)
    episodes = [env.get_wrapper_attr("episode")(Prompt("p: "), tokens) for tokens in TEXTS]
    for together, tokens in zip(env.get_wrapper_attr("credit")(episodes), TEXTS, strict=True):
        assert together.rewards == pytest.approx(credited(env, tokens).rewards, abs=1e-6)


def test_the_log_says_how_many_tokens_were_clipped() -> None:
    env = rto(clip=0.02)
    credited(env, TEXTS[0])
    share = (abs(dense(rto(clip=INF), TEXTS[0])) > 0.02).mean()
    metrics = env.get_wrapper_attr("credit_metrics")()
    assert 0 < share < 1
    assert metrics["credit/clipped_share"] == pytest.approx(share)
    assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": float("nan")}, "scale must be finite, got nan"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"squash": "tanh"}, 'squash must be "clip" or "sigmoid", got \'tanh\''),
        ({"squash": "sigmoid", "clip": 0.05}, 'squash="sigmoid" is bounded by scale / 2; leave out clip=0.05'),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rto(**options)


def test_implicit_takes_any_pair_by_name(llama_directory: Path, gpt2_directory: Path) -> None:
    env = make(reward=("implicit", {"model": str(gpt2_directory), "reference": str(llama_directory)}), payment="end",
               scorer=worlds.constant_scorer(0.75))  # fmt: skip
    assert env.get_wrapper_attr("scale") == env.get_wrapper_attr("clip") == 0.05
    assert credited(env, TEXTS[0]).rewards == pytest.approx(credited(rto("mixed"), TEXTS[0]).rewards, abs=1e-6)


def test_implicit_needs_models_that_share_the_policys_tokenizer() -> None:
    with pytest.raises(NotApplicable, match=r"textenv/tiny has another tokenizer .*pass model="):
        make(reward=lambda env: ImplicitReward(env, model="textenv/tiny"))
    with pytest.raises(NotApplicable, match=r"textenv/tiny has another tokenizer .*pass reference="):
        make(reward=lambda env: ImplicitReward(env, model=worlds.llama()))
