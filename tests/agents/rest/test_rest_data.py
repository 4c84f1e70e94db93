"""Thresholds, the filter and the grown data set: strict, nested, and read back as they were written, or not at all."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import BYTES, EOS, make
from textenv.agents import LMPolicy
from textenv.agents.rest.grown import GrownData, grow, sampling_temperature
from textenv.agents.rest.grown_files import load_grown, original_data, save_grown
from textenv.agents.rest.thresholds import check_levels, cut, filtered, most_of_each
from textenv.episode import Episode, Prompt

REWARDS = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=30)
LEVELS = {"absolute": (-0.5, 0.0, 0.5), "quantile": (0.2, 0.5, 0.9), "source_quantile": (0.2, 0.5, 0.9),
          "source_gamma": (0.0, 0.4, 0.9), "source_best": (5, 2, 1)}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", LEVELS)


def world(**options: Any) -> Any:
    return make(**{"prompts": ["a", "bb"], "max_new_tokens": 6, "scorer": worlds.even_share, **options})


def policy(model: Any = None) -> LMPolicy:
    return LMPolicy(worlds.llama() if model is None else model, BYTES)


def texts(env: Any, *written: str, prompt: str = "p", end: bool = True) -> list[Episode]:
    made = [env.unwrapped.episode(Prompt(prompt), worlds.ids(text, end=end)) for text in written]
    credited: list[Episode] = env.get_wrapper_attr("credit")(made)
    return credited


def sampled(env: Any, n: int = 8, seed: int = 0) -> GrownData:
    prompts = env.get_wrapper_attr("sample_prompts")(n)
    (part,) = grow(env, policy(), prompts, torch.Generator().manual_seed(seed))
    return GrownData.of(part, texts(env, "abc", "d"))


# --- Thresholds --------------------------------------------------------------------------------------------------------


def test_the_filter_is_strict() -> None:
    assert filtered(np.array([0.1, 0.5, 0.5, 0.9]), np.full(4, 0.5)).tolist() == [False, False, False, True]


def test_without_a_threshold_everything_is_kept_also_what_scores_zero() -> None:
    rewards = np.array([0.0, -1.0, 0.0])
    assert filtered(rewards, cut("absolute", None, rewards, "abc")).all()


@KINDS
@given(rewards=REWARDS, data=st.data())
def test_what_a_later_improve_step_learns_from_lies_within_what_the_former_did(kind: Any, rewards: list[float], data: Any) -> None:
    sources = data.draw(st.lists(st.integers(0, 3), min_size=len(rewards), max_size=len(rewards)))
    array = np.array(rewards)
    kept = [filtered(array, cut(kind, level, array, sources)) for level in (None, *LEVELS[kind])]
    capped = [most_of_each(mask, array, sources, 2) for mask in kept]
    for sets in (kept, capped):
        for former, later in itertools.pairwise(sets):
            assert not (later & ~former).any()


def test_the_expected_reward_of_what_is_kept_exceeds_the_threshold_and_so_the_mean() -> None:
    """ReST A.3: V of π·1[R > τ] > τ ≥ V of π, for an exact policy over a few texts."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        probability, reward = rng.dirichlet(np.ones(8)), rng.random(8)
        value = probability @ reward
        kept = filtered(reward, np.full(8, value))
        improved = probability * kept / (probability * kept).sum()
        assert improved @ reward > value


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.75, 0.9])
def test_a_quantile_of_each_prompt_keeps_its_share_of_the_candidates(p: float) -> None:
    rewards = np.random.default_rng(1).random(10)
    kept = filtered(rewards, cut("source_quantile", p, rewards, ["x"] * 10)).sum()
    assert kept in (np.floor((1 - p) * 10), np.ceil((1 - p) * 10))


@pytest.mark.parametrize("kind", ["quantile", "source_quantile", "source_gamma"])
def test_of_equal_rewards_none_is_kept(kind: Any) -> None:
    rewards = np.full(6, 0.1 + 0.2)
    assert not filtered(rewards, cut(kind, 0.5, rewards, "aaaaaa")).any()


