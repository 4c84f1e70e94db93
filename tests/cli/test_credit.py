"""Rewards against known truth, end to end: sampled texts of the embedded world, and marked texts of a file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import ArrayLike

import textenv
from tests.cli.test_console import run
from textenv import Episode, RewardWrapper
from textenv.alignment import overlap
from textenv.metrics.credit import truth_mask
from textenv.reward import NotApplicable

DETOX = "textenv/Detox-v0"
SMALL = ("--n", 24, "--deletions", 2, "--bootstrap", 50, "--device", "cpu")


class Perfect(RewardWrapper):
    """−1 on every token of a true span, beside the score."""

    sign = -1.0

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        truth = self.get_wrapper_attr("task").truth(episodes)
        return [e.rewards + self.sign * truth_mask(e, spans) for e, spans in zip(episodes, truth, strict=True)]


class Wrong(Perfect):
    """+1 there."""

    sign = 1.0


class Even(RewardWrapper):
    """The score in equal parts."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        return [np.full(len(e), e.rewards.sum() / len(e)) for e in episodes]


class Weasel(RewardWrapper):
    """−1 where the text says "weasel"."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        out = []
        for e in episodes:
            begin = e.text.find("weasel")
            out.append(e.rewards - overlap(e.offsets, begin, begin + 6) * (begin >= 0))
        return out


class Nowhere(RewardWrapper):
    """Applies to nothing."""

    def __init__(self, env: gym.Env[object, object]) -> None:
        raise NotApplicable("it needs a moon, and there is none")

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        raise AssertionError("never made")


@pytest.fixture(autouse=True)
def _rewards_of_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Perfect, Wrong, Even, Weasel, Nowhere):
        monkeypatch.setitem(textenv.REWARDS, cls.__name__.lower(), f"tests.cli.test_credit:{cls.__name__}")


def table(out: Path) -> dict[str, dict[str, str]]:
    """The rows of credit.csv by reward."""
    with (out / "credit.csv").open(newline="", encoding="utf-8") as file:
        return {row["reward"]: row for row in csv.DictReader(file)}


def test_sampled_texts_tell_the_perfect_reward_from_the_wrong_one(tmp_path: Path) -> None:
    out = tmp_path / "credit"
    code, output = run("credit", DETOX, "--rewards", "perfect", "wrong", "even", "sparse", "nowhere", *SMALL, "--out", out)
    assert code == 0, output
    rows = table(out)
    assert {name: row["auc"] for name, row in rows.items()} == {
        "perfect": "1", "wrong": "0", "even": "0.5", "sparse": "0.5", "nowhere": "",
    }  # fmt: skip
    assert rows["perfect"]["average_precision"] == rows["perfect"]["share"] == rows["wrong"]["share"] == "1"
    assert float(rows["even"]["share_low"]) <= float(rows["even"]["share"]) <= float(rows["even"]["share_high"])
    assert [rows[name]["score_at_the_end"] for name in ("perfect", "even", "sparse")] == ["taken out", "moved", "taken out"]
    assert float(rows["sparse"]["seconds_per_1000"]) > 0
    assert rows["nowhere"]["not_applicable"] == "it needs a moon, and there is none"
    assert "nowhere: not applicable: it needs a moon" in output
    picture = (out / "credit.png").read_bytes()
    assert picture[:4] == b"\x89PNG"
    assert len(picture) > 5000


@pytest.fixture
def marked_file(tmp_path: Path) -> Path:
    path = tmp_path / "marked.jsonl"
    rows = [{"words": f"text {i}, you weasel, é", "bad": list(range(11 + len(str(i)), 17 + len(str(i))))} for i in range(12)]
    rows += [{"words": "a friend of mine " * 20, "bad": []}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


COLUMNS = ("--column", "text=words", "--column", "spans=bad")


@pytest.mark.parametrize("tokenizer", ["bytes", "textenv/tiny"])
def test_marked_texts_of_a_file_are_the_truth(
    marked_file: Path, classifier_directory: Path, tmp_path: Path, tokenizer: str
) -> None:
    out = tmp_path / "credit"
    code, output = run(
        "credit", DETOX, "weasel", "even", "--texts", marked_file, *COLUMNS, *SMALL, "--scorer", classifier_directory,
        "--tokenizer", tokenizer, "--max-new-tokens", 100, "--out", out,
    )  # fmt: skip
    assert code == 0, output
    assert "1 of 13 texts are left out: longer than --max-new-tokens" in output
    assert "12 texts" in output
    rows = table(out)
    assert rows["weasel"]["auc"] == rows["weasel"]["share"] == "1"
    assert rows["even"]["auc"] == "0.5"


def test_a_text_that_one_reward_cannot_read_is_left_out_for_all(tmp_path: Path) -> None:
    path, out = tmp_path / "marked.jsonl", tmp_path / "credit"
    rows = [{"text": f"text {i}, you weasel", "spans": [[12 + len(str(i)), 17 + len(str(i))]]} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], {**rows[1], "text": "a friend " * 300}, *rows[2:]]))
    code, output = run("credit", DETOX, "weasel", "redistributed", "--texts", path, *SMALL, "--deletions", 0, "--out", out)
    assert code == 0, output
    assert "1 of 6 texts are left out: textenv/tiny-toxicity: a text of" in output
    assert table(out)["weasel"]["auc"] == "1", "what was left out holds a false mark"
    assert float(table(out)["redistributed"]["auc"]) > 0.5


def test_a_reward_that_cannot_read_most_texts_says_so_and_the_others_are_measured(tmp_path: Path) -> None:
    path, out = tmp_path / "marked.jsonl", tmp_path / "credit"
    rows = [{"text": "you weasel " * 400, "spans": [[4, 10]], "prompt": str(i)} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, output = run("credit", DETOX, "weasel", "redistributed", "--texts", path, *SMALL, "--deletions", 0, "--out", out)
    assert code == 0, output
    assert table(out)["redistributed"]["not_applicable"].startswith("cannot read 4 of 4 texts: textenv/tiny-toxicity: a text of")
    assert table(out)["weasel"]["auc"] == "1"


def test_a_text_that_is_left_out_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    rows = [{"text": f"text {i}, you weasel", "spans": [[12 + len(str(i)), 17 + len(str(i))]]} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"text": "a friend " * 300, "spans": [[0, 2700]]}, *rows]))
    code, output = run("credit", DETOX, "redistributed", "--texts", path, *SMALL)
    assert code == 0, output
    assert f"{DETOX}: 4 texts, bad spans" in output
    assert "(1 texts)" in output, "of two texts whose tokens were deleted one is left"


def test_a_prompt_is_put_before_the_text_with_a_space(classifier_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    rows = [{"text": "you weasel, old", "spans": ["OK", "BAD", "OK"], "ask": f"Who is number {i}?"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, output = run(
        "credit", DETOX, "--rewards", "weasel", "--texts", path, "--column", "prompt=ask", *SMALL, "--tokenizer", "bytes",
        "--scorer", classifier_directory, "--deletions", 0, "--out", tmp_path / "credit",
    )  # fmt: skip
    assert code == 0, output
    row = table(tmp_path / "credit")["weasel"]
    assert float(row["auc"]) == pytest.approx(6 / 7 + 1 / 7 / 2, abs=1e-5), "the tag covers the comma, which the reward does not"
    assert row["share"] == "1"
    assert row["spearman"] == ""


def test_a_seed_repeats_the_table(tmp_path: Path) -> None:
    rows = []
    for name in "ab":
        code, output = run("credit", DETOX, "perfect", "even", *SMALL, "--seed", 3, "--out", tmp_path / name)
        assert code == 0, output
        rows.append([{k: v for k, v in row.items() if k != "seconds_per_1000"} for row in table(tmp_path / name).values()])
    assert rows[0] == rows[1]
    assert not math.isnan(float(rows[0][0]["auc_pooled_low"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("textenv/Nothing-v0",), "unknown environment 'textenv/Nothing-v0'"),
        ((DETOX, "nonsense"), "unknown reward 'nonsense'"),
        ((DETOX, "even", "--sign", "both"), "--sign is bad or good"),
        ((DETOX, "even", "--n", 0), "--n and --bootstrap should be at least 1"),
        ((DETOX, "even", "--column", "text=a"), "name that file"),
        ((DETOX, "even", "--texts", "missing.jsonl"), "no such file: 'missing.jsonl'"),
        ((DETOX, "even", "--sign", "good", "--n", 4), "0 of 112 tokens are on good spans"),
        (("textenv/CountLetter-v0", "even"), "has no policy of its own"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[object, ...], message: str) -> None:
    code, output = run("credit", *arguments, *(() if "--n" in arguments else SMALL), "--out", tmp_path / "credit")
    assert code == 2, output
    assert message in output
    assert not (tmp_path / "credit").exists()


def test_texts_that_do_not_fit_are_an_error(marked_file: Path, tmp_path: Path) -> None:
    code, output = run("credit", DETOX, "even", "--texts", marked_file, *COLUMNS, "--max-new-tokens", 3)
    assert code == 2
    assert "fewer than 3 tokens" in output
