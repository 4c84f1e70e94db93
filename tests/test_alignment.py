"""A token is credited iff it holds a part of a marked character, whatever the tokenizer and whatever the text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests import worlds
from textenv.alignment import TokenText, overlap

LOSSLESS = ("bytes", "byte_level_bpe", "unigram", "sentencepiece_bpe")
TOKENIZERS = worlds.tokenizers()
# Any character, and often those that go wrong.
ODD = st.sampled_from(["\ufffd", "e\u0301", "👩‍👩‍👧", "🇩🇪", "\0", "\n", "\r\n", " ", "  ", "▁", "Ġ", "<0x0A>", "</s>", "ab"])
TEXT = st.lists(ODD | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=8).map("".join)


def bytes_of(name: str, index: int) -> bytes:
    """The bytes that an id stands for, worked out piece by piece."""
    tokenizer = TOKENIZERS[name]
    if index in tokenizer.all_special_ids:
        return b""
    if name == "bytes":
        return bytes([index])
    piece = tokenizer.convert_ids_to_tokens(index)
    if name == "byte_level_bpe":
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [b for b in range(256) if b not in printable]
        return bytes(ord(c) if ord(c) in printable else hidden[ord(c) - 256] for c in piece)
    if piece.startswith("<0x") and len(piece) == 6:
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def token_bytes(name: str, tokens: list[int], text: str) -> list[range]:
    """Of each token the positions of its bytes in the UTF-8 of the text."""
    at = 0 if text.encode() == b"".join(bytes_of(name, i) for i in tokens) else -1  # SentencePiece's first space is not shown
    out = []
    for index in tokens:
        out.append(range(at, at := at + len(bytes_of(name, index))))
    return out


def expected_overlap(name: str, tokens: list[int], text: str, start: int, end: int) -> list[bool]:
    """The oracle: do the bytes of the token and the bytes of text[start:end] have one in common?"""
    marked = range(len(text[:start].encode()), len(text[:end].encode()))
    return [bool(set(held) & set(marked)) for held in token_bytes(name, tokens, text)]


def encode(name: str, text: str) -> list[int]:
    return list(TOKENIZERS[name](text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", LOSSLESS)
@given(text=TEXT, data=st.data())
@example(text="a\ufffdb", data=None)
@example(text="😀", data=None)
def test_a_token_overlaps_a_span_iff_they_share_a_byte(name: str, text: str, data: Any) -> None:
    tokens = encode(name, text)
    place = TokenText(TOKENIZERS[name])
    text = place.decode([], tokens)  # SentencePiece writes its own "▁" as a space
    offsets = place.offsets([], tokens, text)
    start = data.draw(st.integers(0, max(len(text) - 1, 0))) if data else 0
    end = data.draw(st.integers(start + 1, max(len(text), start + 1))) if data else len(text)
    assert overlap(offsets, start, end).tolist() == expected_overlap(name, tokens, text, start, end)


@pytest.mark.parametrize("name", LOSSLESS)
@given(prompt=TEXT, text=TEXT)
def test_a_text_that_continues_a_prompt_is_placed_like_a_text_alone(name: str, prompt: str, text: str) -> None:
    whole = encode(name, prompt + text)
    place = TokenText(TOKENIZERS[name])
    cut = max(n for n in range(len(whole) + 1) if len(place.decode([], whole[:n])) <= len(prompt))
    before, tokens = whole[:cut], whole[cut:]
    continued = place.decode(before, tokens)
    if continued != place.decode([], whole)[len(place.decode([], before)) :]:
        return  # the prompt ends inside a character: what follows stands alone
    offsets = place.offsets(before, tokens, continued)
    for i in range(len(continued)):
        assert overlap(offsets, i, i + 1).tolist() == expected_overlap(name, tokens, continued, i, i + 1)


@pytest.mark.parametrize("name", ["bytes", "byte_level_bpe"])
@given(text=TEXT)
@example(text="a\ufffdb")
@example(text="\ufffd\ufffd")
def test_reading_bytes_and_decoding_prefixes_place_the_same(name: str, text: str) -> None:
    tokens, place = encode(name, text), TokenText(TOKENIZERS[name])
    by_bytes, by_prefixes = place.offsets([], tokens, text), place.offsets_by_prefixes([], tokens, text)
    for i in range(len(text)):
        assert overlap(by_prefixes, i, i + 1).tolist() == overlap(by_bytes, i, i + 1).tolist()


@pytest.mark.parametrize("name", LOSSLESS)
@given(data=st.data())
def test_ids_whose_bytes_are_known_never_need_their_prefixes_decoded(name: str, data: Any) -> None:
    tokens = data.draw(st.lists(st.integers(0, len(TOKENIZERS[name]) - 1), max_size=12))
    place = TokenText(TOKENIZERS[name])
    assert place._offsets_by_bytes(tokens, place.decode([], tokens)) is not None


def test_a_run_of_byte_pieces_that_is_no_text_is_one_replacement_character_a_byte() -> None:
    tokenizer = TOKENIZERS["unigram"]
    tokens = tokenizer.convert_tokens_to_ids(["▁", "<0xC3>", "<0xA9>", "<0xF0>", "▁", "<0xC3>", "<0xA9>"])
    place = TokenText(tokenizer)
    text = place.decode([], tokens)
    assert text == "\ufffd\ufffd\ufffd é"
    assert place.offsets([], tokens, text).tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5]]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_any_sequence_of_ids_gets_intervals_inside_its_text_and_in_order(name: str, data: Any) -> None:
    sequence = st.lists(st.integers(0, len(TOKENIZERS[name]) - 1), max_size=12)
    prompt, tokens = data.draw(sequence), data.draw(sequence)
    place = TokenText(TOKENIZERS[name])
    text = place.decode(prompt, tokens)
    for offsets in (place.offsets(prompt, tokens, text), place.offsets_by_prefixes(prompt, tokens, text)):
        assert offsets.shape == (len(tokens), 2)
        assert offsets.dtype == np.int64
        assert (offsets >= 0).all()
        assert (offsets <= len(text)).all()
        assert (offsets[:, 0] <= offsets[:, 1]).all()
        assert (np.diff(offsets[:, 0]) >= 0).all()


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_every_character_of_any_sequence_of_ids_belongs_to_a_token(name: str, data: Any) -> None:
    tokens = data.draw(st.lists(st.integers(0, len(TOKENIZERS[name]) - 1), max_size=12))
    place = TokenText(TOKENIZERS[name])
    text = place.decode([], tokens)
    offsets = place.offsets([], tokens, text)
    assert [i for i in range(len(text)) if not overlap(offsets, i, i + 1).any()] == []


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_special_token_holds_no_character(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    tokens = [*encode(name, "the dog"), tokenizer.eos_token_id]
    place = TokenText(tokenizer)
    text = place.decode([], tokens)
    begin, end = place.offsets([], tokens, text)[-1]
    assert begin == end == len(text)


@given(words=st.lists(st.sampled_from(["quick", "fox", "weasel", "goat", "jalapeno", "seven", "zebra"]), min_size=1, max_size=6))
@pytest.mark.parametrize("name", ["word_piece", "plain_bpe"])
def test_tokens_without_bytes_are_placed_where_their_letters_stand(name: str, words: list[str]) -> None:
    tokens, place = encode(name, " ".join(words)), TokenText(TOKENIZERS[name])
    text = place.decode([], tokens)
    for (begin, end), piece in zip(place.offsets([], tokens, text), TOKENIZERS[name].convert_ids_to_tokens(tokens), strict=True):
        if piece != "<unk>":
            assert text[begin:end].strip() == piece.removeprefix("##").removesuffix("</w>")


def test_a_character_cut_between_tokens_belongs_to_all_of_them() -> None:
    place, tokens = TokenText(worlds.BYTES), worlds.ids("a😀b")
    assert place.offsets([], tokens, "a😀b").tolist() == [[0, 1], *[[1, 2]] * 4, [2, 3]]


def test_a_text_that_breaks_off_inside_a_character_shows_and_places_the_replacement_character() -> None:
    place, tokens = TokenText(worlds.BYTES), [97, 0xF0, 0x9F]
    text = place.decode([], tokens)
    assert text == "a\ufffd"
    assert place.offsets([], tokens, text).tolist() == [[0, 1], [1, 2], [1, 2]]


def test_no_tokens_have_no_intervals() -> None:
    assert TokenText(worlds.BYTES).offsets([], [], "").shape == (0, 2)


def test_a_token_that_only_touches_the_span_does_not_overlap_it() -> None:
    offsets = np.array([[0, 3], [3, 3], [3, 5], [5, 6]])
    assert overlap(offsets, 3, 5).tolist() == [False, False, True, False]