def test_gamma_goes_from_the_mean_of_a_prompt_to_its_maximum_which_keeps_nothing() -> None:
    rewards = np.array([0.0, 1.0, 5.0, 0.5])
    assert cut("source_gamma", 0.0, rewards, "aaab").tolist() == [2.0, 2.0, 2.0, 0.5]
    assert not filtered(rewards, cut("source_gamma", 1.0, rewards, "aaab")).any()


def test_best_of_k_is_the_strict_threshold_at_the_second_largest_reward() -> None:
    """RAFT: without ties exactly the best of each prompt is kept."""
    rewards, sources = np.random.default_rng(2).random(40), [i % 5 for i in range(40)]
    threshold = cut("source_best", 1, rewards, sources)
    kept = filtered(rewards, threshold)
    for source in range(5):
        mine = [i for i in range(40) if sources[i] == source]
        assert threshold[mine[0]] == np.sort(rewards[mine])[-2]
        assert [i for i in mine if kept[i]] == [max(mine, key=lambda i: rewards[i])]


def test_with_a_binary_reward_every_threshold_below_one_keeps_the_same() -> None:
    """ReST^EM's filter is ReST's with any τ in [0, 1)."""
    rewards = np.array([0.0, 1.0, 1.0, 0.0])
    kept = [filtered(rewards, cut("absolute", tau, rewards, "aabb")).tolist() for tau in (0.0, 0.5, 0.99)]
    assert kept == [[False, True, True, False]] * 3


def test_of_what_is_kept_the_best_of_each_prompt_stay() -> None:
    rewards = np.array([1.0, 3.0, 2.0, 3.0, 1.0])
    assert most_of_each(np.array([True] * 4 + [False]), rewards, "aaaab", 2).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("kind", "levels", "message"),
    [
        ("median", (0.5,), "threshold must be one of absolute, quantile"),
        ("quantile", (0.5, 0.5), "thresholds must rise"),
        ("absolute", (0.5, None), "thresholds must rise"),
        ("source_best", (1, 2), "thresholds must fall"),
        ("source_best", (1.5,), "a number of rewards from 1, got 1.5"),
        ("quantile", (1.5,), "lies in 0..1, got 1.5"),
        ("absolute", (float("nan"),), "must be finite"),
    ],
)
def test_levels_that_cannot_be_meant_are_named(kind: Any, levels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_levels(kind, levels)


# --- Grown data --------------------------------------------------------------------------------------------------------


def test_the_original_data_are_filtered_like_the_samples() -> None:
    env = make(max_new_tokens=4)
    data = GrownData.of(texts(env, "aab", "bbb"), texts(env, "aaa", "ccc"))
    assert data.kept("absolute", 0.25).tolist() == [True, False, True, False]
    assert data.kept("absolute", 0.25, keep_data="all").tolist() == [True, False, True, True]
    assert data.kept("absolute", 0.25, keep_data="none").tolist() == [True, False, False, False]


def test_the_filter_reads_the_score_or_the_sum_of_the_credit() -> None:
    env = make(reward=("critic_span", {"positive": 2.0, "negative": 0.0}), payment="end", max_new_tokens=4)
    data = GrownData.of(texts(env, "aab"))
    assert data.rewards("score").tolist() == [0.5]
    assert data.rewards("return").tolist() == [data.episodes[0].rewards.sum()] != [0.5]


def test_texts_cut_at_their_budget_are_not_learned_from() -> None:
    env = make(max_new_tokens=4)
    data = GrownData.of([*texts(env, "aa"), *texts(env, "aaaa", end=False)])
    rule = env.get_wrapper_attr("action_rule")
    assert [e.text for e in data.usable(rule).episodes] == ["aa"]
    assert len(data.usable(rule, drop_truncated=False)) == 2


def test_where_every_text_uses_its_budget_none_counts_as_cut() -> None:
    env = make(max_new_tokens=4, min_new_tokens="max")
    assert len(GrownData.of(texts(env, "aaaa", end=False)).usable(env.get_wrapper_attr("action_rule"))) == 1


def test_equal_texts_are_learned_from_once_only_if_asked_to() -> None:
    env = make(max_new_tokens=4)
    data, rule = GrownData.of(texts(env, "a", "a", "b")), env.get_wrapper_attr("action_rule")
    assert len(data.usable(rule)) == 3
    assert [e.text for e in data.usable(rule, deduplicate=True).episodes] == ["a", "b"]


def test_the_temperature_of_growing_is_not_that_of_learning() -> None:
    one = policy()
    with sampling_temperature(one, 0.1):
        assert one.temperature == 0.1
    assert one.temperature == 1.0


def test_references_are_the_original_data_and_too_long_ones_are_left_out_with_a_word() -> None:
    env = world(prompts=[Prompt("x", references=("ab", "cdefghij")), Prompt("y")])
    with pytest.warns(UserWarning, match="1 of 2 references exceed max_new_tokens"):
        data = original_data(None, env, policy())
    assert [(e.text, e.finish_reason, bool(np.isfinite(e.score))) for e in data] == [("ab", "stop", True)]


def test_an_encoder_decoders_references_are_what_its_tokenizer_makes_of_targets() -> None:
    tokenizer = worlds.closing("<s> $A </s>")
    env = world(tokenizer=tokenizer, prompts=[Prompt("x", references=("ab",))])
    (episode,) = original_data(None, env, LMPolicy(worlds.bart(), tokenizer))
    assert episode.tokens.tolist() == [257, 97, 98, EOS]


def test_data_without_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="prompts without a reference"):
        original_data([Prompt("x")], world(), policy())
    with pytest.raises(TypeError, match="data= takes a file"):
        original_data(["x"], world(), policy())


