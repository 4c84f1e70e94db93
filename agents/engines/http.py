"""JSON questions to a server that is not trusted: bounded answers, connections kept open within one batch of questions.

The standard library alone: the `openai` SDK reads an answer whole, however large it is. Failures are sorted as for critics
(`textenv.critics.openai_client`): `Transient` ones may pass (no connection, no byte within the timeout, 408, 409, 425, 429,
5xx, half an answer), everything else is a `ServerError` with what the server said.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from textenv.critics.connection import Transient, retry_after
from textenv.critics.openai_client import ServerError, without_secrets

__all__ = ["JSONServer"]

_PASSING = (408, 409, 425, 429)
_SAID = 600  # characters of a refusal that are shown


class JSONServer:
    """Asks one server in JSON.

    Args:
        url: "http://host:8000", with a path in front of every endpoint if need be.
        api_key: sent as a bearer token, shown nowhere.

    Raises:
        ValueError: no URL of a server.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server is named by its URL, 'http://127.0.0.1:8000/v1': got {without_secrets(url)!r}")
        self.name = without_secrets(url)
        self._key = api_key or os.environ.get("OPENAI_API_KEY")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path.rstrip("/")

    @contextlib.contextmanager
    def connected(self, timeout: float) -> Iterator[Connections]:
        """Connections, one a thread, closed at the end.

        Args:
            timeout: seconds without a byte after which a question has failed.
        """
        open_ = Connections(self, timeout)
        try:
            yield open_
        finally:
            open_.close()

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """A new one."""
        return self._kind(self._host, self._port, timeout=timeout)

    def request(self, connection: http.client.HTTPConnection, endpoint: str, body: Mapping[str, Any]) -> None:
        """Send a question."""
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        connection.request("POST", f"{self._path}{endpoint}", json.dumps(body), headers)

    def redacted(self, message: str) -> str:
        """Without the key, which some servers repeat."""
        return message.replace(self._key, "***") if self._key else message


class Connections:
    """Open connections to a server; each thread has its own."""

    def __init__(self, server: JSONServer, timeout: float) -> None:
        self._server, self._timeout = server, timeout
        self._lock, self._open = threading.Lock(), dict[int, http.client.HTTPConnection]()
        self._closed = threading.Event()

    def post(self, endpoint: str, body: Mapping[str, Any], limit: int) -> Any:
        """The server's answer.

        Args:
            endpoint: "/v1/completions".
            limit: bytes that an answer may have.

        Returns:
            What the JSON says; None for an empty answer.

        Raises:
            Transient: worth another try.
            ServerError: a refusal, an answer beyond the limit.
        """
        where = f"{self._server.name}{endpoint}"
        connection = self._of_this_thread()
        try:
            self._server.request(connection, endpoint, body)
            if self._closed.is_set():  # it was on its way to the server: nobody else wakes it
                raise ConnectionAbortedError("the batch was given up")
            response = connection.getresponse()
            data = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            self._forget(connection)
            raise Transient(f"{where}: {type(error).__name__}: {error}") from None
        if len(data) > limit:
            self._forget(connection)  # the rest is on its way
            raise ServerError(f"{where} answered with more than {limit} bytes, more than was asked for; is this a vLLM server?")
        if response.status == 200:
            try:
                return json.loads(data) if data else None
            except ValueError:
                self._forget(connection)
                raise Transient(f"{where}: a mangled answer: {data[:100]!r}") from None
        said = f"{where}: HTTP {response.status}: {self._server.redacted(data.decode(errors='replace'))[:_SAID]}"
        if response.status in _PASSING or response.status >= 500:
            raise Transient(said, retry_after(response.headers))
        raise ServerError(said)

    def close(self) -> None:
        """Close them all; who waits for an answer is woken."""
        self._closed.set()
        with self._lock:
            for connection in self._open.values():
                with contextlib.suppress(OSError):
                    if connection.sock is not None:
                        connection.sock.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._open.clear()

    def _of_this_thread(self) -> http.client.HTTPConnection:
        with self._lock:
            return self._open.setdefault(threading.get_ident(), self._server.connection(self._timeout))

    def _forget(self, connection: http.client.HTTPConnection) -> None:
        """Close it; it may be none of the open ones any more: one that is closed opens itself again for a question on its way."""
        with self._lock:
            if self._open.get(threading.get_ident()) is connection:
                del self._open[threading.get_ident()]
        connection.close()
