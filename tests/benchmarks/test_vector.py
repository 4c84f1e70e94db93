"""The benchmark of the vector environment runs, and both sides are paid the same."""

import pytest

from benchmarks import vector


def test_a_small_setting_prints_a_row_a_reward_and_payment(capsys: pytest.CaptureFixture[str]) -> None:
    vector.main(["--num-envs", "2", "--rounds", "1", "--rewards", "sparse", "uniform"])
    printed = capsys.readouterr().out
    assert "N = 2, 56 tokens a round" in printed
    assert [line.split()[:2] for line in printed.splitlines() if line.strip().startswith(("sparse", "uniform"))] == [
        ["sparse", "end"], ["uniform", "online"], ["uniform", "end"]
    ]  # fmt: skip