# --- Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["g.jsonl", "g.jsonl.gz", "g.parquet"])
def test_a_grown_data_set_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    env = world(reward="critic_span", payment="end")
    data = sampled(env)
    again = load_grown(save_grown(data, tmp_path / name), env, policy())
    for a, b in zip(data.episodes, again.episodes, strict=True):
        assert (a.prompt, a.text, a.finish_reason, a.score) == (b.prompt, b.text, b.finish_reason, b.score)
        for field in ("tokens", "prompt_tokens", "rewards", "offsets"):
            assert np.array_equal(getattr(a, field), getattr(b, field)), field
    assert data.original.tolist() == again.original.tolist()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_reading_neither_tokenizes_nor_judges(tmp_path: Path) -> None:
    """Ids that no tokenizer would make of their text come back as they were."""
    tokenizer = worlds.tokenizers()["byte_level_bpe"]
    env = world(tokenizer=tokenizer, max_new_tokens=12)
    ids = [*(tokenizer.convert_tokens_to_ids(c) for c in "quick"), tokenizer.eos_token_id]
    assert tokenizer("quick", add_special_tokens=False)["input_ids"] != ids[:-1]
    episodes = env.get_wrapper_attr("credit")([env.unwrapped.episode(Prompt("a"), ids)])
    path = save_grown(GrownData.of(episodes), tmp_path / "g.jsonl")

    def never(_: Any) -> Any:
        raise AssertionError("judged again")

    again = load_grown(path, world(tokenizer=tokenizer, max_new_tokens=12, scorer=never), policy(worlds.llama(len(tokenizer))))
    assert again.episodes[0].tokens.tolist() == ids


