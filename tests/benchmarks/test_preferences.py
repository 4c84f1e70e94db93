"""T-REG against DPO: the same pairs, one table; pairs of the world, and of a file with a model of one's own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.preferences import METHODS, result_table
from tests.repository import ROOT

NUMBERS = {"score": 0.5, "reference_kl": 1.0, "perplexity": 4.0, "length": 28.0}


def result(seed: int, gain: float) -> dict[str, Any]:
    learned = {**NUMBERS, "held_out_pairs": 0.75, "contrast": 0.1}
    rows = {"none": NUMBERS, "dpo": learned, "treg": {**learned, "score": 0.5 + gain + seed / 100}}
    return {"task": "detox", "pairs": 9, "steps": 2, "seed": seed, "results": rows}


def test_differences_are_taken_within_seeds() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(result_table([result(seed, 0.1) for seed in range(3)], ["dpo", "treg"]))
    assert "+0.1100 ± 0.025" in console.export_text()


def command(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    small = ["--seeds", "0", "--steps", "1", "--held-out", "2", "--processes", "1", "--out", str(tmp_path / "runs.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preferences", *small, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = tmp_path.glob("runs-*.jsonl")
    return [json.loads(line) for line in found.read_text().splitlines()]


@pytest.mark.slow
def test_one_command_compares_the_methods_on_the_pairs_of_the_world(tmp_path: Path) -> None:
    (row,) = command(tmp_path, "--prompts", "8", "--samples", "3", "--methods", *METHODS)
    assert set(row["results"]) == {"none", *METHODS}
    assert row["results"]["treg"]["contrast"] > 0


@pytest.mark.slow
def test_one_command_compares_them_on_a_file_of_pairs_with_a_model_of_ones_own(tmp_path: Path, llama_directory: Path) -> None:
    rows = [{"rude": f"you fool {i}", "polite": [f"you are wrong {i}", "no"]} for i in range(16)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = {
        "--pairs": file,
        "--chosen": "polite",
        "--rejected": "rude",
        "--policy": llama_directory,
        "--prompts": 16,
        "--tokens": 24,
    }
    requests = ("--contrast", "Kindly: {prompt}", "Rudely: {prompt}")
    arguments = [*(str(x) for pair in options.items() for x in pair), *requests]
    (row,) = command(tmp_path, *arguments, "--methods", "dpo", "treg", "treg_dpo")
    assert row["results"]["treg"]["contrast"] > 0
    assert 0 <= row["results"]["treg_dpo"]["held_out_pairs"] <= 1
