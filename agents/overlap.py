"""Sampling goes on while a judge waits for somebody else.

A judge behind a network (`HTTPScorer`, `ServerCritic`, whatever says `waits = True`) spends its time doing nothing. A policy
decodes so many texts at a time (`decodes_together`): where there are more, each such part is judged, one after the other, in a
thread beside the writing of the next. What is written and what it is given are the same: each text has its own random numbers, and
credit is each text's own.

Parts are no smaller than what is decoded together anyway: a step of decoding costs a machine that waits for its memory, or for its
Python, the same for 16 texts as for 64, so that smaller parts would cost more than any wait that they hide. (Where a large model
is sampled on a CPU, that is not so: set `policy.decodes_together = 16`.) A judge that computes here would only compete with the
sampling; it gets all texts in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from textenv.critics.connection import stoppable

__all__ = ["overlapped"]

Written = TypeVar("Written")
Judged = TypeVar("Judged")

def overlapped(
    write: Callable[[slice], Written], judge: Callable[[Written], Judged], n: int, *, waits: bool, size: int
) -> list[Judged]:
    """What `judge` says of n texts that `write` writes, part by part.

    >>> overlapped(lambda part: [0, 1, 2, 3, 4, 5][part], sum, 6, waits=True, size=2)
    [1, 5, 9]
    >>> overlapped(lambda part: [0, 1, 2, 3, 4, 5][part], sum, 6, waits=False, size=2)
    [15]

    Args:
        write: which texts → them, in this thread.
        judge: them → the verdict: in this thread, or, where it waits, in another one; one part at a time, in order.
        n: number of texts.
        waits: whether the judge waits for somebody else.
        size: texts a part, where the judge waits.

    Returns:
        Verdicts, a part each, in order.

    Raises:
        Whatever either raises, with its own traceback. Nothing more is written once the judge has failed, and nothing more is
        asked once the writing has; a note tells how far both had come.
    """
    if not waits:
        return [judge(write(slice(0, n)))]
    asked: list[Future[Judged]] = []
    written = 0
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="textenv-judge")
    with stoppable() as stop:
        try:
            for at in range(0, n, size):
                for one in asked:
                    if one.done():
                        one.result()  # a failure ends the writing
                part = slice(at, min(at + size, n))
                asked.append(pool.submit(copy_context().run, judge, write(part)))
                written = part.stop
            return [one.result() for one in asked]
        except BaseException as error:
            judged = sum(one.done() and not one.cancelled() and one.exception() is None for one in asked)
            error.add_note(f"{written} of {n} texts had been written, {min(judged * size, n)} of them judged")
            stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
