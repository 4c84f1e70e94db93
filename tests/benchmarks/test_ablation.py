"""The ablation: the same runs, tuned alike; its table and picture."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ablation import interval, methods_of, picture, result_table
from benchmarks.runs import GRID, best_cell, cell_of, key_of, run_all
from tests.repository import ROOT

CELL = ("detox", 28, "sparse")


def result(seed: int = 0, rate: float = 2e-4, kl: float = 0.1, **values: Any) -> dict[str, Any]:
    numbers = {
        "final": 0.9, "before": 0.5, "reference_kl": 5.0, "perplexity": 4.0, "perplexity_before": 4.0, "length": 28.0,
        "seconds": 20.0, "curve": [0.5, 0.6, 0.7],
    }  # fmt: skip
    return {**key_of(CELL, rate, kl, seed, 128), **numbers, **values}


def test_the_interval_is_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.303 / 3**0.5))


def test_the_best_cell_is_the_best_among_the_sane() -> None:
    gibberish = result(kl=0.02, curve=[0.9, 0.9], perplexity=40.0)
    good = result(kl=0.1, curve=[0.6, 0.7])
    starved = result(kl=0.4, curve=[0.5, 0.5])
    assert best_cell([gibberish, good, starved]) == (2e-4, 0.1)


def test_where_all_talk_gibberish_the_one_nearest_to_the_language_is_taken() -> None:
    assert best_cell([result(kl=0.02, perplexity=40.0), result(kl=0.1, perplexity=9.0)]) == (2e-4, 0.1)


def known(key: dict[str, Any]) -> dict[str, Any]:
    return {**result(), **key}


def test_a_run_that_is_in_the_file_is_not_repeated(tmp_path: Path) -> None:
    keys = [key_of(CELL, rate, kl, 0, 128) for rate, kl in GRID]
    out = tmp_path / "runs.jsonl"
    out.write_text("".join(json.dumps({**result(), **key, "final": 0.123}) + "\n" for key in keys))
    assert [r["final"] for r in run_all(known, keys, out, 1, "")] == [0.123] * len(keys)
    assert len(out.read_text().splitlines()) == len(keys)


def test_runs_of_one_seed_share_their_prompts_whatever_the_reward() -> None:
    assert key_of(CELL, 1e-4, 0.1, 3, 128)["seed"] == key_of(("detox", 28, "uniform"), 2e-4, 0.2, 3, 128)["seed"]


def test_the_table_tells_the_score_and_the_picture_is_drawn(tmp_path: Path) -> None:
    runs = [result(seed, final=0.9 + 0.01 * seed) for seed in range(5)]
    assert {cell_of(r) for r in runs} == {CELL}
    table = result_table(runs, [CELL], {CELL: (2e-4, 0.1)})
    assert list(table.columns[3].cells) == ["0.92 ± 0.02 (untrained 0.5)"]
    picture(runs, [CELL], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_an_estimator_other_than_gae_stands_in_the_name_of_the_method() -> None:
    assert methods_of(["sparse", "attention"], ["gae", "rloo"]) == ["sparse", "attention", "sparse, rloo", "attention, rloo"]


@pytest.mark.slow
def test_one_command_tunes_runs_and_draws(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.ablation", "--tasks", "detox", "--rewards", "uniform", "--seeds", "0", "1"]
    command += ["--advantages", "rloo"]
    command += ["--episodes", "64", "--processes", "2", "--out", str(tmp_path / "a.jsonl"), "--picture", str(tmp_path / "a.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == len(GRID) + 2
    assert (tmp_path / "a.png").stat().st_size > 10_000
