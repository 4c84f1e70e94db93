"""The check over every environment and reward."""

import pytest

from benchmarks import everything
from textenv import ENVIRONMENTS, REWARDS


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_reward_trains_in_every_environment_or_says_why_it_does_not_apply(
    environment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["everything", "--environments", environment, "--iterations", "1"])
    assert everything.main() == 0, capsys.readouterr().err
    assert len(REWARDS) <= capsys.readouterr().out.count(environment)
