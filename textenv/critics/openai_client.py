"""The `openai` SDK, held once a process, with its failures sorted: those that pass, those of one question, those of the set-up."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from textenv.critics.bounded_client import bounded_client
from textenv.critics.connection import Transient, retry_after
from textenv.server_error import ServerError

__all__ = ["BudgetExceeded", "OpenAIClient", "Refused", "ServerError", "checked", "without_secrets"]


class BudgetExceeded(ServerError):
    """`max_calls` questions have been asked."""


class Refused(Exception):
    """An answer that will not get better by asking again."""


class OpenAIClient:
    """What the copies of one critic have in common: the connection of each process, the budget."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float, max_calls: int | None) -> None:
        self.base_url, self.api_key, self.timeout, self.max_calls = base_url, api_key, timeout, max_calls
        self.calls = 0
        self._begin()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_client", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _begin(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()
        self._client: Any = None

    @property
    def lock(self) -> threading.Lock:
        """For counters. A process that was forked has its own lock, and its own connection."""
        if self._process != os.getpid():
            self._begin()
        return self._lock

    def client(self) -> Any:
        """The SDK's client."""
        with self.lock:
            if self._client is None:
                openai = _openai()
                key = self.api_key or os.environ.get("OPENAI_API_KEY") or "none"
                self._client = openai.OpenAI(
                    base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=0,
                    http_client=bounded_client(openai, self.timeout),
                )
                weakref.finalize(self, self._client.close)
            return self._client

    def redacted(self, message: str) -> str:
        """A message without the key, which some servers repeat."""
        key = self.api_key or os.environ.get("OPENAI_API_KEY")
        return message.replace(key, "***") if key else message

    def spend(self, name: str) -> None:
        """Count one question.

        Raises:
            BudgetExceeded: none is left.
        """
        with self.lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise BudgetExceeded(f"critic {name}: max_calls={self.max_calls} questions have been asked; raise max_calls")
            self.calls += 1

    def guarded(self, call: Any, arguments: dict[str, Any]) -> Any:
        """The SDK's answer, its exceptions sorted into the three kinds."""
        openai = _openai()
        try:
            return call(**arguments)
        except openai.APIStatusError as error:
            said = f"HTTP {error.status_code}: {self.redacted(str(error.message))[:300]}"
            if error.status_code in (408, 409, 425, 429) or error.status_code >= 500:
                if error.code == "insufficient_quota":
                    raise ServerError(f"{without_secrets(self.base_url)}: {said}") from None
                raise Transient(said, retry_after(error.response.headers)) from None
            if error.status_code in (400, 413, 422):
                raise Refused(said) from None
            raise ServerError(f"{without_secrets(self.base_url)}: {said}") from None
        except openai.APIConnectionError as error:
            raise Transient(f"{type(error).__name__}: {error.__cause__ or error}") from None
        except (openai.APIError, ValueError) as error:  # half a JSON, broken UTF-8
            raise Transient(f"a mangled answer ({type(error).__name__})") from None


def checked(created: Any, chat: bool) -> tuple[str, str, int]:
    """Text, finish reason and tokens of a response, after checking that it holds them.

    Raises:
        Transient: no whole response.
        Refused: a whole one without an answer.
    """
    choices = getattr(created, "choices", None)
    if not isinstance(choices, list):
        raise Transient(f"a mangled answer: {str(created)[:200]!r}")
    if len(choices) != 1:
        raise Refused(f"{len(choices)} answers where one was asked for")
    choice = choices[0]
    said = getattr(getattr(choice, "message", None), "content", None) if chat else getattr(choice, "text", None)
    finish = getattr(choice, "finish_reason", None)
    if not isinstance(said, str) or not said.strip():
        raise Refused(f"an empty answer (finish_reason {finish!r})")
    if finish not in ("stop", "length"):
        raise Refused(f"an answer that ended with finish_reason {finish!r}")
    if any("\ud800" <= character <= "\udfff" for character in said):
        raise Refused("an answer that is no Unicode text")
    tokens = getattr(getattr(created, "usage", None), "total_tokens", None)
    return said, finish, tokens if isinstance(tokens, int) else 0


def without_secrets(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise ImportError("a critic behind a server needs the openai SDK: pip install 'textenv[critic]'") from None
    return openai
