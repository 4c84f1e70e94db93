"""The comparison runs its contenders in turn, and its table holds what they printed."""

import argparse
import io
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from benchmarks import limits
from benchmarks.compare import contenders, main, table
from benchmarks.processes import ROOT, rate, ratio, run

GIVEN = {"device": "cpu", "trl_python": "trl", "grpo_python": None, "sb3_python": "sb3", "iterations": 4}


def result(seconds: float, others: float = 0.0, **more: Any) -> dict[str, Any]:
    iteration = {"sample": 0.1, "score": 0.1, "update": 0.2, "wall": seconds, "cpu": seconds, "others": others, "tokens": 2048}
    return {"peak_mib": 500.0, "iterations": [iteration] * 4, **more}


def test_peers_are_run_by_the_interpreters_that_are_given() -> None:
    found = dict(contenders(argparse.Namespace(**GIVEN), "S", 1))
    assert found["TRL PPO"][:3] == ["trl", "-m", "benchmarks.peers.trl_ppo"]
    assert found["SB3 PPO by hand"][0] == "sb3"
    assert "TRL GRPO" not in found


def test_ours_alone_runs_on_a_gpu() -> None:
    alone = argparse.Namespace(**{**GIVEN, "device": "cuda", "trl_python": None, "sb3_python": None})
    found = dict(contenders(alone, "124M", 1))
    assert len(found) == 3
    assert all(command[command.index("--device") + 1] == "cuda" for command in found.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "x"], "a whole number from 1 on, got 'x'"),
        (["--rounds", "0"], "a whole number from 1 on, got '0'"),
        (["--sizes", "S,L"], "unknown sizes L; there are S, M, 124M, 1.1B"),
        (["--trl-python", "missing/python"], "no program at 'missing/python'"),
        (["--device", "abacus"], "no device 'abacus' here"),
        (["--device", "meta", "--trl-python", sys.executable], "the peers' scripts are of a CPU"),
    ],
)
def test_bad_arguments_are_told_before_any_work(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_stepping_is_compared_in_one_cell_alone() -> None:
    assert "SB3 PPO by hand" not in dict(contenders(argparse.Namespace(**GIVEN), "M", 1))


def test_iterations_with_a_busy_neighbour_are_left_out() -> None:
    calm, busy = result(1.0), result(4.0, others=0.9)
    assert rate([calm, busy]) == 2048
    assert rate([busy]) == 512, "where nothing else is left they count"


def test_a_ratio_is_taken_within_a_round() -> None:
    drifting = [result(1.0), result(2.0), result(3.0)]
    assert ratio(drifting, [result(2.0), result(4.0), result(9.0)]) == "2.00 (2.00 – 3.00)"


def test_the_table_compares_each_with_trl_and_stepping_with_stepping() -> None:
    ours = result(0.5, flops={"sample": 1e9}, peak_flops=4e9, matmul_peaks={"fp32": 4e9})
    found = {
        "textenv bf16 states": [ours], "TRL PPO": [result(2.0) | {"peak_mib": 1000.0}],
        "textenv, SB3 PPO": [result(4.0)], "SB3 PPO by hand": [result(32.0)],
    }  # fmt: skip
    out = io.StringIO()
    Console(width=220, file=out).print(table({("S", 1): found}))
    text = out.getvalue()
    for said in ("4,096", "50%", "4.00 (4.00 – 4.00)", "0.50", "SB3 by hand: 8.00", "SB3 by hand: 64.00"):
        assert said in text


def test_a_contender_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"TRL PPO failed \(1\)[^\n]*\n.*No module named benchmarks\.peers\.nobody"):
        run("TRL PPO", [sys.executable, "-m", "benchmarks.peers.nobody"])


@pytest.mark.parametrize("module", ["trl_ppo", "trl_grpo", "sb3_ppo"])
def test_a_peer_needs_no_textenv(module: str) -> None:
    code = f"import sys; import benchmarks.peers.{module}; print(*[name for name in sys.modules if name.startswith('textenv')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


@pytest.mark.slow
def test_the_step_by_step_road_runs_on_the_work_unit() -> None:
    case = ["--size", "S", "--episodes", "16", "--iterations", "1"]
    (ours,) = run("ours", [sys.executable, "-m", "benchmarks.stepping", *case])
    assert ours["iterations"][0]["tokens"] == 512


# --- Limits --------------------------------------------------------------------------------------------------------------


def shown(of: Any) -> str:
    out = io.StringIO()
    Console(width=220, file=out).print(of)
    return out.getvalue()


def test_each_limit_with_a_peer_is_read_off_the_comparison() -> None:
    ours = result(0.5, flops={"sample": 1e9}, peak_flops=4e9)
    found = {
        "textenv bf16 states": [ours], "textenv fp32 separate": [result(1.9)], "TRL PPO": [result(2.0) | {"peak_mib": 1000.0}],
        "textenv, SB3 PPO": [result(4.0)], "SB3 PPO by hand": [result(32.0)],
    }  # fmt: skip
    rows = list(limits.of_cells({("M", 1): found}))
    assert [(row.value, row.met) for row in rows] == [
        (4.0, True), (pytest.approx(2.0 / 1.9), False), (0.5, True), (64.0, True), (8.0, True), (pytest.approx(50.0), True),
    ]  # fmt: skip


def test_a_limit_whose_peer_was_not_run_has_no_row() -> None:
    assert not list(limits.of_cells({("S", 4): {"textenv bf16 states": [result(1.0)]}}))


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (limits.Limit("memory", 0.69, most=0.7), ["≤ 0.7", "0.69 ×", "yes"]),
        (limits.Limit("speed", 3.999, least=4.0), ["≥ 4", "4 ×", "NO"]),
        (limits.Limit("overhead", 0.6612, unit="ms"), ["0.661 ms"]),
    ],
)
def test_the_table_says_what_was_asked_and_whether_it_was_met(limit: limits.Limit, said: list[str]) -> None:
    text = shown(limits.table([limit]))
    assert all(part in text for part in said)
    assert ("yes" in text or "NO" in text) == (limit.least is not None or limit.most is not None)


@pytest.mark.slow
def test_what_has_no_peer_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, told = [], []

    def several(who: str, command: Any, lines: int = 1) -> list[dict[str, Any]]:
        asked.append(command)
        return [result(1.0 + i, working_mib=1000.0) for i in range(lines)]

    monkeypatch.setattr(limits, "run", several)
    monkeypatch.setattr(limits, "ROUNDS", 1)
    rows = {row.what: row for row in limits.alone(told.append)}
    assert (len(asked), len(told), len(rows)) == (3, 5, 7)
    assert rows["ragged ends against fixed 64, a token, S, bf16"].value == 0.5
    assert rows["critic_span over sparse, an episode: batched against one by one"].value > 1
    assert 0 < rows["import textenv"].value < 10
