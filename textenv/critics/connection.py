"""Asking somebody over a network: several at a time, again after a failure, with a bound on the wait.

One question takes at worst (retries + 1) × timeout + Σ back-off seconds, where back-off k is min(first · 2ᵏ, longest), less
up to a quarter of chance, and at least what the server asks for by Retry-After (as far as `longest` allows).
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeVar

__all__ = ["Patience", "Transient", "in_parallel", "persist", "retry_after", "stoppable"]

T = TypeVar("T")
Item = TypeVar("Item")
_LOG = logging.getLogger("textenv.critics")
_told = -math.inf
_CHANCE = random.Random()


class Headers(Protocol):
    """The headers of a response; in most libraries whatever their case."""

    def get(self, name: str, /) -> str | None: ...


class Transient(Exception):
    """A failure that may pass: no connection, no answer in time, a busy or broken server, a mangled answer."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """How long to go on.

    >>> Patience(retries=2, timeout=30.0, backoff=0.5, longest=60.0).worst_case
    91.5

    Attributes:
        retries: further tries after the first; None: for ever.
        timeout: seconds after which a try without a whole answer has failed.
        backoff: seconds before the second try; doubled with each further one.
        longest: seconds between two tries at most.
    """

    retries: int | None = 5
    timeout: float = 30.0
    backoff: float = 0.5
    longest: float = 60.0

    def __post_init__(self) -> None:
        if self.retries is not None and self.retries < 0:
            raise ValueError(f"retries must be at least 0 (None: for ever), got {self.retries}")
        if not (self.timeout > 0 and self.backoff >= 0 and self.longest >= 0):
            raise ValueError(f"timeout must be above 0, back-off at least 0: got {self.timeout}, {self.backoff}, {self.longest}")

    @property
    def worst_case(self) -> float:
        """Seconds that one question may take."""
        if self.retries is None:
            return math.inf
        return (self.retries + 1) * self.timeout + sum(self.wait(k) for k in range(self.retries))

    def wait(self, tries: int) -> float:
        """Seconds to wait after so many retries."""
        return min(self.backoff * 2.0 ** min(tries, 30), self.longest)


def persist(ask: Callable[[], T], patience: Patience, *, stop: threading.Event, on_retry: Callable[[], None], name: str) -> T:
    """What `ask` returns, asked again after each `Transient` failure, as long as the patience lasts.

    A failure is logged, but no more than one in ten seconds.

    Raises:
        Transient: the last failure; or `stop` was set meanwhile.
    """
    tries = 0
    while True:
        try:
            return ask()
        except Transient as failure:
            if stop.is_set() or (patience.retries is not None and tries >= patience.retries):
                raise
            _tell(f"{name}: {failure}; trying again")
            pause = patience.wait(tries) * (1 - 0.25 * _CHANCE.random())
            pause = max(pause, min(failure.wait, patience.longest))
        tries += 1
        on_retry()
        if stop.wait(pause):
            raise Transient("stopped")


def _tell(message: str) -> None:
    global _told
    now = time.monotonic()
    if now - _told >= 10.0:
        _told = now
        _LOG.warning("%s", message)


class _Stops:
    """Events that are set together."""

    def __init__(self) -> None:
        self._events: list[threading.Event] = []
        self._lock, self._stopped = threading.Lock(), False

    def event(self) -> threading.Event:
        """One more; set already, where they have been."""
        with self._lock:
            self._events.append(threading.Event())
            if self._stopped:
                self._events[-1].set()
            return self._events[-1]

    def stop(self) -> None:
        """Set them all."""
        with self._lock:
            self._stopped = True
            for event in self._events:
                event.set()


_STOPS: ContextVar[_Stops | None] = ContextVar("stops", default=None)


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Gives a function that ends all that is asked for in parallel within, also what waits for a retry.

    For whoever asks in another thread, with a copy of this context: an interrupt reaches the main thread alone.
    """
    stops = _Stops()
    token = _STOPS.set(stops)
    try:
        yield stops.stop
    finally:
        _STOPS.reset(token)


def in_parallel(
    ask: Callable[[Item, threading.Event], T], items: Sequence[Item], concurrency: int
) -> Iterator[tuple[int, T]]:
    """Pairs (index, answer), as they come. The first exception stops the others, also those that wait for a retry.

    Args:
        ask: an item, and an event that is set when it is no longer worth the wait.
        items: what is asked.
        concurrency: questions at a time.
    """
    stops = _STOPS.get()
    stop = threading.Event() if stops is None else stops.event()
    pool = ThreadPoolExecutor(max_workers=min(concurrency, len(items)) or 1, thread_name_prefix="textenv-ask")
    try:
        futures = {pool.submit(ask, item, stop): i for i, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def retry_after(headers: Headers | None) -> float:
    """Seconds that a server asks to wait (a number or a date); 0 where it says nothing that can be read.

    >>> retry_after({"retry-after": "3"}), retry_after({"retry-after": "soon"}), retry_after(None)
    (3.0, 0.0, 0.0)
    """
    said = "" if headers is None else headers.get("retry-after") or ""
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
