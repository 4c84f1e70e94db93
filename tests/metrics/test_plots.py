"""Pictures are drawn, and tell by an error what they need."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from textenv.metrics.plots import interval_bars

pytest.importorskip("matplotlib")

PANELS = {"area": {"a": (0.9, 0.8, 0.95), "b": (math.nan,) * 3}, "share": {"a": (0.2, math.nan, math.nan), "b": (0.1, 0.0, 0.3)}}


def test_a_picture_is_a_png_that_shows_something(tmp_path: Path) -> None:
    path = interval_bars(tmp_path / "new" / "bars.png", PANELS, title="two", chance={"area": 0.5})
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) > 5000
    without = interval_bars(tmp_path / "less.png", {"area": {"a": (math.nan,) * 3}}).read_bytes()
    assert without != data


def test_the_end_of_the_name_is_the_format(tmp_path: Path) -> None:
    assert "<svg" in interval_bars(tmp_path / "bars.svg", PANELS).read_text()


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        interval_bars(tmp_path / "bars.png", {"area": {}})


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'textenv\[plots\]'"):
        interval_bars(tmp_path / "bars.png", PANELS)
