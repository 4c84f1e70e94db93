"""A scorer behind a URL that speaks the Perspective API: episodes → 1 − toxicity.

Source: RealToxicityPrompts (Gehman et al. 2020) and RELC judge each continuation by the Perspective API. What is sent and
what comes back (https://developers.perspectiveapi.com/s/about-the-api-methods):

    POST {"comment": {"text": "..."}, "requestedAttributes": {"TOXICITY": {}}}
    ← {"attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.93}}}}

Any server that answers so will do. A scorer must have a number for every text: what fails for good raises, there is no
value that stands for a failure. A text without a word is not asked about: its toxicity is 0.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from textenv.critics.bounded_client import within
from textenv.critics.cache import AnswerCache
from textenv.critics.connection import Patience, Transient, in_parallel, persist, retry_after
from textenv.episode import Episode
from textenv.server_error import ServerError

__all__ = ["HTTPScorer", "HTTPScorerError"]

_LARGEST = 1 << 20  # bytes of a response that are read


class HTTPScorerError(ServerError):
    """The server gave no score."""


class HTTPScorer:
    """1 − the probability of an attribute of each text, asked of a Perspective-like server.

    One text takes at worst `patience.worst_case` seconds (211 by default).

    Args:
        url: "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze", or whoever answers alike.
        attribute: "TOXICITY", "SEVERE_TOXICITY", ...
        api_key: default: PERSPECTIVE_API_KEY, if set. Sent as a header, shown nowhere.
        complement: score 1 − value; False: the value itself.
        languages: as the API takes them, ["en"]; default: it detects the language.
        on_error: "raise" after the patience is spent, or "retry_forever" (transient failures are waited out).
        concurrency: texts at a time.
        per_second: requests a second at most (the API's own default quota is 1); None: no bound.
        patience: retries, timeout, back-off.
        cache: a file of verdicts (`AnswerCache`), keyed by address, attribute and text. None: no cache.
        max_text: characters of a text that are judged, from its beginning (the API takes 20,480 bytes).

    Raises:
        HTTPScorerError: no score: a wrong key, a refusal, the patience spent.
    """

    waits: ClassVar[bool] = True

    def __init__(
        self,
        url: str,
        *,
        attribute: str = "TOXICITY",
        api_key: str | None = None,
        complement: bool = True,
        languages: Sequence[str] | None = None,
        on_error: Literal["raise", "retry_forever"] = "raise",
        concurrency: int = 8,
        per_second: float | None = None,
        patience: Patience | None = None,
        cache: AnswerCache | str | os.PathLike[str] | None = None,
        max_text: int = 5000,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"a server is named by its URL, https://…: got {url!r}")
        if on_error not in ("raise", "retry_forever"):
            raise ValueError(f'on_error must be "raise" or "retry_forever", got {on_error!r}: a scorer has no episode to skip')
        if concurrency < 1 or max_text < 1 or (per_second is not None and not per_second > 0):
            raise ValueError(f"concurrency, max_text, per_second must be positive: got {concurrency}, {max_text}, {per_second}")
        self.url, self.attribute, self.complement, self.languages = url, attribute, complement, languages
        self.concurrency, self.per_second, self.max_text = concurrency, per_second, max_text
        patience = patience or Patience()
        forever = Patience(None, patience.timeout, patience.backoff, patience.longest)
        self.patience = forever if on_error == "retry_forever" else patience
        self.cache = cache if isinstance(cache, AnswerCache) or cache is None else AnswerCache(cache)
        self._key = api_key
        self.requests = self.retries = self.cache_hits = 0
        self._begin()

    def __deepcopy__(self, memo: dict[int, Any]) -> HTTPScorer:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_free")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __repr__(self) -> str:
        return f"HTTPScorer({self._shown!r}, attribute={self.attribute!r})"

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        """(B,) scores, in order."""
        return self.score_texts([episode.text for episode in episodes])

    def score_texts(self, texts: Sequence[str]) -> list[float]:
        """The same for plain strings; equal ones are asked about once."""
        cut = [text[: self.max_text] for text in texts]
        value = {text: 0.0 for text in cut if not text.strip()}
        keys = {text: self._cache_key(text) for text in dict.fromkeys(cut) if text not in value}
        if self.cache is not None:
            kept = {text: self.cache.get(key) for text, key in keys.items()}
            value |= {text: float(found) for text, found in kept.items() if found is not None}
            self.cache_hits += sum(found is not None for found in kept.values())
        todo = [text for text in keys if text not in value]

        def ask(text: str, stop: threading.Event) -> float:
            answer = self._ask(text, stop)
            if self.cache is not None:
                self.cache.put(keys[text], repr(answer))  # at once: it is paid for, whatever becomes of the others
            return answer

        for i, answer in in_parallel(ask, todo, self.concurrency):
            value[todo[i]] = answer
        return [1.0 - value[text] if self.complement else value[text] for text in cut]

    @property
    def _shown(self) -> str:
        return self.url.partition("?")[0]

    def _begin(self) -> None:
        self._lock, self._free = threading.Lock(), 0.0  # when the next request may leave

    def _cache_key(self, text: str) -> str:
        asked = {"url": self._shown, "attribute": self.attribute, "languages": list(self.languages or ()), "text": text}
        return AnswerCache.key(asked)

    def _ask(self, text: str, stop: threading.Event) -> float:
        def count() -> None:
            with self._lock:
                self.retries += 1

        try:
            return persist(
                lambda: self._send(text), self.patience, stop=stop, on_retry=count, name=f"scorer {self._shown}"
            )
        except Transient as failure:
            raise HTTPScorerError(f"scorer {self._shown}: {failure}") from None

    def _send(self, text: str) -> float:
        self._take_turn()
        body: dict[str, Any] = {"comment": {"text": text}, "requestedAttributes": {self.attribute: {}}}
        if self.languages:
            body["languages"] = list(self.languages)
        headers = {"Content-Type": "application/json"}
        key = self._key or os.environ.get("PERSPECTIVE_API_KEY")
        if key:
            headers["X-Goog-Api-Key"] = key
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            until = time.monotonic() + self.patience.timeout
            with urllib.request.urlopen(request, timeout=self.patience.timeout) as response:
                raw = b"".join(within(iter(lambda: response.read1(1 << 16), b""), until, _LARGEST))
        except urllib.error.HTTPError as error:
            said = f"HTTP {error.code}: {_body(error)}"
            said = said.replace(key, "***") if key else said
            if error.code in (408, 409, 425, 429) or error.code >= 500:
                raise Transient(said, retry_after(error.headers)) from None
            raise HTTPScorerError(f"scorer {self._shown}: {said}") from None
        except (OSError, http.client.HTTPException) as error:  # no connection, no byte in time, half an answer
            raise Transient(f"{type(error).__name__}: {error}") from None
        value = self._read(raw)
        with self._lock:
            self.requests += 1
        return value

    def _read(self, raw: bytes) -> float:
        """The value of a response.

        Raises:
            Transient: it is no whole JSON.
            HTTPScorerError: it holds no probability of the attribute.
        """
        try:
            answer = json.loads(raw)
        except ValueError:  # half a JSON, broken UTF-8
            raise Transient(f"a mangled answer: {raw[:100]!r}") from None
        try:
            value = float(answer["attributeScores"][self.attribute]["summaryScore"]["value"])
        except (KeyError, TypeError, ValueError):
            raise HTTPScorerError(
                f"scorer {self._shown} gave no attributeScores.{self.attribute}.summaryScore.value: {str(answer)[:200]}"
            ) from None
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise HTTPScorerError(f"scorer {self._shown} gave {value} for {self.attribute}; a probability lies in [0, 1]")
        return value

    def _take_turn(self) -> None:
        if self.per_second is None:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free)
            self._free = begin + 1.0 / self.per_second
        time.sleep(begin - now)


def _body(error: urllib.error.HTTPError) -> str:
    """What a server says beside its status, as far as it can be read."""
    with error:
        try:
            return error.read(300).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return ""
