"""A server that misbehaves on demand: OpenAI's two completion endpoints and Perspective's, from the standard library.

Each request takes the next fault of the script, then the server behaves. What was asked is kept in `requests`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

STATUS = {"400": 400, "401": 401, "403": 403, "404": 404, "413": 413, "422": 422, "429": 429, "500": 500, "503": 503}
MANGLED = ("half_body", "half_json", "broken_utf8", "drop", "stall", "drip", "no_json")
TRANSIENT = ("429", "500", "503", *MANGLED)
HANGING = ("stall", "drip")  # noticed by the clock alone
REFUSED = ("400", "422", "empty", "none", "two", "no_choice", "filtered", "surrogate")
SETUP = ("401", "403", "404", "quota")


class FakeServer:
    """Answers each question by `answer(question)`.

    Args:
        answer: question → what the model says (a number, for Perspective's endpoint).
        faults: one a request, from the first on ("" for none).
        models: what /v1/models lists; None: it answers 500.
        port: 0: a free one.
    """

    def __init__(
        self,
        answer: Callable[[str], Any] = lambda question: " none",
        faults: Iterable[str] = (),
        *,
        models: list[str] | None = ["fake"],  # noqa: B006 - never changed
        port: int = 0,
    ) -> None:
        self.answer, self.faults, self.models = answer, list(faults), models
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.delay = 0.0
        self.connections: set[socket.socket] = set()
        self.lock, self.closing = threading.Lock(), threading.Event()
        fake = self

        class Handler(_Handler):
            server_of = fake

        class Server(ThreadingHTTPServer):
            request_queue_size, daemon_threads = 256, False  # closing waits for every connection

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that has gone is no error of ours."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_of: FakeServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        with self.server_of.lock:
            self.server_of.connections.add(self.connection)

    def finish(self) -> None:
        with self.server_of.lock:
            self.server_of.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        models = self.server_of.models
        if models is None:
            self._send(b"Internal Server Error", 500)
        else:
            self._json({"object": "list", "data": [{"id": m, "object": "model", "created": 0, "owned_by": "us"} for m in models]})

    def do_POST(self) -> None:
        fake = self.server_of
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake.lock:
            fake.requests.append(body)
            fake.keys.append(self.headers.get("Authorization") or self.headers.get("X-Goog-Api-Key"))
            fault = fake.faults.pop(0) if fake.faults else ""
            fake.at_once += 1
            fake.most_at_once = max(fake.most_at_once, fake.at_once)
        try:
            fake.closing.wait(fake.delay)
            self._answer(body, fault)
        finally:
            with fake.lock:
                fake.at_once -= 1

    def _answer(self, body: dict[str, Any], fault: str) -> None:
        if fault in STATUS or fault == "quota":
            code = "insufficient_quota" if fault == "quota" else None
            # a careless server repeats the key it was given
            message = f"no: {self.headers.get('Authorization') or self.headers.get('X-Goog-Api-Key')}"
            return self._json({"error": {"message": message, "code": code}}, STATUS.get(fault, 429), {"Retry-After": "0.01"})
        if fault == "drop":
            return self._hang_up()
        if fault == "stall":
            self.server_of.closing.wait(20.0)
            return self._hang_up()
        if fault == "no_json":
            return self._send(b"<html>Bad gateway</html>", 200, {"Content-Type": "text/html"})
        data = json.dumps(self._body(body, fault)).encode()
        if fault == "half_json":
            return self._send(data[: len(data) // 2], 200)
        if fault == "broken_utf8":
            return self._send(data[:-12] + b"\xff\xfe" + data[-12:], 200)
        if fault == "drip":  # a byte again and again, each in time
            self._head(200, len(data), {})
            for byte in data:
                self.wfile.write(bytes([byte]))
                if self.server_of.closing.wait(0.1):
                    break
            return self._hang_up()
        if fault == "half_body":
            self._head(200, len(data), {})
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            return self._hang_up()
        return self._send(data, 200)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self, body: dict[str, Any], fault: str) -> dict[str, Any]:
        if "comment" in body:
            (attribute,) = body["requestedAttributes"]
            value = {"empty": None, "two": 2.0}.get(fault, self.server_of.answer(body["comment"]["text"]) if not fault else None)
            return {"attributeScores": {attribute: {"summaryScore": {"value": value, "type": "PROBABILITY"}}}}
        chat = "messages" in body
        said = self.server_of.answer(body["messages"][0]["content"] if chat else body["prompt"])
        said = {"empty": "", "none": None, "surrogate": "\ud83d"}.get(fault, said)
        finish = {"length": "length", "filtered": "content_filter"}.get(fault, "stop")
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"message": {"role": "assistant", "content": said}} if chat else {"text": said}
        choices = {"two": [choice, choice], "no_choice": []}.get(fault, [choice])
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        return {"id": "1", "object": "completion", "created": 0, "model": body["model"], "choices": choices, "usage": usage}

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, headers)

    def _send(self, data: bytes, status: int, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(data), headers or {})
        self.wfile.write(data)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
