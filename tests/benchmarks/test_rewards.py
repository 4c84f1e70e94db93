"""The benchmark of the rewards runs, and measures the work that it says."""

import json
import math

import pytest

from benchmarks import rewards
from benchmarks.rewards import Measurement, measure, table, texts


def test_texts_have_exactly_as_many_tokens_as_asked_for_and_differ_between_rounds() -> None:
    first, second = (texts("textenv/Detox-v0", 12, 3, seed) for seed in (0, 1))
    assert {len(text) for text in first} == {12}
    assert [text.text for text in first] != [text.text for text in second]


def test_a_small_setting_runs_every_road(capsys: pytest.CaptureFixture[str]) -> None:
    rewards.main(
        ["--rewards", "critic_span", "--environments", "textenv/Detox-v0", "--tokens", "8", "--batch", "4", "--stepped", "1",
         "--rounds", "2", "--json"]
    )  # fmt: skip
    plain, critic = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (plain["reward"], critic["reward"]) == ("sparse", "critic_span")
    assert plain["over_score"] == 1.0
    assert critic["over_score"] > 1.0, "the critic comes on top of the score"
    assert all(critic[road] > 0 for road in ("batched", "stepped_end", "stepped_online"))
    assert critic["tokens"] == 8


def test_stepping_may_be_left_out() -> None:
    (plain,), reasons = measure(["sparse"], ["textenv/Detox-v0"], 8, 2, 0, 1)
    assert plain.batched > 0
    assert math.isnan(plain.stepped_end)
    assert not reasons


def test_the_table_has_a_row_a_reward() -> None:
    row = Measurement("sparse", "textenv/Detox-v0", 64, 1.0, 1.0, 2.0, 3.0, 2.0)
    assert table([row, row]).row_count == 2
