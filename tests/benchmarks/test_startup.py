"""The benchmark of the start names its cases and their seconds."""

import re

import pytest

from benchmarks.startup import CASES, main


def test_each_case_has_its_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--processes", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CASES)
    assert all(re.fullmatch(r".{16} \d\.\d{3} s  \(CPU \d\.\d{3} s\)", line) for line in lines)
