"""Which judges wait for somebody else.

A scorer, a critic or an aspect's judge that spends its time waiting for a server says so by an attribute `waits = True`; one that
is made of others says what they do. Sampling then goes on meanwhile (`textenv.agents.rollout`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["waits"]


def waits(judge: Any) -> bool:
    """Whether a judge waits, or one of several.

    >>> class Server:
    ...     waits = True
    >>> waits(Server()), waits([len, Server()]), waits(len)
    (True, True, False)
    """
    if isinstance(judge, Mapping):
        judge = list(judge.values())
    if isinstance(judge, (list, tuple)):
        return any(waits(one) for one in judge)
    return getattr(judge, "waits", False) is True
