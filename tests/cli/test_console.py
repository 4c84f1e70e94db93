"""What every command shares: safe texts, errors of one line, help with examples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import textenv
from textenv.cli import app
from textenv.cli.console import plain, progress, reports_errors
from textenv.cli.options import free_directory, pairs
from textenv.critics import ServerError
from textenv.judges.http_scorer import HTTPScorerError

COMMANDS = ("list", "train", "evaluate", "pretrain", "credit", "judge", "fit-reward-model", "fit-scorer")


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and all output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain [bold]text[/]", "plain [bold]text[/]"),
        ("two\nlines\tand\rmore", "two lines and more"),
        ("\x1b]0;title\x07\x1b[31mred", "\ufffd]0;title\ufffd\ufffd[31mred"),
        ("left\u202eright\u2066\u200b", "left\ufffdright\ufffd\ufffd"),
        ("\ud800 half", "\ufffd half"),
        ("naïve 😀 日本", "naïve 😀 日本"),
    ],
)
def test_nothing_in_a_text_acts_on_the_terminal(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_a_long_text_is_cut_with_a_mark() -> None:
    assert plain("abcdef", limit=4) == "abc…"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help_with_an_example(command: str) -> None:
    parsed: Any = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert "Example: textenv" in parsed.help
    for parameter in parsed.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert any(f"Example: {name}" in parameter.help for name in parameter.opts + parameter.secondary_opts)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_shown(command: str) -> None:
    code, output = run(command, "--help")
    assert code == 0
    assert "--debug" in output


def test_the_version_is_shown() -> None:
    assert run("--version") == (0, f"{textenv.__version__}\n")


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    code, output = run("pretrain", tmp_path / "missing\x1b[31m.txt", "--out", tmp_path / "out")
    assert code == 2
    assert output.startswith("error: no such file: ")
    assert output.count("\n") == 1
    assert "\x1b" not in output


@pytest.mark.parametrize("error", [ServerError, HTTPScorerError])
def test_a_server_that_fails_is_one_line_and_exit_code_2(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    def asks(debug: bool = False) -> None:
        raise error("http://127.0.0.1:9/v1: HTTP 401")

    with pytest.raises(typer.Exit) as ended:
        reports_errors(asks)()
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "error: http://127.0.0.1:9/v1: HTTP 401\n"
    with pytest.raises(error):
        reports_errors(asks)(debug=True)


def test_examples_stand_in_lines_of_their_own() -> None:
    for command in ("train", "judge", "fit-reward-model"):
        lines = [line.strip() for line in run(command, "--help")[1].split("Options:")[0].splitlines()]
        assert all(line.startswith("Example:") for line in lines if "Example:" in line and "env_id" not in line)


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run("pretrain", tmp_path / "missing.txt", "--out", tmp_path / "out", "--debug")


def test_the_program_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "textenv", "pretrain", str(tmp_path / "missing.txt"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no such file: ")
    assert "Traceback" not in done.stderr


def test_columns_are_pairs() -> None:
    assert pairs(["text=a.b", "references=c=d"]) == {"text": "a.b", "references": "c=d"}
    with pytest.raises(ValueError, match="--column 'text' should be NAME=VALUE"):
        pairs(["text"])


def test_what_exists_is_not_written_over_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="holds something already; choose another directory, or --overwrite"):
        free_directory(tmp_path)
    assert free_directory(tmp_path, overwrite=True) == tmp_path
    assert free_directory(tmp_path / "new" / "model") == tmp_path / "new" / "model"
    with pytest.raises(FileExistsError, match="file is a file"):
        free_directory(tmp_path / "file", overwrite=True)
    with pytest.raises(NotADirectoryError, match="file is a file"):
        free_directory(tmp_path / "file" / "model")


def test_progress_without_a_terminal_is_a_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 100) as meter:
        for done in range(1, 101):
            meter.update(done, tokens=done * 10, note="loss 1.0")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert "10/100" in lines[1]
    assert "tokens/s  loss 1.0" in lines[1]
    assert "left" in lines[1]
    assert "left" not in lines[-1]
