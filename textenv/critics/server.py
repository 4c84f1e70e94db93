"""A language model behind an OpenAI-compatible server as a critic: vLLM, llama.cpp, `transformers serve`, a paid API.

Source: RELC (Cao et al. 2024, arXiv 2401.07382) asks gpt-3.5-turbo: one user message, temperature 0, timeout 10 s, three
tries, then no critique. Departures:

1. what happens when no answer comes is the user's choice (`on_error`), and an episode without a verdict is told apart
   from one without spans: it keeps its plain credit, and is counted;
2. questions are asked several at a time, through the synchronous `openai` SDK in threads; equal ones once; answers are
   kept on disk, where asked for;
3. what comes back is checked: servers leave out silently what they do not know.

Failures are of three kinds. *Transient*: no connection, no byte within `timeout`, 408, 409, 429, 5xx, a body that is no
whole JSON: tried again with back-off. *Of this question*: 400, 413, 422, an empty or filtered answer, none of the form:
trying again would bring the same. *Of the set-up*: 401, 403, 404, a spent quota: they raise whatever `on_error` says.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args
from urllib.parse import urlsplit, urlunsplit

from textenv.critics.asking import Answer, AskedCritic
from textenv.critics.cache import AnswerCache
from textenv.critics.connection import Patience, Transient, in_parallel, persist
from textenv.critics.forms import CritiqueForm
from textenv.critics.openai_client import BudgetExceeded, OpenAIClient, Refused, ServerError, checked, without_secrets
from textenv.critics.untrusted import TEXT_LIMIT

__all__ = ["BudgetExceeded", "OnError", "ServerCritic", "ServerError"]

T = TypeVar("T")
OnError = Literal["raise", "skip", "retry_forever"]
ANSWER_LIMIT = 20_000
"""Characters of an answer that are read."""
_CHAT, _TEXT = "/chat/completions", "/completions"
_COUNTERS = ("requests", "tokens", "cache_hits", "retries", "failures")


class ServerCritic(AskedCritic):
    """Asks a model behind a server for the good and the bad spans of each text.

    One question takes at worst (retries + 1) × timeout + back-off: `patience.worst_case`, 211 s by default; a batch of n
    texts n / concurrency times that. With `on_error="retry_forever"` there is no bound.

    Args:
        url: "http://127.0.0.1:8000/v1"; "…/v1#model-name" names the model, "…/v1/completions" means `chat=False`.
        form: how the model is asked and what its answer means; None: the task's own.
        model: default: the one that the server lists.
        chat: ask by chat completions (one user message); False: by completions, for base models.
        api_key: default: OPENAI_API_KEY; local servers need none. It is shown nowhere.
        on_error: "raise": at the first question without an answer in the form asked for. "skip": that episode has no
            verdict (None). "retry_forever": transient failures are waited out; the others are as with "skip".
        concurrency: questions at a time.
        patience: retries, timeout, back-off.
        max_calls: questions that may be sent in all (a retry of one is not a new one); beyond: BudgetExceeded, or no
            verdict with "skip".
        cache: a file (`AnswerCache`), shared by runs and processes: keyed by model, settings and question, not by the
            address. None: no cache.
        max_new_tokens: budget of an answer. Default: 64, for numbers of words 256.
        max_text: characters of a text shown at most (its beginning and its end).
        options: further fields of each request, {"max_tokens": None, "max_completion_tokens": 64} (None leaves one out).

    Raises:
        ImportError: the SDK is missing; the way out.
        ServerError: with "raise", no answer; always, a wrong key or model.
        CritiqueError: with "raise", an answer that cannot be parsed.
    """

    waits: ClassVar[bool] = True

    def __init__(
        self,
        url: str,
        form: CritiqueForm | None = None,
        *,
        model: str | None = None,
        chat: bool | None = None,
        api_key: str | None = None,
        on_error: OnError = "raise",
        concurrency: int = 8,
        patience: Patience | None = None,
        max_calls: int | None = None,
        cache: AnswerCache | str | os.PathLike[str] | None = None,
        max_new_tokens: int | None = None,
        max_text: int = TEXT_LIMIT,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if on_error not in get_args(OnError):
            raise ValueError(f"on_error must be one of {get_args(OnError)}, got {on_error!r}")
        if concurrency < 1 or (max_calls is not None and max_calls < 1):
            raise ValueError(f"concurrency and max_calls must be at least 1, got {concurrency} and {max_calls}")
        self.base_url, named, asks_chat = _address(url)
        name = without_secrets(self.base_url)
        super().__init__(name, form, on_error=on_error, max_new_tokens=max_new_tokens, max_text=max_text)
        self.model = model or named
        self.chat = asks_chat if chat is None else chat
        self.concurrency, self.options = concurrency, dict(options or {})
        self.patience = patience or Patience()
        self.cache = cache if isinstance(cache, AnswerCache) or cache is None else AnswerCache(cache)
        self._shared = OpenAIClient(self.base_url, api_key, self.patience.timeout, max_calls)

    def metrics(self) -> dict[str, float]:
        """Counters since the last call: those of every critic, and requests answered, their mean seconds (latency),
        tokens, answers from the cache, retries, questions without an answer."""
        counted = {f"credit/critic_{name}": int(self._counts[name]) for name in _COUNTERS}
        latency = self._counts["waited"] / max(self._counts["requests"], 1.0)
        return {**super().metrics(), **counted, "credit/critic_latency": latency}

    def _clear(self) -> None:
        super()._clear()
        self._counts = dict.fromkeys((*_COUNTERS, "waited"), 0.0)

    # --- Questions -----------------------------------------------------------------------------------------------

    def _complete(self, questions: Sequence[str]) -> list[Answer | None]:
        if not questions:
            return []
        model = self._model()
        requests = {question: self._request(model, question) for question in questions}  # equal questions once
        keys = {question: AnswerCache.key({"chat": self.chat, **request}) for question, request in requests.items()}
        known: dict[str, Answer | None] = {}
        if self.cache is not None:
            for question, key in keys.items():
                kept = _kept(self.cache.get(key))
                if kept is not None:
                    known[question] = kept
            self._counts["cache_hits"] += len(known)
        todo = [question for question in requests if question not in known]

        def ask(question: str, stop: threading.Event) -> Answer | None:
            answer = self._ask(requests[question], stop)
            if answer is not None and self.cache is not None:
                self.cache.put(keys[question], json.dumps(answer))  # at once: it is paid for, whatever becomes of the others
            return answer

        for i, answer in in_parallel(ask, todo, self.concurrency):
            known[todo[i]] = answer
        return [known[question] for question in questions]

    def _request(self, model: str, question: str) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": model, "temperature": 0.0, "max_tokens": self.max_new_tokens}
        asked |= {"messages": [{"role": "user", "content": question}]} if self.chat else {"prompt": question}
        asked |= self.options
        return {name: value for name, value in asked.items() if value is not None}

    def _ask(self, request: dict[str, Any], stop: threading.Event) -> Answer | None:
        """One answer; None where it may be skipped.

        Raises:
            ServerError: there is none.
        """
        try:
            self._shared.spend(self.name)
            return self._persist(lambda: self._send(request), stop)
        except (Transient, Refused, BudgetExceeded) as failure:
            spent = isinstance(failure, BudgetExceeded)
            if self.on_error == "raise" or (spent and self.on_error != "skip"):
                if spent:
                    raise
                hint = "; a model without a chat template is asked at …/v1/completions" * (self.chat and "HTTP 500" in str(failure))
                raise ServerError(f"critic {self.name}: {failure}{hint}") from failure
            with self._shared.lock:
                self._counts["failures"] += 1
                self._last_failure = str(failure)[:200]
            return None

    def _persist(self, ask: Callable[[], T], stop: threading.Event) -> T:
        patience = self.patience
        if self.on_error == "retry_forever":
            patience = Patience(None, patience.timeout, patience.backoff, patience.longest)

        def count() -> None:
            with self._shared.lock:
                self._counts["retries"] += 1

        return persist(ask, patience, stop=stop, on_retry=count, name=f"critic {self.name}")

    def _send(self, request: dict[str, Any]) -> Answer:
        began = time.perf_counter()
        client = self._shared.client()
        created = self._shared.guarded(client.chat.completions.create if self.chat else client.completions.create, request)
        said, finish, tokens = checked(created, self.chat)
        with self._shared.lock:
            self._counts["requests"] += 1
            self._counts["tokens"] += tokens
            self._counts["waited"] += time.perf_counter() - began
        if self.chat:  # a chat model begins anew, often with the header that the question ends with
            said = said.strip().removeprefix(f"{self._form.header}:")
        return said[:ANSWER_LIMIT], finish == "stop" and len(said) <= ANSWER_LIMIT

    def _model(self) -> str:
        """The model's name, asked of the server once."""
        if self.model is None:
            out = "name the model: ServerCritic(..., model=...), or critic='http://…/v1#model-name'"
            try:
                names = [model.id for model in self._persist(self._list, threading.Event()).data]
            except (Transient, Refused, AttributeError, TypeError) as failure:
                raise ServerError(f"critic {self.name} does not say which models it has ({failure}); {out}") from failure
            if len(names) != 1:
                raise ServerError(f"critic {self.name} has the models {names}; {out}")
            (self.model,) = names
        return self.model


    def _list(self) -> Any:
        try:
            return self._shared.guarded(self._shared.client().models.list, {})
        except Transient as failure:
            if str(failure).startswith("HTTP 500"):  # `transformers serve` without a network: for ever
                raise Refused(str(failure)) from None
            raise


def _kept(value: str | None) -> Answer | None:
    """An answer as it stands in the cache."""
    if value is None:
        return None
    said, ended = json.loads(value)
    return str(said), bool(ended)


def _address(url: str) -> tuple[str, str | None, bool]:
    """Base URL, model (or None), and whether it is asked by chat."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"a server is named by its URL, 'http://127.0.0.1:8000/v1': got {without_secrets(url)!r}")
    base = urlunsplit(parts._replace(fragment="")).rstrip("/")
    chat = base.endswith(_CHAT) or not base.endswith(_TEXT)
    return base.removesuffix(_CHAT).removesuffix(_TEXT), parts.fragment or None, chat
