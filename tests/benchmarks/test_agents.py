"""Every agent on every task: its table, and each agent trained once at small scale."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.agents import AGENTS, before_and_after, main, result_table
from tests.repository import ROOT

NUMBERS = {
    "name": "before", "score": 0.5, "truth": 0.4, "reference_kl": 0.0, "perplexity": 4.0, "episodes": 0, "generated": 0,
    "learned": 0, "sampled": 28.0, "judged": 0.0,
}  # fmt: skip


def result(seed: int, *rows: dict[str, Any]) -> dict[str, Any]:
    known = {"task": "detox", "method": "x", "seed": seed, "truth": "insults", "seconds": 9.0}
    return {**known, "before": NUMBERS, "rows": [{**NUMBERS, **row} for row in rows]}


def lines(*results: dict[str, Any]) -> list[str]:
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(result_table(results))
    return console.export_text().splitlines()


def test_a_line_of_the_table_is_the_mean_over_seeds_and_half_its_interval() -> None:
    (line,) = [line for line in lines(*(result(s, {"name": "grpo", "score": float(s)}) for s in (1, 2, 3))) if "grpo" in line]
    assert "2.000 ± 2.5" in line


def test_each_policy_that_a_run_reports_has_its_line() -> None:
    shown = lines(result(0, {"name": "rest G=1 I=0"}, {"name": "rest G=1 I=1"}))
    assert [sum(name in line for line in shown) for name in ("untrained", "I=0", "I=1")] == [1, 1, 1]


def test_the_untrained_policy_counts_once_a_seed_however_many_runs_measured_it() -> None:
    runs = [result(seed, {"name": name}) for seed in (1, 2) for name in ("ppo", "grpo")]
    runs = [{**run, "before": {**NUMBERS, "score": float(run["seed"])}} for run in runs]
    (line,) = [line for line in lines(*runs) if "untrained" in line]
    assert "1.500 ± 6.4" in line


def test_before_and_after_are_told_in_one_line() -> None:
    (line,) = before_and_after(result(0, {"name": "ppo", "score": 0.75, "truth": 0.1, "reference_kl": 2.0}))
    assert line == "detox, ppo: score 0.500 → 0.750, insults 0.400 → 0.100, KL 2.00, 9 s"


def command(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    small = ["--seeds", "0", "--episodes", "32", "--updates", "1", "--held-out", "4", "--processes", "1", "--out", str(out)]
    run = [sys.executable, "-m", "benchmarks.agents", *small, *arguments]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_one_command_trains_every_agent_within_the_budget(tmp_path: Path) -> None:
    done = command(tmp_path / "a.jsonl", "--tasks", "detox", "--agents", *AGENTS)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = {run["method"]: run for run in map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())}
    assert set(runs) == {*AGENTS, "rest_1", "rest_2"} - {"rest", "bc"}  # Detox has no references to clone
    assert [row["name"][-3:] for row in runs["rest_2"]["rows"]] == [f"I={i}" for i in range(5)]
    generated = {row["name"]: row["generated"] for method in ("dpo", "rest_1", "rest_2") for row in runs[method]["rows"]}
    assert all(0.75 * 32 * 28 <= tokens <= 32 * 28 for tokens in generated.values()), generated
    assert runs["best_of_n"]["rows"][0]["generated"] == 32 * 28


@pytest.mark.slow
def test_one_agent_and_one_seed_print_before_and_after(tmp_path: Path) -> None:
    done = command(tmp_path / "a.jsonl", "--tasks", "summarization", "--agents", "bc")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "summarization, bc: score" in done.stdout


@pytest.mark.slow
def test_cloning_the_references_of_a_translation_keeps_its_language(tmp_path: Path) -> None:
    done = command(tmp_path / "a.jsonl", "--tasks", "translation", "--agents", "bc")
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert run["rows"][0]["reference_kl"] < 1


def test_behaviour_cloning_alone_on_a_task_without_references_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["agents", "--tasks", "detox", "--agents", "bc"])
    with pytest.raises(SystemExit):
        main()
    assert "bc learns references, and detox has none" in capsys.readouterr().err
