"""Answers on disk: kept once paid for, by threads and processes, within a bound; a bad file is told of by name."""

from __future__ import annotations

import copy
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repository import ROOT
from textenv.critics import AnswerCache

WRITER = """
import importlib.util, sys
path, name, count, source = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
spec = importlib.util.spec_from_file_location("cache", source)  # without the seconds that torch takes
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
AnswerCache = module.AnswerCache
cache = AnswerCache(path)
for i in range(count):
    cache.put(cache.key({"writer": name, "i": i}), f"{name} {i}")
    cache.put(cache.key({"both": i}), f"both {i}")
    assert cache.get(cache.key({"both": i})) == f"both {i}"
print(len(cache))
"""


def started(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count), str(ROOT / "textenv" / "critics" / "cache.py")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_put_is_got_also_by_the_next_run(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "deep" / "c.sqlite")
    cache.put("k", " a; b\n")
    assert (cache.get("k"), cache.get("other"), len(cache)) == (" a; b\n", None, 1)
    cache.close()
    assert AnswerCache(tmp_path / "deep" / "c.sqlite").get("k") == " a; b\n"


def test_a_second_answer_replaces_the_first_and_the_size_stays_true(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.sqlite")
    for answer in ("x" * 1000, "y", "z" * 50):
        cache.put("k", answer)
    assert (cache.get("k"), len(cache), cache.size()) == ("z" * 50, 1, 50 + 160)


@given(a=st.dictionaries(st.text(), st.integers() | st.text()), b=st.dictionaries(st.text(), st.integers() | st.text()))
def test_questions_share_a_key_only_if_they_are_equal(a: dict[str, object], b: dict[str, object]) -> None:
    assert (AnswerCache.key(a) == AnswerCache.key(b)) == (a == b)
    assert AnswerCache.key(dict(reversed(a.items()))) == AnswerCache.key(a)


def test_two_processes_write_one_file_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"  # neither finds it made
    writers = [started(path, name, 150) for name in ("one", "two")]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    cache = AnswerCache(path)
    assert len(cache) == 450
    assert all(cache.get(cache.key({"writer": name, "i": i})) == f"{name} {i}" for name in ("one", "two") for i in range(150))
    with sqlite3.connect(path) as db:
        (total,) = db.execute("SELECT SUM(size) FROM answers").fetchone()
    db.close()
    assert cache.size() == total


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    writer = started(path, "one", 100_000)
    try:
        while not path.exists() or len(AnswerCache(path)) < 50:
            assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    cache = AnswerCache(path)
    kept = len(cache)
    cache.put("after", "it")
    assert (len(cache), cache.get("after")) == (kept + 1, "it")
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_threads_share_one_cache(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.sqlite")
    threads = [threading.Thread(target=lambda n=n: [cache.put(f"{n} {i}", "x") for i in range(50)]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 400


def test_a_forked_process_uses_a_connection_of_its_own(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.sqlite")
    cache.put("parent", "1")
    child = os.fork()
    if child == 0:
        try:
            good = cache.get("parent") == "1"
            cache.put("child", "2")
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    cache.put("after", "3")
    assert (cache.get("child"), len(cache)) == ("2", 3)


def test_the_least_recently_used_go_when_it_is_full(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.sqlite", max_bytes=10 * 260)
    for i in range(10):
        cache.put(str(i), "x" * 100)
    assert len(cache) == 10
    assert cache.get("0") is not None  # used again
    cache.put("10", "x" * 100)
    assert cache.size() <= 0.9 * 10 * 260
    assert cache.get("0") is not None
    assert [key for key in map(str, range(11)) if cache.get(key) is None] == ["1", "2"]


def test_it_is_pruned_to_what_is_asked_and_the_file_shrinks(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.sqlite")
    for i in range(200):
        cache.put(str(i), "x" * 10_000)
    cache.close()
    before = cache.path.stat().st_size
    assert cache.prune(10 * 10_160) == 190
    assert (len(cache), cache.prune(10 * 10_160)) == (10, 0)
    cache.close()
    assert cache.path.stat().st_size < before / 4
    assert cache.prune(0) == 10
    assert (len(cache), cache.size()) == (0, 0)


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, which are not a database at all, and long enough to be looked at" * 20)
    with pytest.raises(ValueError, match=r"notes\.txt is no cache of answers, or is damaged .*; remove it, or name another file"):
        AnswerCache(path)
    assert path.read_text().startswith("my notes")


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (a)")
    db.close()
    with pytest.raises(ValueError, match="an SQLite file of something else"):
        AnswerCache(path)


def test_a_damaged_file_is_an_error_and_never_a_missing_answer(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    cache = AnswerCache(path)
    for i in range(300):
        cache.put(str(i), json.dumps(["x" * 500, True]))
    cache.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xaa" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"c\.sqlite is no cache of answers, or is damaged"):
        [AnswerCache(path).get(str(i)) for i in range(300)]


def test_a_file_that_cannot_be_opened_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite").mkdir()
    with pytest.raises(OSError, match=r"the cache .*c\.sqlite cannot be used"):
        AnswerCache(tmp_path / "c.sqlite")


def test_an_impossible_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        AnswerCache(tmp_path / "c.sqlite", max_bytes=0)


def test_it_is_shared_by_copies_and_found_again_in_another_process(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.sqlite", max_bytes=12345)
    cache.put("k", "v")
    assert copy.deepcopy(cache) is cache
    other = cloudpickle.loads(cloudpickle.dumps(cache))
    assert (other.get("k"), other.max_bytes) == ("v", 12345)
