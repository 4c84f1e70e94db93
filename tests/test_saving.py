"""A directory is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from textenv.saving import atomic_directory


def contents(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_a_directory_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model"
    with atomic_directory(target) as draft:
        (draft / "a").write_text("1")
        assert not target.exists()
    assert contents(tmp_path) == {"new/model/a": "1"}
    assert target.stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in "ab":
        with atomic_directory(tmp_path / "model") as draft:
            (draft / name).write_text(name)
    assert contents(tmp_path) == {"model/b": "b"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_last_directory_and_no_litter(tmp_path: Path, error: type[BaseException]) -> None:
    with atomic_directory(tmp_path / "model") as draft:
        (draft / "a").write_text("whole")
    with pytest.raises(error), atomic_directory(tmp_path / "model") as draft:  # noqa: PT012
        (draft / "a").write_text("half")
        raise error
    assert contents(tmp_path) == {"model/a": "whole"}
    assert len(list(tmp_path.iterdir())) == 1


def save(target: Path, *names: str) -> None:
    with atomic_directory(target, keep=True) as draft:
        for name in names:
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_text("saved")


def test_files_of_others_stay_where_they_are_to_be_kept(tmp_path: Path) -> None:
    target = tmp_path / "runs"
    (target / "tb").mkdir(parents=True)
    (target / "reference").mkdir()
    mine = dict.fromkeys(("notes.md", "tb/events", "reference/figure"), "mine")
    for name in mine:
        (target / name).write_text("mine")
    for _ in range(2):
        save(target, "config.json", "model.safetensors")
        assert contents(target) == {**mine, "config.json": "saved", "model.safetensors": "saved"}
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_what_a_save_wrote_goes_with_the_next_one(tmp_path: Path) -> None:
    save(tmp_path / "agent", "adapter_config.json", "adapter_model.safetensors", "base/config.json", "tokenizer.json")
    save(tmp_path / "agent", "config.json", "model.safetensors")
    assert set(contents(tmp_path / "agent")) == {"config.json", "model.safetensors"}


def test_files_that_a_process_left_aside_when_it_died_come_back(tmp_path: Path) -> None:
    save(tmp_path / "agent", "config.json")
    (tmp_path / ".agent.previous").mkdir()
    (tmp_path / ".agent.previous" / "notes.md").write_text("mine")
    save(tmp_path / "agent", "config.json")
    assert contents(tmp_path) == {"agent/config.json": "saved", "agent/notes.md": "mine"}


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="is a file"), atomic_directory(tmp_path / "file"):
        pass
    assert contents(tmp_path) == {"file": "x"}
