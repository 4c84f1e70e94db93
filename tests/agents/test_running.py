"""The table of texts for TensorBoard trusts no text; a logger, and a bar, show what they were asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback

from tests import worlds
from tests.worlds import credited, ids, make
from textenv.agents import TokenPPO
from textenv.agents.running import make_logger, text_table


def table(text: str, prompt: str = "p: ") -> str:
    return text_table([credited(make(max_new_tokens=600), ids(text, end=True), prompt)])


def test_a_row_tells_prompt_text_score_credit_and_ending() -> None:
    header, _, row = table("aab").split("\n")
    assert header == "| prompt | text | score | credit | end |"
    assert row == "| p: | aab | 0.003 | 0.003 | stop |"


def test_a_text_cannot_break_out_of_its_cell() -> None:
    row = table("<img src=x onerror=y> | ` * _ [link](javascript:z)\n| forged |").split("\n")[2]
    assert len(table("a\nb\r\nc").split("\n")) == 3
    assert row.count("|") == 6
    assert not set("<>`*[") & set(row)


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    assert "x" * 400 + "…" in table("x" * 500)


def test_as_many_rows_as_asked() -> None:
    episodes = [credited(make(), ids("a", end=True))] * 5
    assert len(text_table(episodes, 3).split("\n")) == 2 + 3


def test_a_training_that_logs_nowhere_leaves_no_directory_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logger = make_logger(0)
    logger.record("rollout/ep_rew_mean", 1.0)
    logger.dump(1)
    assert not list(tmp_path.iterdir())
    assert logger.dir is None


def test_a_verbose_training_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    logger = make_logger(1)
    logger.record("rollout/ep_rew_mean", 1.0)
    logger.dump(1)
    assert "ep_rew_mean" in capsys.readouterr().out


@pytest.mark.parametrize("given", [lambda bar: bar, lambda bar: [bar, Counted()]])
def test_stable_baselines3s_bar_counts_tokens_too(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one = TokenPPO(worlds.llama(), make(max_new_tokens=6), n_episodes=4, batch_size=4, n_epochs=1, seed=0)
    one.learn(20, callback=given(ProgressBarCallback()))
    assert f"{one.num_timesteps}/20 tokens" in capsys.readouterr().out


class Counted(BaseCallback):
    """Looks on."""

    def _on_step(self) -> bool:
        return True
