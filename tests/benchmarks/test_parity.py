"""Parity of precisions and value models: the same runs, differences within seeds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parity import FIRST, SETTINGS, result_table
from benchmarks.runs import Key, key_of
from tests.repository import ROOT


def result(name: str, seed: int, final: float) -> Key:
    numbers: dict[str, Any] = {"final": final, "curve": [final], "reference_kl": 1.0, "perplexity": 4.0, "seconds": 1.0}
    return {**key_of(("detox", 28, name), 2e-4, 0.1, seed, 128), **numbers}


def test_settings_differ_in_precision_and_value_model_alone() -> None:
    assert len({json.dumps(settings) for settings in SETTINGS.values()}) == len(SETTINGS) == 6
    assert SETTINGS[FIRST] == {"precision": "fp32", "value_model": None}


def test_differences_are_within_seeds() -> None:
    runs = [result(FIRST, seed, seed * 0.1) for seed in range(5)]
    runs += [result("bf16, states", seed, seed * 0.1 + 0.02) for seed in reversed(range(5))]
    table = result_table(runs, [("detox", 28, name) for name in (FIRST, "bf16, states")])
    assert list(table.columns[3].cells) == ["", "0.020 ± 0.000"]


@pytest.mark.slow
def test_one_command_trains_and_draws(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.parity", "--tasks", "count_letter", "--seeds", "0", "1", "--episodes", "128"]
    command += ["--settings", "bf16, separate", "--processes", "2"]
    command += ["--out", str(tmp_path / "p.jsonl"), "--picture", str(tmp_path / "p.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "bf16, separate" in done.stdout
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "p.png").stat().st_size > 10_000
