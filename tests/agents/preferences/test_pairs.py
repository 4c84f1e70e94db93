"""Where preference pairs and token rewards come from: files, data sets, conversations; contrasts, DPO models, functions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests import worlds
from tests.worlds import BYTES, EOS, make
from textenv.agents import BehaviourCloning, LMPolicy
from textenv.agents.preferences.pairs import load_pairs, read_for
from textenv.agents.preferences.token_regularization import ShuffledSource, load_token_source, squash, token_rewards
from textenv.data.preference_pairs import PreferencePair
from textenv.episode import Prompt
from textenv.judges.token_log_probs import token_log_probs
from textenv.reward import NotApplicable

ROWS = [{"prompt": "p", "chosen": "yes", "rejected": "no"}, {"prompt": "q", "chosen": "ab", "rejected": "cdefg"}]
EXPECTED = [("p", "yes", "no"), ("q", "ab", "cdefg")]


def policy(model: Any = None) -> LMPolicy:
    return LMPolicy(worlds.llama() if model is None else model, BYTES)


def written(kind: str, directory: Path) -> Any:
    """The rows as a file of this kind, or as a data set."""
    path = directory / f"pairs.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif kind == "dataset":
        return pytest.importorskip("datasets").Dataset.from_list(ROWS)
    else:
        return ROWS
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "dataset", "rows"])
def test_pairs_are_read_from_files_and_data_sets(kind: str, tmp_path: Path) -> None:
    pairs, skipped = load_pairs(written(kind, tmp_path))
    assert [(pair.prompt.text, pair.chosen, pair.rejected) for pair in pairs] == EXPECTED
    assert skipped == 0


def test_a_conversation_of_one_turn_is_its_two_texts() -> None:
    user = {"role": "user", "content": "Why?"}
    rows = [{"chosen": [user, {"role": "assistant", "content": w}], "rejected": [user, {"role": "assistant", "content": l}]}
            for w, l in (("So.", "No."),)]  # fmt: skip  # noqa: E741
    (pair,), _ = load_pairs(rows)
    assert (pair.prompt.text, pair.chosen, pair.rejected) == ("Why?", "So.", "No.")


def test_a_conversation_of_several_turns_is_refused() -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(ValueError, match="row 1: column 'chosen' is a conversation of user, assistant, user, assistant"):
        load_pairs([{"chosen": turns, "rejected": "y"}])


def test_columns_may_have_other_names_and_hold_several_texts() -> None:
    rows = [{"toxic": "you fool", "neutral": ["you are wrong", "no"]}]
    pairs, _ = load_pairs(rows, {"chosen": "neutral", "rejected": "toxic"})
    assert [(pair.prompt.text, pair.chosen) for pair in pairs] == [("", "you are wrong"), ("", "no")]


def test_what_is_no_row_is_refused() -> None:
    with pytest.raises(TypeError, match="a preference pair is a row with prompt, chosen and rejected"):
        load_pairs([1])


def test_texts_become_ids_with_their_stop_token() -> None:
    _, pairs = read_for(ROWS, None, None, policy(), None)
    assert pairs is not None
    assert [pair.chosen.tokens.tolist() for pair in pairs] == [[*b"yes", EOS], [*b"ab", EOS]]
    assert [pair.chosen.prompt_tokens.tolist() for pair in pairs] == [[*b"p"], [*b"q"]]
    assert pairs[0].chosen.finish_reason == "stop"


def test_a_text_that_uses_up_the_budget_ends_without_the_stop_token() -> None:
    _, pairs = read_for([{"chosen": "abcd", "rejected": "e"}], None, make(max_new_tokens=4), policy(), None)
    assert pairs is not None
    assert (pairs[0].chosen.tokens.tolist(), pairs[0].chosen.finish_reason) == ([*b"abcd"], "length")


def test_pairs_that_do_not_fit_are_left_out_and_counted() -> None:
    rows = [*ROWS, {"prompt": "r", "chosen": "same", "rejected": "same"}]
    with pytest.warns(UserWarning, match=r"2 of 3 pairs are left out: 1 of two equal texts, 1 longer than max_new_tokens=4"):
        _, pairs = read_for(rows, None, make(max_new_tokens=4), policy(), None)
    assert pairs is not None
    assert [pair.chosen.text for pair in pairs] == ["yes"]
    with pytest.raises(ValueError, match="none of 2 pairs fits into max_new_tokens=1"):
        read_for(ROWS, None, make(max_new_tokens=1), policy(), None)


def test_a_prompt_that_fills_the_models_positions_leaves_no_room() -> None:
    rows = [*ROWS, {"prompt": "x" * 126, "chosen": "abc", "rejected": "d"}]
    with pytest.warns(UserWarning, match="1 of 3 pairs are left out"):
        read_for(rows, None, None, policy(), None)


def test_pairs_with_documents_need_the_environment_that_places_them() -> None:
    pair = PreferencePair(Prompt("q", context=("d",)), "a", "b", "s")
    with pytest.raises(ValueError, match="pass env="):
        read_for([pair], None, None, policy(), None)


def test_a_policy_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no tokenizer to read pairs with: LMPolicy\(model, tokenizer\)"):
        read_for(ROWS, None, None, LMPolicy(worlds.llama()), None)


# --- Token rewards -----------------------------------------------------------------------------------------------------


def episodes(env: Any) -> list[Any]:
    return [env.get_wrapper_attr("episode")(Prompt("p: "), tokens) for tokens in ([97, 98, EOS], [99], [100, 101, 102, 103])]


def contrast(better: str, worse: str) -> list[np.ndarray]:
    env = make()
    source = load_token_source(("contrastive", {"prompts": (better, worse)}), env, policy())
    return token_rewards(source, episodes(env))


def test_one_prompt_twice_gives_no_reward_and_swapped_prompts_the_opposite() -> None:
    assert all((values == 0).all() for values in contrast("Say {prompt}", "Say {prompt}"))
    one, other = contrast("Good: {prompt}", "Bad: {prompt}"), contrast("Bad: {prompt}", "Good: {prompt}")
    assert any((values != 0).any() for values in one)
    assert all(np.array_equal(a, -b) for a, b in zip(one, other, strict=True))


def test_the_contrast_is_read_by_the_reference_with_the_sampled_ids_behind_either_request() -> None:
    env, reader = make(), policy()
    found = token_rewards(load_token_source(("contrastive", {"prompts": ("+{prompt}", "-{prompt}")}), env, reader), episodes(env))
    texts = [e.tokens for e in episodes(env)]
    sides = [token_log_probs(reader.model, [np.array([*s, *b"p: "])] * 3, texts, env.get_wrapper_attr("action_rule"))
             for s in (b"+", b"-")]  # fmt: skip
    expected = [squash(b - w) * (t != EOS) for b, w, t in zip(*sides, texts, strict=True)]
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["contrastive", "dpo"])
def test_a_reader_that_was_trained_reads_as_it_was_trained(kind: str, llama_directory: Path) -> None:
    env, named = make(), str(llama_directory)
    reader = LMPolicy(named)
    BehaviourCloning(reader, ["some text", "more text"], batch_size=2, learning_rate=0.01).learn(50)
    arguments = {"prompts": ("+{prompt}", "-{prompt}")} if kind == "contrastive" else {"model": named}
    trained, untouched = (
        token_rewards(load_token_source((kind, arguments), env, one), episodes(env))
        for one in (reader.frozen_copy(), LMPolicy(named))
    )
    assert not np.allclose(trained[0], untouched[0])


def test_where_two_texts_part_the_embedded_model_rewards_the_polite_one() -> None:
    env = gym.make("textenv/Detox-v0")
    source = load_token_source("contrastive", env, LMPolicy("textenv/tiny"))
    ids = [env.get_wrapper_attr("tokenizer")(text).input_ids[1:] for text in (" You are a stupid weasel", " You are right")]
    bare: Any = env.unwrapped
    rude, polite = token_rewards(source, [bare.episode(Prompt("I read your note about the soup."), i) for i in ids])
    part = next(t for t in range(len(ids[1])) if ids[0][t] != ids[1][t])
    assert rude[part] < polite[part]
    assert np.array_equal(rude[:part], polite[:part])  # the requests do not show the text: the reward is causal


def test_a_preference_trained_model_is_a_source(tmp_path: Path) -> None:
    env, reader = make(), policy()
    trained = str(worlds.saved(worlds.llama(seed=2), tmp_path))
    found = token_rewards(load_token_source(("dpo", {"model": trained}), env, reader), episodes(env))
    prompts, texts = [e.prompt_tokens for e in episodes(env)], [e.tokens for e in episodes(env)]
    a, b = (token_log_probs(m, prompts, texts, env.get_wrapper_attr("action_rule")) for m in (worlds.llama(seed=2), reader.model))
    assert all(np.allclose(values, squash(x - y), atol=1e-6) for values, x, y in zip(found, a, b, strict=True))


def test_a_model_that_is_the_reference_gives_no_reward(llama_directory: Path) -> None:
    env = make()
    same = load_token_source(("dpo", {"model": str(llama_directory)}), env, LMPolicy(str(llama_directory)))
    assert all((values == 0).all() for values in token_rewards(same, episodes(env)))


def test_shuffled_rewards_keep_their_histogram_and_are_shuffled_alike_each_time() -> None:
    env = make()
    source = ShuffledSource(lambda es: [np.arange(len(e)) / 10 for e in es])
    found, again = (token_rewards(source, episodes(env)) for _ in range(2))
    assert [sorted(values) for values in found] == [list(np.arange(len(e)) / 10) for e in episodes(env)]
    assert any((values != np.sort(values)).any() for values in found)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_any_named_reward_is_a_source_of_its_own_credit_alone() -> None:
    env = make()
    found = token_rewards(load_token_source(("critic_span", {"positive": 0.5}), env, policy()), episodes(env))
    assert found[0].tolist() == [0.5, 0.0, 0.0]


@pytest.mark.parametrize("source", ["contrasting", 3, ("dpo",)])
def test_an_unknown_source_is_named(source: Any) -> None:
    with pytest.raises(ValueError, match="token_source must be"):
        load_token_source(source, make(), policy())


def test_a_source_with_another_tokenizer_does_not_apply() -> None:
    with pytest.raises(NotApplicable, match="another tokenizer"):
        load_token_source(("dpo", {"model": "textenv/tiny"}), make(), policy())


@pytest.mark.parametrize(("value", "message"), [(np.zeros(1), "gave shapes"), (np.full(3, np.nan), "gave nan in the text 'ab'")])
def test_a_source_that_misbehaves_is_told_so(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_rewards(lambda _: [value], episodes(make())[:1])
