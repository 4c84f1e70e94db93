"""Where each generated token stands in the text: ids → text and character intervals.

A token is never re-tokenised and never searched for. Its interval comes from the bytes that its id stands for:

1. byte-level tokenizers (GPT-2, Llama 3, ...) and SentencePiece-like ones (byte fallback) give each id its bytes; the
   intervals then follow from the UTF-8 structure of the concatenated bytes, in O(T), exactly, for tokens that hold part
   of a character too: a token overlaps every character of which it holds at least one byte;
2. where the bytes of the ids do not reproduce the tokenizer's own `decode` (WordPiece, clean-ups), prefixes are
   decoded: token t begins where `decode(ids[:t])` stops agreeing with the whole text. That is O(T²), asks nothing of the
   tokenizer, and agrees with the first way wherever a prefix of the ids decodes to a prefix of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenText", "overlap"]

Ids = Sequence[int] | NDArray[np.int64]
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def overlap(offsets: NDArray[np.int64], start: int, end: int) -> NDArray[np.bool_]:
    """Which tokens share at least one character with [start, end).

    >>> overlap(np.array([[0, 3], [3, 10], [10, 11]]), 4, 10)
    array([False,  True, False])

    Args:
        offsets: (T, 2) character intervals, as in `Episode.offsets`.
        start, end: the half-open character interval.

    Returns:
        (T,) bool.
    """
    begin, stop = offsets[:, 0], offsets[:, 1]
    return (begin < end) & (stop > start) & (begin < stop)


class TokenText:
    """Decodes ids in the context of a prompt, and places each id in the text.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)

    def decode(self, prompt_tokens: Ids, tokens: Ids) -> str:
        """The text of `tokens` as it continues the prompt: " weasel" after "you", not "weasel"."""
        before, whole = self._decode(prompt_tokens), self._decode([*prompt_tokens, *tokens])
        # A prompt that ends inside a character, or a tokenizer that rewrites what it has said, is no prefix.
        return whole[len(before) :] if whole.startswith(before) else self._decode(tokens)

    def offsets(self, prompt_tokens: Ids, tokens: Ids, text: str) -> NDArray[np.int64]:
        """(T, 2) int64: the half-open interval of characters of `text` that each token overlaps."""
        by_bytes = self._offsets_by_bytes(tokens, text)
        return self.offsets_by_prefixes(prompt_tokens, tokens, text) if by_bytes is None else by_bytes

    def offsets_by_prefixes(self, prompt_tokens: Ids, tokens: Ids, text: str) -> NDArray[np.int64]:
        """The same for any tokenizer, by decoding every prefix: (T, 2) int64."""
        out = np.zeros((len(tokens), 2), np.int64)
        begin = 0
        for t in range(len(tokens)):
            if int(tokens[t]) in self._special:
                out[t] = begin
                continue
            prefix = self.decode(prompt_tokens, tokens[: t + 1])
            agreed = _common_prefix(prefix, text)
            # A prefix that disagrees ends inside the character at `agreed`, and the token holds a part of it.
            inside = agreed < len(prefix) and agreed < len(text)
            if agreed == begin > 0 and not inside and prefix.endswith("\ufffd"):
                begin -= 1  # one more part of a character that is U+FFFD, or stays unreadable
            begin = max(begin, int(out[t - 1, 0]) if t else 0)  # unreadable bytes may merge, and shorten the prefix
            out[t] = begin, max(agreed + 1 if inside else agreed, begin)
            begin = agreed
        return out

    def _decode(self, ids: Ids) -> str:
        if len(ids) == 0:
            return ""
        text = self.tokenizer.decode(list(map(int, ids)), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _offsets_by_bytes(self, tokens: Ids, text: str) -> NDArray[np.int64] | None:
        if self._bytes is None:
            return None
        try:
            pieces = [b"" if int(i) in self._special else self._bytes[int(i)] for i in tokens]
        except KeyError:
            return None
        if self._fallback:
            pieces = self._with_unreadable_bytes_shown(tokens, pieces)
        data = b"".join(pieces)
        decoded = data.decode("utf-8", "replace")
        shift = 0
        if decoded != text:
            if decoded != " " + text:  # SentencePiece drops the space that it put before the first word
                return None
            shift = 1
        stops = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        starts = stops - np.array([len(piece) for piece in pieces], dtype=np.int64)
        character = np.append(_character_of_byte(data), len(decoded))  # (bytes + 1,)
        begin = character[starts]
        end = np.where(stops > starts, character[np.maximum(stops - 1, 0)] + 1, begin)
        offsets: NDArray[np.int64] = np.maximum(np.stack([begin, end], axis=1) - shift, 0)
        return offsets

    def _with_unreadable_bytes_shown(self, tokens: Ids, pieces: list[bytes]) -> list[bytes]:
        """Byte fallback decodes a run of byte pieces that is no UTF-8 as one U+FFFD a byte, the whole run."""
        out, run = list(pieces), list[int]()
        for t in range(len(tokens) + 1):
            if t < len(tokens) and int(tokens[t]) in self._fallback:
                run.append(t)
            elif t == len(tokens) or int(tokens[t]) not in self._special:
                if run and not _is_utf8(b"".join(pieces[i] for i in run)):
                    for i in run:
                        out[i] = "\ufffd".encode()
                run = []
        return out

    @cached_property
    def _fallback(self) -> frozenset[int]:
        """The ids that are single bytes of a SentencePiece-like tokenizer."""
        vocabulary = self.tokenizer.get_vocab() if self._bytes is not None else {}
        return frozenset(i for piece, i in vocabulary.items() if _BYTE_PIECE.fullmatch(piece))

    @cached_property
    def _bytes(self) -> dict[int, bytes] | None:
        """What each id stands for, or None where the tokenizer is of neither kind."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        decoder = json.dumps(json.loads(backend.to_str()).get("decoder"))
        if '"ByteLevel"' in decoder:
            alphabet = {character: byte for byte, character in _byte_level_alphabet().items()}

            def convert(piece: str) -> bytes:
                return bytes(alphabet[c] for c in piece)

        elif "\\u2581" in decoder or "▁" in decoder:
            convert = _sentencepiece_bytes
        else:
            return None
        added = self.tokenizer.get_added_vocab()
        table: dict[int, bytes] = {}
        for piece, index in self.tokenizer.get_vocab().items():
            if piece in added:
                table[index] = piece.encode("utf-8")
                continue
            try:
                table[index] = convert(piece)
            except KeyError:
                continue  # no byte-level piece; a text that holds it is placed by prefixes
        return table


def _common_prefix(a: str, b: str) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i in range(n) if a[i] != b[i])


def _character_of_byte(data: bytes) -> NDArray[np.int64]:
    """(bytes,) int64: the index, in `data.decode("utf-8", "replace")`, of the character that each byte is part of."""
    index = np.empty(len(data), np.int64)
    at = character = 0
    while at < len(data):
        try:
            data[at:].decode("utf-8")
            valid = resume = len(data)
        except UnicodeDecodeError as error:  # [start, end) becomes one U+FFFD
            valid, resume = at + error.start, at + error.end
        leads = (np.frombuffer(data, np.uint8, valid - at, at) & 0xC0) != 0x80
        index[at:valid] = character + np.cumsum(leads) - 1
        character += int(leads.sum())
        if resume > valid:
            index[valid:resume] = character
            character += 1
        at = resume
    return index


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _sentencepiece_bytes(piece: str) -> bytes:
    if _BYTE_PIECE.fullmatch(piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode("utf-8")


def _byte_level_alphabet() -> dict[int, str]:
    """The printable character that byte-level BPE (GPT-2) writes for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in alphabet)
    alphabet.update({byte: chr(256 + i) for i, byte in enumerate(rest)})
    return alphabet
