"""The error of a server that does not answer: a critic's, a scorer's. It stands alone, so that a command line knows it cheaply."""

from __future__ import annotations

__all__ = ["ServerError"]


class ServerError(RuntimeError):
    """The server gave no answer that can be used."""