def rows(tmp_path: Path, *changed: dict[str, Any], drop: tuple[str, ...] = ()) -> Path:
    """A file of one good row, changed."""
    env = make(max_new_tokens=6, prompts=["a"])
    save_grown(GrownData.of(texts(env, "abc", prompt="a")), tmp_path / "good.jsonl")
    row = json.loads((tmp_path / "good.jsonl").read_text())
    path = tmp_path / "g.jsonl"
    lines = [{k: v for k, v in {**row, **change}.items() if k not in drop} for change in changed or ({},)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [1, 2, 999, EOS]}, "line 1: token 999 is out of range"),
        ({"tokens": [-1]}, "token -1 is out of range"),
        ({"tokens": [10**30]}, "a list of token ids"),
        ({"tokens": ["97"]}, "a list of token ids"),
        ({"tokens": [True]}, "a list of token ids"),
        ({"tokens": 5}, "a list of token ids"),
        ({"tokens": []}, "a text of no tokens"),
        ({"tokens": [97] * 7}, "7 tokens exceed max_new_tokens=6"),
        ({"tokens": [EOS, 97]}, "tokens go on after EOS"),
        ({"text": "abd"}, "they are of another tokenizer"),
        ({"text": None}, "they are of another tokenizer"),
        ({"prompt_tokens": [98]}, "the model saw other ids of the prompt"),
        ({"prompt": ""}, "column 'prompt' is blank"),
        ({"prompt": 3}, "should hold a text"),
        ({"score": "high"}, "should hold finite numbers"),
        ({"score": None}, "should hold finite numbers"),
        ({"score": float("nan")}, "should hold finite numbers"),
        ({"rewards": [0.0]}, "1 rewards for 4 tokens"),
        ({"rewards": [0.0, 0.0, 0.0, float("inf")]}, "should hold finite numbers"),
        ({"rewards": 1.0}, "should hold finite numbers"),
        ({"references": 5}, "a text or a list of texts"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_grown(rows(tmp_path, change), make(max_new_tokens=6, prompts=["a"]), policy())


def test_a_file_of_more_rows_than_allowed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 1 rows; raise limit="):
        load_grown(rows(tmp_path, {}, {}), make(max_new_tokens=6, prompts=["a"]), policy(), limit=1)


def test_texts_without_ids_are_tokenized_and_judged_and_that_is_said(tmp_path: Path) -> None:
    path = rows(tmp_path, drop=("tokens", "prompt_tokens", "score", "rewards", "original"))
    with pytest.warns(UserWarning, match="1 of 1 texts come without token ids; the policy's tokenizer made ids"):
        data = load_grown(path, make(max_new_tokens=6, prompts=["a"]), policy())
    assert data.episodes[0].tokens.tolist() == worlds.ids("abc", end=True)
    assert data.episodes[0].score == pytest.approx(1 / 6)


def test_a_score_that_came_with_a_text_stays(tmp_path: Path) -> None:
    path = rows(tmp_path, {"score": 7.0}, drop=("tokens", "prompt_tokens", "rewards"))
    with pytest.warns(UserWarning, match="without token ids"):
        data = load_grown(path, make(max_new_tokens=6, prompts=["a"]), policy())
    assert (data.episodes[0].score, data.episodes[0].rewards.tolist()) == (7.0, [0.0, 0.0, 0.0, 7.0])


def test_a_file_of_pairs_is_the_original_data_by_the_names_of_its_columns(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("source,target\nx,ab\ny,cd\n")
    data = load_grown(tmp_path / "d.csv", world(), policy(), {"prompt": "source", "text": "target"}, texts=True)
    assert [(e.prompt.text, e.text) for e in data.episodes] == [("x", "ab"), ("y", "cd")]
    assert data.original.all()


def test_an_unknown_extension_or_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"written as \.jsonl"):
        save_grown(sampled(world()), tmp_path / "g.pickle")
    with pytest.raises(ValueError, match=r"unknown fields \['reply'\]"):
        load_grown(tmp_path / "g.jsonl", world(), policy(), {"reply": "x"})


def test_a_text_that_was_not_judged_is_not_written(tmp_path: Path) -> None:
    env = world()
    with pytest.raises(ValueError, match="judge the texts first"):
        save_grown(GrownData.of([env.unwrapped.episode(Prompt("a"), [EOS])]), tmp_path / "g.jsonl")
    assert list(tmp_path.iterdir()) == []
