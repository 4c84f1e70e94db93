"""Answers kept on disk, so that no question is paid for twice: one SQLite file, shared by threads and processes.

1. Write-ahead logging: readers do not wait for a writer, a writer waits its turn (30 s at most), a process that is killed
   leaves the file whole. Network file systems do not support it: put the file on a local disk.
2. The size is bounded: above `max_bytes` of keys and answers the least recently used go, until 90 % are left.
3. A file that is damaged, or holds something else, is refused with its name. It is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

__all__ = ["AnswerCache"]

_APPLICATION = 0x74657861  # "texa": tells this file from other SQLite files
_ROW_BYTES = 160  # what a row takes beside its answer: key, times, index
_WAIT = 30.0  # seconds for another process to finish writing
_INHERITED: list[sqlite3.Connection | None] = []


class AnswerCache:
    """Question → answer, on disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = AnswerCache(Path(folder) / "answers.sqlite")
    ...     key = cache.key({"model": "m", "question": "Be nice."})
    ...     cache.put(key, " none")
    ...     cache.get(key), cache.get("another key"), len(cache)
    ...     cache.close()
    (' none', None, 1)

    Args:
        path: the file; made if it is not there (its folder too).
        max_bytes: size at which the least recently used answers go.

    Raises:
        ValueError: the file is no such cache, or is damaged; what to do.
        OSError: it cannot be opened or written.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = 256 * 2**20) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.path, self.max_bytes = Path(path).expanduser().absolute(), max_bytes
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        with self._open():
            pass  # a bad file is told of now, not after an hour

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], max_bytes=state["max_bytes"])  # type: ignore[misc]

    @staticmethod
    def key(question: Mapping[str, Any]) -> str:
        """A name for a question: the digest of its parts, in any order."""
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """The answer, or None."""
        with self._open() as db:
            row = db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                db.execute("UPDATE answers SET used = ? WHERE key = ?", (time.time(), key))
        return None if row is None else str(row[0])

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; it is on disk when this returns."""
        with self._open() as db:
            size = len(answer.encode()) + _ROW_BYTES
            db.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "answer = excluded.answer, size = excluded.size, used = excluded.used",
                (key, answer, size, time.time()),
            )
            full = self._size(db) > self.max_bytes
        if full:
            self.prune()

    def prune(self, max_bytes: int | None = None) -> int:
        """Remove the least recently used until at most `max_bytes` (default: 90 % of the bound) are left; how many went."""
        limit = int(0.9 * self.max_bytes) if max_bytes is None else max_bytes
        removed = 0
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            excess = self._size(db) - limit
            if excess > 0:
                # rows in order of use, as long as the sum before them is below the excess
                removed = db.execute(
                    "DELETE FROM answers WHERE key IN (SELECT key FROM (SELECT key, SUM(size) OVER "
                    "(ORDER BY used, key) - size AS before FROM answers) WHERE before < ?)",
                    (excess,),
                ).rowcount
            db.execute("COMMIT")
            db.executescript("PRAGMA incremental_vacuum")  # execute() would stop after its first page
        return removed

    def size(self) -> int:
        """Bytes of keys and answers."""
        with self._open() as db:
            return self._size(db)

    def __len__(self) -> int:
        with self._open() as db:
            return int(db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._lock:
            self._forget()

    @staticmethod
    def _size(db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT total FROM size").fetchone()[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection of this process: one that a parent opened must not be used after a fork."""
        if self._process != os.getpid():  # forked: what the parent held is neither used nor closed here
            _INHERITED.append(self._connection)
            self._lock, self._connection, self._process = threading.RLock(), None, os.getpid()
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
            except sqlite3.OperationalError as error:
                self._forget()
                raise OSError(f"the cache {self.path} cannot be used: {error}") from error
            except sqlite3.DatabaseError as error:
                self._forget()
                raise ValueError(
                    f"{self.path} is no cache of answers, or is damaged ({error}); remove it, or name another file"
                ) from error

    def _forget(self) -> None:
        """Close the connection, with whatever transaction an error left open in it."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + _WAIT
        while True:
            try:
                return self._set_up()
            except sqlite3.OperationalError as error:
                # SQLite does not wait by itself while another process makes the file or turns its journal on.
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def _set_up(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        try:
            db.execute("BEGIN")
            application = int(db.execute("PRAGMA application_id").fetchone()[0])
            tables = int(db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0])
            db.execute("COMMIT")
            if tables and application != _APPLICATION:
                raise sqlite3.DatabaseError("an SQLite file of something else")
            if not tables:
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 4194304").fetchall()
            if not tables:
                self._create(db)
            db.execute("SELECT key, answer, size, used FROM answers LIMIT 1").fetchall()
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _create(db: sqlite3.Connection) -> None:
        db.executescript(
            f"""
            BEGIN IMMEDIATE;
            PRAGMA application_id = {_APPLICATION};
            CREATE TABLE IF NOT EXISTS answers
                (key TEXT PRIMARY KEY, answer TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL);
            CREATE INDEX IF NOT EXISTS by_use ON answers (used);
            CREATE TABLE IF NOT EXISTS size (total INTEGER NOT NULL);
            INSERT INTO size SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM size);
            CREATE TRIGGER IF NOT EXISTS grow AFTER INSERT ON answers BEGIN UPDATE size SET total = total + new.size; END;
            CREATE TRIGGER IF NOT EXISTS shrink AFTER DELETE ON answers BEGIN UPDATE size SET total = total - old.size; END;
            CREATE TRIGGER IF NOT EXISTS change AFTER UPDATE OF size ON answers
                BEGIN UPDATE size SET total = total + new.size - old.size; END;
            COMMIT;
            """
        )
