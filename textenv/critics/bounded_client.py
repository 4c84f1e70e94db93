"""Responses that are bounded: in seconds as a whole (HTTP libraries bound the wait for each byte alone), and in bytes."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["LARGEST", "bounded_client", "within"]

LARGEST = 8 << 20
"""Bytes of a response, at most."""


def within(chunks: Iterable[bytes], until: float, most: int = LARGEST) -> Iterator[bytes]:
    """The chunks of a response, as long as they come in time and are not too many.

    >>> [len(chunk) for chunk in within([b"ab", b"c"], time.monotonic() + 9)]
    [2, 1]

    Args:
        chunks: as they come.
        until: on `time.monotonic`'s clock.
        most: bytes in all.

    Raises:
        TimeoutError: not all came in time, or more than `most`.
    """
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most or time.monotonic() > until:
            raise TimeoutError(f"{size:,} bytes came, and no end" + f"; {most:,} are read at most" * (size > most))
        yield chunk


def bounded_client(openai: Any, seconds: float) -> Any:
    """The HTTP client of the `openai` SDK, for responses that are whole within so many seconds.

    It is made of whatever library the SDK stands on: httpx, or httpx2 since release 3.
    """
    http: Any = importlib.import_module(type(openai.DEFAULT_CONNECTION_LIMITS).__module__.partition(".")[0])

    class Stream(http.SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any, until: float) -> None:
            self._stream, self._until = stream, until

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from within(self._stream, self._until)
            except TimeoutError as error:
                raise http.ReadTimeout(str(error)) from None

        def close(self) -> None:
            self._stream.close()

    class Transport(http.HTTPTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            until = time.monotonic() + seconds
            found = super().handle_request(request)
            stream = Stream(found.stream, until)
            return http.Response(found.status_code, headers=found.headers, stream=stream, extensions=found.extensions)

    return openai.DefaultHttpxClient(timeout=seconds, transport=Transport(limits=openai.DEFAULT_CONNECTION_LIMITS))
