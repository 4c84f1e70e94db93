"""A word list as a critic: every listed word or phrase that stands in the text is a span."""

from __future__ import annotations

import gzip
import os
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from textenv.episode import Episode, Span

__all__ = ["LexiconCritic"]


# What a word is made of: accents and vowel signs too, which `\w` leaves out.
_MARKS = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)).startswith("M"))
_LETTER = rf"[\w{_MARKS}]"


class LexiconCritic:
    """Marks the words and phrases of a list, at word boundaries, whatever their case.

    A file holds one entry a line. What follows a tab is the entry's reward (further columns are left alone, so that
    the VADER lexicon reads as it is); an entry without one gets `reward`. Where entries overlap, the longest that
    begins first is marked.

    >>> critic = LexiconCritic(["weasel", "old goat"])
    >>> [(span.start, span.end, span.reward) for span in critic.spans("You Weasel, you old  goat; weaselly")]
    [(4, 10, -1.0), (16, 25, -1.0)]

    Args:
        source: a file (.gz too), or the entries themselves.
        reward: what an entry without a number is worth; its sign says good or bad.
        label: the label of every span.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no entries, or a second column that is no finite number (file and line).
    """

    def __init__(self, source: str | os.PathLike[str] | Iterable[str], *, reward: float = -1.0, label: str = "lexicon") -> None:
        from_file = isinstance(source, (str, os.PathLike))
        self.name = f"lexicon {os.fspath(source)}" if from_file else "lexicon"  # type: ignore[arg-type]
        lines = _read(Path(source).expanduser()) if from_file else list(source)  # type: ignore[arg-type]
        self.label = label
        self._reward: dict[str, float] = {}
        written: set[str] = set()  # entries as they are spelled: "Straße" folds to "strasse", which no text need hold
        for number, line in enumerate(lines, 1):
            entry, _, rest = line.strip("\r\n").partition("\t")
            if not entry.strip():
                continue
            self._reward[_normal(entry)] = _number(rest, self.name, number) if rest else reward
            written.add(" ".join(entry.split()))
        if not self._reward:
            raise ValueError(f"{self.name} holds no entries; write one word or phrase a line")
        entries = sorted(written, key=lambda entry: (-len(entry), entry))
        self._pattern = re.compile("|".join(map(_entry_pattern, entries)), re.IGNORECASE)

    def __deepcopy__(self, memo: dict[int, object]) -> LexiconCritic:
        return self

    def __call__(self, episodes: Sequence[Episode], /) -> list[list[Span]]:
        return [self.spans(episode.text) for episode in episodes]

    def spans(self, text: str) -> list[Span]:
        """The spans of any text, in order."""
        out = []
        for match in self._pattern.finditer(text):
            reward = self._reward.get(_normal(match.group()), 0.0)
            if reward:
                out.append(Span(match.start(), match.end(), reward, self.label))
        return out


def _read(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no word list at {path}")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable UTF-8 word list: {error}") from error


def _normal(entry: str) -> str:
    return " ".join(entry.casefold().split())


def _entry_pattern(entry: str) -> str:
    body = r"\s+".join(re.escape(word) for word in entry.split())
    # An emoticon has no word boundary to stand on.
    before = f"(?<!{_LETTER})" if re.match(_LETTER, entry) else ""
    after = f"(?!{_LETTER})" if re.search(rf"{_LETTER}\Z", entry) else ""
    return f"{before}{body}{after}"


def _number(rest: str, name: str, line: int) -> float:
    column = rest.split("\t")[0].strip()
    try:
        value = float(column)
    except ValueError:
        raise ValueError(f"{name}, line {line}: the second column must be a number, got {column!r}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{name}, line {line}: the second column must be finite, got {column!r}")
    return value
