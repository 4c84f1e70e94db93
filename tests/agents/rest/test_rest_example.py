"""The example of ReST runs from top to bottom, at small scale, and shows what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository import ROOT

SMALL = ["--prompts", "12", "--samples", "8", "--updates", "2", "--held-out", "6", "--best-of", "4", "--learning-rate", "1e-6"]


@pytest.mark.slow
def test_the_example_reports_each_improve_step_and_best_of_n_on_top_of_it(tmp_path: Path) -> None:
    picture = tmp_path / "rest.png"
    command = [sys.executable, str(ROOT / "examples" / "rest_translation.py"), *SMALL, "--json", "--out", str(picture)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == ["before", *(f"G={g} I={i}" for g in (1, 2) for i in range(5))]
    for row in rows:
        best = list(row["best_of"].values())
        assert list(row["best_of"]) == ["1", "2", "4"]
        assert best == sorted(best)
    kept = [row["kept_share"] for row in rows[1:6]]
    assert kept[0] == 1.0
    assert kept == sorted(kept, reverse=True)
    assert picture.read_bytes()[:4] == b"\x89PNG"
