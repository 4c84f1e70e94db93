"""ABC: the identities of the method (r3hf B7, by number), over real attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests import worlds
from tests.worlds import BYTES, EOS, credited, ids, make, walk
from textenv.agents import LMPolicy, TokenPPO
from textenv.episode import Episode, Prompt
from textenv.judges.attention import generation_attention
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.models import load_language_model
from textenv.reward import NotApplicable
from textenv.wrappers import AttentionReward

KINDS = ["bert", "llama", "gpt2"]
TEXTS = [ids("some text", end=True), ids("b", end=True), [EOS], ids("sixteen letters!")]


def judge(kind: str = "llama", **options: Any) -> SequenceClassifierScorer:
    options = {"output": "logit", "with_prompt": True, **options}
    return SequenceClassifierScorer(worlds.classifier(kind), label="toxic", tokenizer=BYTES, **options)


def abc(scorer: Any, *, budget: int = 16, **options: Any) -> Any:
    return make(reward=lambda env: AttentionReward(env, **options), payment="end", scorer=scorer, max_new_tokens=budget)


class Weights:
    """A scorer that tells the attention it is told."""

    def __init__(self, *masses: Sequence[float], score: float = 2.0) -> None:
        self.masses, self.score = masses, score

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        return [self.score for _ in episodes]

    def attention(self, episodes: Sequence[Episode], layer: int, heads: Any) -> list[Any]:
        return [np.array(mass) for mass in self.masses]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mix", [0.0, 0.5, 0.8, 1.0])
def test_the_return_is_kept_for_every_mix(kind: str, mix: float) -> None:  # 1
    env = abc(judge(kind), mix=mix)
    for tokens in TEXTS:
        episode = credited(env, tokens)
        assert episode.rewards.sum() == pytest.approx(episode.score, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_the_attention_on_the_text_made_to_sum_to_one(kind: str) -> None:  # 1
    scorer = judge(kind)
    env = abc(scorer)
    episode = credited(env, TEXTS[0])
    (alpha,) = AttentionReward(make(scorer=scorer)).shares([episode])
    (mass,) = scorer.attention([episode])
    assert alpha == pytest.approx(mass / mass.sum())
    assert (alpha >= 0).all()
    assert alpha.sum() == pytest.approx(1.0)
    last = np.eye(len(alpha))[-1]
    assert episode.rewards == pytest.approx(0.8 * episode.score * alpha + 0.2 * episode.score * last)


def test_without_mix_it_is_the_sparse_reward_to_the_bit() -> None:  # 2
    scorer = judge()
    for tokens in TEXTS:
        plain = credited(make(scorer=scorer), tokens).rewards
        assert credited(abc(scorer, mix=0.0), tokens).rewards.tobytes() == plain.tobytes()


def test_even_attention_and_full_mix_are_uniform_credit() -> None:  # 2
    assert credited(abc(Weights([0.1] * 4), mix=1.0, budget=4), ids("abcd")).rewards == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("score", [2.0, -2.0])
def test_every_token_has_the_sign_of_the_score(score: float) -> None:  # 3
    rewards = credited(abc(Weights([0.1, 0.0, 0.3, 0.0], score=score), mix=1.0), ids("abc", end=True)).rewards
    assert set(np.sign(rewards[rewards != 0])) == {np.sign(score)}


@pytest.mark.parametrize("kind", KINDS)
def test_sequence_level_advantages_do_not_see_it(kind: str) -> None:  # 4
    scorer = judge(kind)

    def advantages(env: Any) -> Any:
        episode = env.get_wrapper_attr("episode")
        returns = np.array([e.rewards.sum() for e in env.get_wrapper_attr("credit")([episode(Prompt("p"), t) for t in TEXTS])])
        return (returns - returns.mean()) / returns.std()

    assert advantages(abc(scorer)) == pytest.approx(advantages(make(scorer=scorer)), abs=1e-9)


@pytest.mark.parametrize("mix", [0.3, 0.8])
def test_the_return_to_go_is_the_score_less_the_shares_before(mix: float) -> None:  # 5
    scorer = judge()
    episode = credited(abc(scorer, mix=mix), TEXTS[0])
    alpha = credited(abc(scorer, mix=1.0), TEXTS[0]).rewards / episode.score
    before = np.concatenate([[0.0], alpha.cumsum()[:-1]])
    assert episode.rewards[::-1].cumsum()[::-1] == pytest.approx(episode.score * (1 - mix * before))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_prompt_get_nothing(kind: str) -> None:  # 7
    env = abc(judge(kind), mix=1.0)
    episode = env.get_wrapper_attr("episode")
    for prompt in ("p", "a much longer p"):
        episodes = [episode(Prompt(prompt), tokens) for tokens in TEXTS]
        for together, tokens in zip(env.get_wrapper_attr("credit")(episodes), TEXTS, strict=True):
            assert together.rewards == pytest.approx(credited(env, tokens, prompt).rewards, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_stepping_delivers_the_credit_of_the_batch_bit_for_bit(kind: str) -> None:
    env = make(reward="attention", scorer=judge(kind), prompts=["p: "])
    for tokens in TEXTS:
        paid, stepped = walk(env, tokens)
        assert stepped is not None
        assert stepped.rewards.tobytes() == credited(env, tokens).rewards.tobytes()
        assert paid[:-1] == [0.0] * (len(tokens) - 1), "a score is paid at the end"


def test_a_text_of_eos_alone_keeps_its_score_there() -> None:
    episode = credited(abc(judge()), [EOS])
    assert episode.rewards.tolist() == [episode.score]


def test_an_unfinished_text_has_no_score_to_share() -> None:
    assert not credited(abc(judge()), ids("some")).rewards.any()


def test_another_reward_model_tells_the_shares_and_the_score_stays_the_tasks() -> None:
    episode = credited(abc(worlds.constant_scorer(3.0), reward_model=Weights([1.0, 3.0])), ids("a", end=True))
    assert episode.rewards == pytest.approx([0.8 * 3.0 * 0.25, 0.8 * 3.0 * 0.75 + 0.2 * 3.0])


def test_a_layer_and_a_head_may_be_chosen() -> None:
    scorer = judge()
    chosen = credited(abc(scorer, layer=0, heads=1, mix=1.0), TEXTS[0])
    (mass,) = scorer.attention([chosen], layer=0, heads=1)
    assert chosen.rewards == pytest.approx(chosen.score * mass / mass.sum())


def test_the_log_says_how_much_of_the_attention_fell_on_the_text() -> None:
    scorer = judge()
    env = abc(scorer)
    episode = credited(env, TEXTS[0])
    metrics = env.get_wrapper_attr("credit_metrics")()
    assert metrics["credit/attention_mass"] == pytest.approx(scorer.attention([episode])[0].sum())
    assert 0 < metrics["credit/attention_mass"] < 1
    assert metrics["credit/attention_seconds"] > 0
    assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}


# --- ABC-D: the writer's attention (r3hf B8) ---------------------------------------------------------------------------


def abc_d(generator: Any, **options: Any) -> Any:
    return abc(worlds.constant_scorer(2.0), source="generator", generator=generator, **options)


@pytest.mark.parametrize("make_model", [worlds.llama, worlds.t5])
def test_the_shares_are_what_the_generator_attended_to_and_the_return_is_kept(make_model: Any) -> None:
    model = make_model()
    for steps in ("mean", "last"):
        env = abc_d(model, steps=steps)
        for tokens in TEXTS:
            episode = credited(env, tokens)
            assert episode.rewards.sum() == pytest.approx(2.0)
            if len(tokens) == 1:
                assert episode.rewards.tolist() == [2.0]
                continue
            (mass,) = generation_attention(model, [episode.prompt_tokens], [episode.tokens], steps=steps)
            assert episode.rewards == pytest.approx(0.8 * 2.0 * mass / mass.sum() + 0.2 * 2.0 * np.eye(len(tokens))[-1], abs=1e-6)


def test_the_policy_itself_is_read_as_it_is_at_the_moment_and_a_name_as_it_was(llama_directory: Path) -> None:
    policy = LMPolicy(worlds.llama(), "bytes", device="cpu")
    moving, frozen = abc_d(policy), abc_d(str(llama_directory))
    before = credited(frozen, TEXTS[0]).rewards
    assert credited(moving, TEXTS[0]).rewards == pytest.approx(before, abs=1e-6)
    TokenPPO(policy, moving, n_episodes=4, learning_rate=1e-1, seed=0).learn(4 * 16)
    assert abs(credited(moving, TEXTS[0]).rewards - before).max() > 1e-3
    assert credited(frozen, TEXTS[0]).rewards.tobytes() == before.tobytes()
    assert all(p.requires_grad for p in policy.model.parameters())


def test_by_default_the_generator_is_the_model_that_the_tokenizer_came_with() -> None:
    env = gym.make("textenv/Detox-v0", reward=("attention", {"source": "generator"}))
    assert env.get_wrapper_attr("generator") is load_language_model("textenv/tiny", shared=True)
    with pytest.raises(NotApplicable, match="came with no language model; pass generator= one that shares it"):
        make(reward=("attention", {"source": "generator"}))


def test_stepping_delivers_the_credit_of_the_batch_under_the_generator_too() -> None:
    model = worlds.gpt2()
    env = make(reward=("attention", {"source": "generator", "generator": model}), prompts=["p: "])
    for tokens in TEXTS:
        _, stepped = walk(env, tokens)
        assert stepped is not None
        assert stepped.rewards.tobytes() == credited(env, tokens).rewards.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "policy"}, 'source is "reward_model" or "generator", steps "mean" or "last": got \'policy\''),
        ({"source": "generator", "steps": "first"}, "got 'generator', 'first'"),
        ({"source": "generator", "reward_model": worlds.even_share}, 'source="generator" asks no reward model'),
        ({"steps": "last"}, "generator= and steps= are of source=\"generator\", got None, 'last'"),
    ],
)
def test_options_of_the_other_source_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        abc(judge(), **options)


def test_what_is_no_generator_is_refused() -> None:
    with pytest.raises(TypeError, match="policy must be a name, a directory, a transformers model, or hold one as"):
        abc_d(lambda: None)


# --- No attention to go by ---------------------------------------------------------------------------------------------


def test_a_scorer_without_attention_is_refused_and_the_ways_out_are_named() -> None:
    with pytest.raises(NotApplicable, match=r"of CountLetter tells no attention; pass reward_model=.* or fallback='uniform'"):
        make(reward="attention")


def translation(**options: Any) -> Any:
    return gym.make("textenv/Translation-v0", payment="end", **options)


def test_where_the_default_scorer_is_no_model_the_embedded_reward_model_tells_the_shares() -> None:
    for options in ({}, {"fallback": "uniform"}):
        env = translation(reward=("attention", options))
        prompt, tokenizer = env.get_wrapper_attr("task").prompts[0], env.get_wrapper_attr("tokenizer")
        text = [*tokenizer(prompt.references[0], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        (episode,) = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(prompt, text)])
        (mass,) = translation(score="reward").get_wrapper_attr("task").scorer.attention([episode])
        assert episode.score == pytest.approx(1.0), "chrF, as ever"
        assert episode.rewards == pytest.approx(0.8 * mass / mass.sum() + 0.2 * np.eye(len(episode))[-1])


def test_a_scorer_of_ones_own_without_attention_is_not_replaced_and_the_embedded_model_is_named() -> None:
    for options in ({"scorer": worlds.constant_scorer(1.0)}, {"score": "bleu"}):
        with pytest.raises(NotApplicable, match=r"of Translation tells no attention; pass reward_model='textenv/tiny-reward', "):
            translation(reward="attention", **options)


def test_shares_are_even_without_attention_where_that_is_asked_for() -> None:
    env = make(reward=("attention", {"fallback": "uniform", "mix": 1.0}), payment="end", scorer=worlds.constant_scorer(1.0))
    assert credited(env, ids("abc", end=True)).rewards.tolist() == [0.25] * 4


def test_a_text_without_any_attention_is_an_error_or_shared_evenly() -> None:
    with pytest.raises(ValueError, match=r"paid no attention to the text 'abcd' \(layer -1\)"):
        credited(abc(Weights([0.0] * 4), budget=4), ids("abcd"))
    assert credited(abc(Weights([0.0] * 4), mix=1.0, budget=4, fallback="uniform"), ids("abcd")).rewards.tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mix": 1.2}, r"mix must lie in 0\.\.1"), ({"fallback": "none"}, 'fallback must be "uniform" or None')],
)
def test_a_bad_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        abc(judge(), **options)
