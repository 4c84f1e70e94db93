"""SentencePiece turned into a transformers tokenizer: same ids, same texts. Loading by name, with clear errors."""

import functools
import random

import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from textenv.tokenization import byte_tokenizer, fast_tokenizer, load_tokenizer, train_sentencepiece

PARTS = ["the", " ", "  ", "▁", "\n", "good", ".", "</s>", "<s>", "<0x0A>", "é", "\t", "cat", "<unk>", "<", "日本", "🎉", "[X]"]


@functools.cache
def proto(model_type: str, user_defined: tuple[str, ...] = (), dummy_prefix: bool = True) -> bytes:
    rng = random.Random(0)
    words = ["cat", "good", "the", "réussi", "weather", "日本", "was", "walking", "<b>", "12", "café"]
    lines = [" ".join(rng.choices(words, k=8)) for _ in range(300)]
    size = 400 if model_type == "unigram" else 345
    options = {} if dummy_prefix else {"add_dummy_prefix": False}
    return train_sentencepiece(lines, size, model_type=model_type, user_defined=user_defined, **options)


def random_text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.4:
        ranges = [(1, 0x300), (0x20, 0x3000), (0x1F300, 0x1FAFF), (0xE000, 0x10FFF)]
        return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(30)))
    if kind < 0.8:
        return "".join(rng.choice(PARTS) for _ in range(rng.randrange(12)))
    return " ".join(rng.choices(["cat", "good", "was", "walked", "reussi", ""], k=rng.randrange(1, 9)))


@pytest.mark.parametrize(
    ("model_type", "user_defined", "dummy_prefix"),
    [
        ("unigram", (), True),
        ("unigram", (), False),
        ("bpe", (), True),
        ("unigram", ("[X]", "▁[Y]"), True),
        ("bpe", ("[X]",), True),
    ],
)
def test_ids_and_decoded_texts_equal_those_of_sentencepiece(
    model_type: str, user_defined: tuple[str, ...], dummy_prefix: bool
) -> None:
    model = proto(model_type, user_defined, dummy_prefix)
    reference, ours = sentencepiece.SentencePieceProcessor(model_proto=model), fast_tokenizer(model)
    rng = random.Random(1)
    texts = [random_text(rng) for _ in range(2000)]
    different = []
    for text, ids in zip(texts, ours(texts, add_special_tokens=False).input_ids, strict=True):
        if ids != reference.encode(text) or ours.decode(ids) != reference.decode(ids):
            different.append((text, ours.convert_ids_to_tokens(ids), reference.encode(text, out_type=str)))
    assert not different, different[:3]


def test_a_saved_tokenizer_reads_the_same(tmp_path) -> None:
    tokenizer = fast_tokenizer(proto("unigram"), add_bos=True)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(2)
    texts = [random_text(rng) for _ in range(300)]
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert all(ids[0] == again.bos_token_id for ids in again(texts).input_ids)
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id, again.unk_token_id) == (0, 1, 2, 3)
    assert "token_type_ids" not in again("cat")


def test_a_model_that_is_neither_unigram_nor_bpe_is_refused() -> None:
    options = {"model_type": "word", "byte_fallback": False, "hard_vocab_limit": False}
    model = train_sentencepiece(["the cat was good"] * 9, 6, **options)
    with pytest.raises(ValueError, match="neither unigram"):
        fast_tokenizer(model)


def test_bytes_round_trip_any_unicode(tmp_path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    rng = random.Random(3)
    for text in [random_text(rng) for _ in range(500)] + ["", " a", "<pad></s>", "a  b\n"]:
        for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path) if len(text) < 2 else tokenizer):
            ids = one(text).input_ids
            assert ids == list(text.encode())
            assert one.decode(ids) == one.decode(ids, skip_special_tokens=True) == text


def test_the_byte_tokenizer_has_its_special_tokens_above_the_bytes() -> None:
    tokenizer = load_tokenizer("bytes")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (256, 257, 258, 259)


def test_a_tokenizer_object_passes_through() -> None:
    tokenizer = byte_tokenizer()
    assert load_tokenizer(tokenizer) is tokenizer


def test_an_embedded_name_is_resolved() -> None:
    assert load_tokenizer("textenv/tiny").eos_token == "</s>"


def test_a_directory_without_a_tokenizer_is_named_in_the_error(tmp_path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} holds no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_the_directory_of_a_run_names_that_of_its_agent(tmp_path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "agent")
    with pytest.raises(ValueError, match=f"holds no tokenizer .*; its agent does, give {tmp_path / 'agent'}"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_eos_is_refused_with_the_way_out(tmp_path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"set tokenizer\.eos_token"):
        load_tokenizer(tokenizer)


def test_something_else_than_a_name_or_a_tokenizer_is_refused() -> None:
    with pytest.raises(TypeError, match="got int"):
        load_tokenizer(3)  # type: ignore[arg-type]


def test_an_unknown_embedded_name_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="textenv/tiny-critic-insults"):
        load_tokenizer("textenv/huge")


@pytest.mark.parametrize(
    ("lines", "size", "message"),
    [
        (["the cat was good"] * 9, 5, r"vocab_size=5 .*smaller than required_chars\. 5 vs \d+"),
        ([], 300, "vocab_size=300 .*there is no text"),
        (["the cat was good"] * 9, -1, r"vocab_size=-1 .*vocab_size\(\)\) > \(0\)"),
    ],
)
def test_a_vocabulary_that_cannot_be_made_is_refused_with_its_size(lines: list[str], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_sentencepiece(lines, size)
