"""The uniform and the noise control: the return is kept, whatever they do with it (r3hf B7, by number)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import EOS, credited, ids, make, walk
from textenv.episode import Prompt

TEXTS = [ids("some text", end=True), ids("b", end=True), [EOS], ids("sixteen letters!")]
SCORE = -0.75
STACKS: dict[str, Any] = {
    "uniform": "uniform",
    "uniform, mixed": ("uniform", {"mix": 0.4}),
    "noise": "noise",
    "noise, mixed": ("noise", {"mix": 0.4, "seed": 3}),
    "noise, zero-sum": ("noise", {"kind": "zero_sum", "scale": 0.3}),
    "zero-sum on top of another": ["redistributed", ("noise", {"kind": "zero_sum"})],
}
stacks = pytest.mark.parametrize("stack", STACKS)


def env_of(reward: Any, score: float = SCORE, **options: Any) -> Any:
    return make(reward=reward, payment="end", scorer=worlds.constant_scorer(score), **options)


@stacks
@pytest.mark.parametrize("tokens", TEXTS)
def test_the_return_is_kept(stack: str, tokens: list[int]) -> None:  # 1, 8
    episode = credited(env_of(STACKS[stack], prompts=["p: "]), tokens)
    kept = 0.0 if "redistributed" in STACKS[stack] else SCORE  # a constant score has differences of 0
    assert episode.rewards.sum() == pytest.approx(kept, abs=1e-9)
    assert episode.score == SCORE


@pytest.mark.parametrize("reward", ["uniform", "noise"])
def test_without_mix_it_is_the_sparse_reward_to_the_bit(reward: str) -> None:  # 2
    unmixed, sparse = env_of((reward, {"mix": 0.0})), env_of("sparse")
    for tokens in TEXTS:
        assert credited(unmixed, tokens).rewards.tobytes() == credited(sparse, tokens).rewards.tobytes()


@pytest.mark.parametrize("tokens", TEXTS)
def test_uniform_credit_is_the_score_over_the_length(tokens: list[int]) -> None:  # 2
    assert credited(env_of("uniform"), tokens).rewards == pytest.approx([SCORE / len(tokens)] * len(tokens))
    mixed = credited(env_of(("uniform", {"mix": 0.4})), tokens).rewards
    assert mixed[:-1] == pytest.approx(0.4 * SCORE / len(tokens))


@pytest.mark.parametrize("reward", ["uniform", "noise"])
@pytest.mark.parametrize("score", [2.0, -2.0])
def test_every_token_has_the_sign_of_the_score(reward: str, score: float) -> None:  # 3
    assert (np.sign(credited(env_of(reward, score), TEXTS[0]).rewards) == np.sign(score)).all()


@stacks
def test_sequence_level_advantages_do_not_see_it(stack: str) -> None:  # 4
    def advantages(reward: Any) -> Any:
        env = make(reward=reward, payment="end", scorer=lambda episodes: [float(len(e.text)) for e in episodes])
        episode = env.get_wrapper_attr("episode")
        returns = np.array([e.rewards.sum() for e in env.get_wrapper_attr("credit")([episode(Prompt("p"), t) for t in TEXTS])])
        return returns - (returns.sum() - returns) / (len(returns) - 1)

    assert advantages(STACKS[stack]) == pytest.approx(advantages("sparse"), abs=1e-9)


@pytest.mark.parametrize("reward", ["uniform", "noise"])
@pytest.mark.parametrize("mix", [0.3, 1.0])
def test_the_return_to_go_is_the_score_less_the_shares_before(reward: str, mix: float) -> None:  # 5
    full = credited(env_of(reward), TEXTS[0]).rewards / SCORE  # α
    rewards = credited(env_of((reward, {"mix": mix})), TEXTS[0]).rewards
    before = np.concatenate([[0.0], full.cumsum()[:-1]])
    assert rewards[::-1].cumsum()[::-1] == pytest.approx(SCORE * (1 - mix * before))


# --- Noise -------------------------------------------------------------------------------------------------------------


@stacks
def test_stepping_delivers_the_credit_of_the_batch_bit_for_bit(stack: str) -> None:
    env = make(reward=STACKS[stack], prompts=["p: "], scorer=worlds.constant_scorer(SCORE))
    for tokens in TEXTS:
        paid, stepped = walk(env, tokens)
        assert stepped is not None
        assert stepped.rewards.tobytes() == credited(env, tokens).rewards.tobytes()
        assert sum(paid) == pytest.approx(stepped.rewards.sum(), abs=1e-9)


@stacks
def test_a_text_is_paid_alike_alone_and_in_a_batch(stack: str) -> None:
    env = env_of(STACKS[stack])
    episodes = [env.get_wrapper_attr("episode")(Prompt("p: "), tokens) for tokens in TEXTS]
    for together, tokens in zip(env.get_wrapper_attr("credit")(episodes), TEXTS, strict=True):
        assert together.rewards.tobytes() == credited(env, tokens).rewards.tobytes()


@pytest.mark.parametrize("kind", ["exponential", "zero_sum"])
def test_the_noise_of_another_seed_text_or_prompt_is_another(kind: str) -> None:  # 8
    def noise(seed: int, tokens: list[int], prompt: str) -> bytes:
        return credited(env_of(("noise", {"kind": kind, "seed": seed})), tokens, prompt).rewards.tobytes()

    drawn = [noise(*k) for k in ((0, ids("ab", end=True), "p"), (1, ids("ab", end=True), "p"), (0, ids("ac", end=True), "p"),
                                 (0, ids("ab", end=True), "q"), (0, ids("b", end=True), "pa"))]  # fmt: skip
    assert len(set(drawn)) == len(drawn)
    assert noise(0, ids("ab", end=True), "p") == drawn[0]


@given(tokens=st.lists(st.integers(0, 255), max_size=15), scale=st.just(0.0) | st.floats(0.01, 10))
def test_zero_sum_noise_sums_to_nothing(tokens: list[int], scale: float) -> None:
    env = env_of(("noise", {"kind": "zero_sum", "scale": scale}), score=0.0)
    rewards = credited(env, [*tokens, EOS]).rewards
    assert rewards.sum() == pytest.approx(0.0, abs=1e-9)
    assert rewards.any() == (scale > 0 and len(tokens) > 0)


def test_the_scale_is_that_of_the_noise() -> None:
    envs = {scale: env_of(("noise", {"kind": "zero_sum", "scale": scale}), score=0.0) for scale in (1, 2)}
    drawn = {scale: credited(env, TEXTS[0]).rewards for scale, env in envs.items()}
    assert drawn[2] == pytest.approx(2 * drawn[1])
    assert 0.3 < drawn[1].std() < 3


@stacks
def test_an_unfinished_text_is_left_as_it_is(stack: str) -> None:
    env = env_of(STACKS[stack])
    assert not credited(env, ids("some")).rewards.any()
    assert credited(env, []).rewards.tolist() == []


def test_what_other_wrappers_paid_stays_where_it_is() -> None:
    inside = ("critic_span", {"positive": 0.3})
    plain, spread = (env_of(reward) for reward in ([inside], [inside, "uniform"]))
    tokens = ids("banana", end=True)
    moved = credited(spread, tokens).rewards - credited(plain, tokens).rewards
    assert moved == pytest.approx(SCORE / len(tokens) - SCORE * np.eye(len(tokens))[-1])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (("uniform", {"mix": -0.1}), r"mix must lie in 0\.\.1 .*, got -0\.1"),
        (("noise", {"mix": 2}), r"mix must lie in 0\.\.1"),
        (("noise", {"kind": "gauss"}), 'kind must be "exponential" or "zero_sum", got \'gauss\''),
        (("noise", {"scale": -1.0}), r"scale must be finite and, like seed, not negative, got scale=-1\.0"),
        (("noise", {"scale": float("inf")}), "scale must be finite"),
        (("noise", {"seed": -1}), "seed=-1"),
    ],
)
def test_a_bad_argument_is_named(reward: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        env_of(reward)
