"""What was worked out once for a tokenizer or a model, kept within a bound for whoever asks for the same again.

It belongs to an owner and goes with it; of each owner's, the last used stays longest.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["Remembered"]

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """Values by owner and key.

    >>> class Owner: ...
    >>> remembered, owner = Remembered(limit=5, size=lambda key, value: len(key)), Owner()
    >>> remembered.put(owner, {"one": 1, "two": 2})  # six characters: the first goes
    >>> remembered.get(owner, ["one", "two"])
    {'two': 2}

    Args:
        limit: of the sizes of what is kept for one owner, together; one value is kept in any case.
        size: of a key and its value.
    """

    def __init__(self, limit: int, size: Callable[[Key, Value], int]) -> None:
        self.limit, self.size = limit, size
        self._owners: WeakKeyDictionary[Any, OrderedDict[Key, Value]] = WeakKeyDictionary()
        self._held: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def get(self, owner: Any, keys: Iterable[Key]) -> dict[Key, Value]:
        """Those of the keys that are known."""
        with self._lock:
            known = self._owners.get(owner, OrderedDict())
            found = {key: known[key] for key in keys if key in known}
            for key in found:
                known.move_to_end(key)
        return found

    def put(self, owner: Any, values: Mapping[Key, Value]) -> None:
        """Keep these; the longest unused go, where it becomes too much."""
        with self._lock:
            known = self._owners.setdefault(owner, OrderedDict())
            held = self._held.get(owner, 0)
            for key, value in values.items():
                held += self.size(key, value) - (self.size(key, known[key]) if key in known else 0)
                known[key] = value
                known.move_to_end(key)
                while held > self.limit and len(known) > 1:
                    held -= self.size(*known.popitem(last=False))
            self._held[owner] = held
