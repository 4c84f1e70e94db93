"""The PPO benchmark runs, and measures the work that it says."""

import json
from typing import Any

import pytest
import torch

from benchmarks import ppo, work_unit
from benchmarks.ppo import Case, cases, main, measure, table
from benchmarks.processes import share_of_bound
from benchmarks.stopwatch import PHASES, median
from benchmarks.work_unit import Work


@pytest.fixture(autouse=True)
def _miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that takes a second, and products that are not measured."""
    monkeypatch.setitem(work_unit.SIZES, "XS", (2, 32, 2, 2, None, 256))
    monkeypatch.setattr(ppo, "matmul_peak", lambda *_: 1e9)


def measured(**options: Any) -> ppo.Result:
    of_work = {name: options.pop(name) for name in list(options) if name in Work.__dataclass_fields__}
    return measure(Case(Work("XS", episodes=8, **of_work), iterations=2, **options))


def test_an_iteration_is_its_phases() -> None:
    result = measured(precision="fp32")
    assert len(result["iterations"]) == 2
    for iteration in result["iterations"]:
        assert iteration["tokens"] == 8 * 32
        assert sum(iteration[phase] for phase in PHASES) == pytest.approx(iteration["wall"], rel=0.2)
    assert median(result["iterations"], "tokens/s") > 0


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16"},
        {"frozen": 1, "micro_batch_tokens": 96},
        {"precision": "medium", "value": "separate"},
        {"family": "llama"},
    ],
)
def test_each_way_to_compute_runs(options: dict[str, Any]) -> None:
    result = measured(**options)
    assert result["peak_mib"] > result["parameters"] * 4 / 2**20
    assert share_of_bound([result]) > 0


def test_ragged_texts_end_before_the_budget() -> None:
    result = measured(ragged=True, new_tokens=16, precision="fp32")
    assert all(8 < iteration["tokens"] < 8 * 16 for iteration in result["iterations"])


def test_medium_is_over_when_the_measurement_is() -> None:
    measured(precision="medium")
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_table_has_a_row_a_case() -> None:
    result = measured()
    assert table([result, {**result, "decode_share": 0.5}]).row_count == 2


def test_ragged_stands_beside_fixed_texts_of_the_mean_length(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Case] = []
    monkeypatch.setattr(ppo, "cases", lambda given: found.extend(cases(given)) or [])
    main(["--size", "S", "--epochs", "1", "--ragged", "--json"])
    assert [(case.work.new_tokens, case.work.ragged) for case in found] == [(64, False), (128, True)]


def test_a_gpu_gets_larger_models_and_longer_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Case] = []
    monkeypatch.setattr(ppo, "cases", lambda given: found.extend(cases(given)) or [])
    main(["--device", "meta", "--epochs", "1", "--json"])
    works = [(case.work.size, case.work.family, case.work.episodes, case.work.new_tokens) for case in found]
    assert works == [("124M", "gpt2", 64, 128), ("1.1B", "llama", 256, 256)]


@pytest.mark.slow
def test_prints_one_json_object_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "S", "--epochs", "1", "--iterations", "1", "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    case = json.loads(line)
    assert case["peak_mib"] > 4 * case["parameters"] * 4 / 2**20, "policy, gradients and two Adam moments at least"
