"""examples/distributed_ppo.py, as it is, started in the three ways that it names."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.agents.distributed.launch import environment, torchrun
from tests.repository import ROOT

EXAMPLE = str(ROOT / "examples" / "distributed_ppo.py")
SHORT = ("--json", "--steps", "600")


@pytest.fixture(scope="module")
def of_one_process() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE, *SHORT], capture_output=True, text=True, check=False, cwd=ROOT, env=environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.xdist_group("torchrun")
@pytest.mark.parametrize("more", [(), ("--sharded",)], ids=["ddp", "fsdp2"])
def test_the_example_gives_the_same_numbers_on_two_processes(of_one_process: dict[str, Any], more: tuple[str, ...]) -> None:
    done = torchrun(EXAMPLE, *SHORT, *more, processes=2)
    assert done.code == 0, done.err[-2000:]
    found = json.loads(done.out)  # one line: the second process says nothing
    assert found["processes"] == 2
    assert found["rewards"] == pytest.approx(of_one_process["rewards"], abs=1e-6)
    assert found["checksum"] == pytest.approx(of_one_process["checksum"], abs=1e-3)  # of 17,000 weights
