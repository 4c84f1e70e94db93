"""A text that a policy wrote, made safe to be shown to a critic: it cannot imitate the question that it stands in.

A policy is paid by what the critic answers, so its text is an attempt to steer the answer, sooner or later. Before a
text is put into a question

1. every line break, of any script, becomes a space, and ";" (which separates the items of an answer) a comma;
2. characters that are not seen (zero-width, bidirectional, control, variation selectors) are left out: they would hide
   a word from the critic that a reader sees;
3. colons after a word that the question itself uses ("Insults:", "Score:") are left out, so no line of the text reads
   as a header, and so is the character that closes a quotation around the text, where the template has one;
4. a text longer than the limit is shown by its beginning and its end.

Each character that is shown knows where it stands in the original, so a span found in what was shown marks the original,
the characters between that were left out included. What nothing here can do is to make a gullible model less so: a
sentence which asks for mercy reaches it as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["TEXT_LIMIT", "Shown", "one_line", "show"]

TEXT_LIMIT = 8000
"""Characters of a text that a critic is shown at most."""

_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_LINES = str.maketrans(dict.fromkeys(_BREAKS, " "))
_PLAIN = str.maketrans({**dict.fromkeys(_BREAKS, " "), ";": ",", "\u037e": ","})
# Unicode's default-ignorable characters, controls that are no white space, and halves of surrogate pairs.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\ud800-\udfff]"
)
_COLONS = ":：﹕∶꞉ː"
_GAP = " … "


@dataclass(frozen=True)
class Shown:
    """What a critic sees of a text.

    Attributes:
        text: the characters that are shown, on one line.
        origin: for each of them its place in the original; -1 for those that are not of it.
        cut: whether the middle was left out.
    """

    text: str
    origin: Sequence[int]
    cut: bool = False

    def place(self, begin: int, end: int) -> tuple[int, int] | None:
        """The interval of the original that shown characters begin..end are; None where they are not all of it.

        >>> show("a wea\\u200bsel").place(2, 8)
        (2, 9)
        """
        inside = self.origin[begin:end]
        return None if -1 in inside else (inside[0], inside[-1] + 1)


def one_line(text: str) -> str:
    """The text with each line break as one space: offsets stay as they are."""
    return text.translate(_LINES)


def show(text: str, *, labels: Sequence[str] = (), closer: str = "", limit: int = TEXT_LIMIT) -> Shown:
    r"""A text as a critic may be shown it.

    >>> show("Fine.\nInsults: none; really", labels=("Insults",)).text
    'Fine. Insults none, really'
    >>> show("a" * 20, limit=7).text
    'aa … aa'

    Args:
        text: what the policy wrote.
        labels: words after which the question puts a colon.
        closer: the character that ends the text in the question ("" for none).
        limit: characters shown at most.
    """
    plain = text.translate(_PLAIN)
    origin: Sequence[int] = range(len(plain))
    unseen = {match.start() for match in _UNSEEN.finditer(plain)}
    if unseen:
        plain, origin = _without(plain, origin, unseen)
    imitated: set[int] = set()
    if labels:
        for match in _imitation(tuple(labels)).finditer(plain):
            begin = match.start(1)
            imitated |= {begin + i for i, character in enumerate(match[1]) if character in _COLONS}
    if closer:
        imitated |= {match.start() for match in re.finditer(re.escape(closer), plain)}
    if imitated:
        plain, origin = _without(plain, origin, imitated)
    if len(plain) <= limit:
        return Shown(plain, origin)
    tail = max(limit - len(_GAP), 0) // 2
    head = max(limit - len(_GAP), 0) - tail
    behind = len(plain) - tail
    return Shown(plain[:head] + _GAP + plain[behind:], [*origin[:head], *[-1] * len(_GAP), *origin[behind:]], cut=True)


def _without(text: str, origin: Sequence[int], left_out: set[int]) -> tuple[str, list[int]]:
    kept = [i for i in range(len(text)) if i not in left_out]
    return "".join(text[i] for i in kept), [origin[i] for i in kept]


@lru_cache(maxsize=64)
def _imitation(labels: tuple[str, ...]) -> re.Pattern[str]:
    """A label and what follows it up to the next letter or digit."""
    words = "|".join(re.escape(label) for label in sorted(labels, key=lambda label: (-len(label), label)))
    return re.compile(rf"(?:{words})([\W_]+)", re.IGNORECASE)
