"""A stand-in for a vLLM server on loopback: the endpoints that the engine uses, answered by a real, tiny transformers model.

Its shape was taken down from vLLM 0.32.0 (fields, refusals, a prefix cache that outlives the weights). It samples by other
means than the library (one row at a time, exponential races), so that agreement says something. Each completion takes the next
fault of the script, then the server behaves.

    with StandIn(directory) as server: VLLMEngine(server.url)
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor

from textenv.models import quiet_files

MAX_MODEL_LEN = 120
Answer = dict[str, Any]

FAULTS: dict[str, Callable[[Answer], None]] = {
    "wrong_id": lambda choice: choice["token_ids"].__setitem__(0, 100_000),
    "negative_id": lambda choice: choice["token_ids"].__setitem__(0, -1),
    "no_ids": lambda choice: choice.__setitem__("token_ids", None),
    "no_log_probs": lambda choice: choice.__setitem__("logprobs", None),
    "few_log_probs": lambda choice: choice["logprobs"]["token_logprobs"].pop(),
    "nan": lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, float("nan")),
    "logits": lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, 3.5),
    "short": lambda choice: (choice["token_ids"].pop(), choice["logprobs"]["token_logprobs"].pop()),
    "long": lambda choice: (choice["token_ids"].append(65), choice["logprobs"]["token_logprobs"].append(-1.0)),
    "other_prompt": lambda choice: choice["prompt_token_ids"].insert(0, 257),
}  # fmt: skip
"""What may be wrong with a completion, by name: done to the choice of a right one."""


class StandIn:
    """Serves the model of a directory.

    Args:
        directory: as `save_pretrained` writes it.
        faults: one a completion, from the first on ("" for none): a name of `FAULTS`, or "drop", "half",
            "stall", "huge", "two", "500", "400".
        dev_mode: weights can be changed.
        stale: says that it has loaded new weights, and has not.
        logprobs_mode: "processed_logprobs" or, vLLM's default, "raw_logprobs".
    """

    def __init__(
        self,
        directory: Path,
        faults: Iterable[str] = (),
        *,
        dev_mode: bool = True,
        stale: bool = False,
        logprobs_mode: str = "processed_logprobs",
    ) -> None:
        self.faults, self.dev_mode, self.stale, self.logprobs_mode = list(faults), dev_mode, stale, logprobs_mode
        self.requests: list[dict[str, Any]] = []
        self.posts: list[str] = []
        self.keys: list[str | None] = []
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.connections: set[socket.socket] = set()
        self.resets, self.sent = True, 0
        self.load(directory)
        self.forget()
        stand_in = self

        class Handler(_Handler):
            server_of = stand_in

        class Server(ThreadingHTTPServer):
            request_queue_size, daemon_threads = 256, False

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that has gone is no error of ours."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def load(self, directory: Path | str) -> None:
        """Read weights, and nothing else than weights, from a directory."""
        with quiet_files():
            self.loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def forget(self) -> None:
        """Without this, keys and values of the old weights would go on being read: what is loaded shows from here on."""
        self.model = self.loaded

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

    # --- What vLLM does ------------------------------------------------------------------------------------------

    def refuse(self, body: dict[str, Any]) -> str | None:
        """What is wrong with a question."""
        vocabulary = self.model.config.vocab_size
        if len(body["prompt"]) + body["max_tokens"] > MAX_MODEL_LEN:
            return f"max_tokens={body['max_tokens']} cannot be greater than max_model_len={MAX_MODEL_LEN}"
        if any(not 0 <= i < vocabulary for i in body["prompt"]):
            return "Token id out of vocabulary"
        if any(int(i) >= vocabulary for i in body.get("logit_bias", {})):
            return f"token_id(s) in logit_bias contain out-of-vocab token ids. Vocabulary size: {vocabulary}"
        return None

    @torch.inference_mode()
    def complete(self, body: dict[str, Any]) -> Answer:
        """One completion of one prompt of ids."""
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        ids, cache = torch.tensor([body["prompt"]]), None
        tokens: list[int] = []
        log_probs: list[float] = []
        for step in range(body["max_tokens"]):
            output = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
            raw = output.logits[0, -1].float()
            token, processed = self._sample(raw.clone(), body, step, generator)
            shown = processed if self.logprobs_mode == "processed_logprobs" else raw
            log_probs.append(shown.log_softmax(-1)[token].item())
            tokens.append(token)
            if token in body["stop_token_ids"] or (token == self.model.config.eos_token_id and not body.get("ignore_eos")):
                break
            ids, cache = torch.tensor([[token]]), output.past_key_values
        ended = tokens[-1] in body["stop_token_ids"]
        asked = "logprobs" in body
        return {
            "index": 0, "text": "", "finish_reason": "stop" if ended else "length", "token_ids": tokens,
            "logprobs": {"token_logprobs": log_probs} if asked else None, "prompt_token_ids": list(body["prompt"]),
        }  # fmt: skip

    def _sample(self, logits: Tensor, body: dict[str, Any], step: int, generator: torch.Generator) -> tuple[int, Tensor]:
        for i, bias in body.get("logit_bias", {}).items():
            logits[int(i)] += max(-100.0, min(100.0, bias))
        if step < body["min_tokens"]:
            logits[body["stop_token_ids"]] = float("-inf")
        if body["temperature"] == 0.0:
            return int(logits.argmax()), logits
        logits = logits / body["temperature"]
        if body["top_k"]:
            logits[logits < logits.topk(body["top_k"]).values[-1]] = float("-inf")
        race = torch.empty_like(logits).exponential_(generator=generator)
        return int((logits.softmax(-1) / race).argmax()), logits


class _Handler(BaseHTTPRequestHandler):
    server_of: StandIn
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

    def do_POST(self) -> None:
        server = self.server_of
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.posts.append(self.path)
            server.keys.append(self.headers.get("Authorization"))
        if self.path == "/v1/completions":
            self._completions(body)
        elif not server.dev_mode:
            self._json({"detail": "Not Found"}, 404)
        elif self.path == "/reset_prefix_cache":
            if server.resets:
                server.forget()
            self._json({"success": server.resets})
        elif body.get("method") == "reload_weights":
            self._reload(body["kwargs"]["weights_path"])
        else:
            self._json({"error": {"message": f"Call to collective_rpc method failed: {body}", "code": 500}}, 500)

    def _reload(self, directory: str) -> None:
        try:
            with self.server_of.lock:
                if not self.server_of.stale:
                    self.server_of.load(directory)
        except Exception as error:  # whatever it is, the worker's traceback goes to the caller
            return self._json({"error": {"message": f"Worker failed with error {str(error)[:200]!r}", "code": 500}}, 500)
        return self._json({"results": [None]})

    def _completions(self, body: dict[str, Any]) -> None:
        server = self.server_of
        with server.lock:
            server.requests.append(body)
            fault = server.faults.pop(0) if server.faults else ""
        if fault == "stall":
            server.closing.wait(20.0)
        if fault in ("drop", "stall"):
            return self._hang_up()
        refused = "as the script says" if fault == "400" else server.refuse(body)
        if refused or fault == "500":
            said = {"error": {"message": f"{refused}, {self.headers.get('Authorization')}", "code": 400 if refused else 500}}
            return self._json(said, 400 if refused else 500)
        with server.lock:  # one text at a time
            choice = server.complete(body)
        if fault in FAULTS:
            FAULTS[fault](choice)
        answer = {"object": "text_completion", "choices": [choice] * (2 if fault == "two" else 1)}
        if fault == "huge":
            return self._without_end()
        data = json.dumps(answer).encode()
        if fault == "half":
            self._head(200, len(data))
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            return self._hang_up()
        return self._send(data, 200)

    def _without_end(self) -> None:
        """64 MiB, unless the client has enough before."""
        self._head(200, 1 << 26)
        with contextlib.suppress(OSError):
            for _ in range(1 << 10):
                self.wfile.write(b"x" * (1 << 16))
                self.server_of.sent += 1 << 16
        self.close_connection = True

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status)

    def _send(self, data: bytes, status: int) -> None:
        self._head(status, len(data))
        self.wfile.write(data)

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()
