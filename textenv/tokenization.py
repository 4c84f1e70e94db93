"""Tokenizers: SentencePiece trained and turned into a plain `PreTrainedTokenizerFast`, the byte tokenizer, and loading by name.

transformers reads a self-trained SentencePiece `.model` wrongly more often than not; its tokenizer.json is read alike by every
tool. So the model proto is converted once, piece by piece: normaliser, segmentation (Unigram, or BPE with its merges in
SentencePiece's order), decoder. A test compares ids and decoded texts with `SentencePieceProcessor` over thousands of random
Unicode strings. Two points matter for that:

1. Special tokens are not read from text: "</s>" in a text is four characters, as SentencePiece has it
   (`split_special_tokens=True`; pass False to have them parsed).
2. User-defined pieces are cut out of the normalised text before it is segmented. As added tokens of transformers they would
   split the text *before* normalisation, and the dummy space would be put in front of every part.

One difference is left: a text which spells a special or byte piece ("<0x0A>") is cut after its first character, so that an
ordinary piece which would reach across that point is not used.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from textenv.models import opening

__all__ = ["byte_tokenizer", "fast_tokenizer", "load_tokenizer", "prompt_end", "prompt_ids", "train_sentencepiece"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # ModelProto.SentencePiece.Type
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_SPACE = "▁"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def train_sentencepiece(
    lines: Iterable[str],
    vocab_size: int = 2048,
    *,
    model_type: str = "unigram",
    user_defined: Sequence[str] = (),
    **options: Any,
) -> bytes:
    """A SentencePiece model trained on `lines`, as the bytes of its proto.

    Nothing is normalised away and every text can be written: identity normalisation, white space kept, unknown
    characters as bytes. The vocabulary may come out smaller than asked for. Ids 0-3 are pad, bos, eos, unk.

    Args:
        options: further options of `SentencePieceTrainer`, which win over those set here.

    Raises:
        ValueError: no text, or a vocabulary of that size cannot be made of it.
    """
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "model_type": model_type,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "hard_vocab_limit": model_type != "unigram",
        "character_coverage": 1.0,
        "pad_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "unk_id": 3,
        "num_threads": 1,
        "minloglevel": 2,
        "user_defined_symbols": list(user_defined),
    }
    if model_type != "unigram":
        del settings["hard_vocab_limit"]
    proto = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=proto, **{**settings, **options})
    except RuntimeError as error:  # "INTERNAL: file(line) [condition] what is wrong"
        said = "there is no text" if "sentences_.empty()" in str(error) else str(error).rpartition("] ")[2].strip() or str(error)
        raise ValueError(
            f"no vocabulary of vocab_size={vocab_size} can be made of this text ({said}): it holds every byte, the special tokens "
            "and every character that occurs, and its words come on top"
        ) from error
    return proto.getvalue()


def fast_tokenizer(proto: bytes, *, add_bos: bool = False, **options: Any) -> PreTrainedTokenizerFast:
    """A SentencePiece model as a `PreTrainedTokenizerFast` with the same ids and the same decoded text.

    Args:
        proto: the bytes of the `.model` file.
        add_bos: put bos before every text that is encoded with special tokens.
        options: passed on to `PreTrainedTokenizerFast`.

    Raises:
        ValueError: for a model that is neither unigram nor BPE.
    """
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    model = messages.ModelProto.FromString(proto)
    pieces = [(p.piece, p.score) for p in model.pieces]
    kinds = [p.type for p in model.pieces]
    unk = kinds.index(_UNKNOWN)
    spec = model.trainer_spec
    if spec.model_type == _UNIGRAM:
        core: Any = models.Unigram(pieces, unk, spec.byte_fallback)
    elif spec.model_type == _BPE:
        vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
        core = models.BPE(
            vocabulary,
            _merges(pieces, kinds),
            unk_token=pieces[unk][0],
            fuse_unk=True,
            byte_fallback=spec.byte_fallback,
            ignore_merges=True,  # a user-defined piece, cut out whole, is made by no merge
        )
    else:
        raise ValueError(f"model_type {spec.model_type} is neither unigram (1) nor BPE (2); train one of these two")

    tokenizer = Tokenizer(core)
    tokenizer.normalizer = _normalizer(model.normalizer_spec)
    tokenizer.pre_tokenizer = _cutter(
        fixed=[p.piece for p in model.pieces if p.type == _USER_DEFINED],
        literal=[p.piece for p in model.pieces if p.type in (_UNKNOWN, _CONTROL, _BYTE)],
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if model.normalizer_spec.add_dummy_prefix else [])
    )
    controls = [p.piece for p in model.pieces if p.type == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in controls])
    ids = {"pad_token": spec.pad_id, "bos_token": spec.bos_id, "eos_token": spec.eos_id, "unk_token": unk}
    named = {name: pieces[i][0] for name, i in ids.items() if i >= 0}
    if add_bos:
        bos = named["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, spec.bos_id)]
        )
    return _wrap(tokenizer, **{**named, **options})


def _wrap(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    settings: dict[str, Any] = {
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**settings, **options})


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    steps.append(normalizers.Replace(" ", _SPACE))
    return normalizers.Sequence(steps)


def _cutter(fixed: Sequence[str], literal: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    """Isolates user-defined pieces, and cuts the spelling of a special piece so that the model cannot read it as the piece."""
    spelled = "|".join(f"{re.escape(p[0])}(?={re.escape(p[1:])})" for p in literal if len(p) > 1)
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Split(Regex(spelled), behavior="merged_with_previous")]
    if fixed:
        longest_first = "|".join(re.escape(piece) for piece in sorted(fixed, key=len, reverse=True))
        steps.insert(0, pre_tokenizers.Split(Regex(longest_first), behavior="isolated"))
    return pre_tokenizers.Sequence(steps)


def _merges(pieces: Sequence[tuple[str, float]], kinds: Sequence[int]) -> list[tuple[str, str]]:
    """BPE's merges: every way to make a piece of two others, the best piece first."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    found = []
    for (piece, score), kind in zip(pieces, kinds, strict=True):
        if kind != _NORMAL:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer that needs no training: ids 0-255 are the bytes of UTF-8, then pad (256), bos (257), eos (258).

    >>> tokenizer = byte_tokenizer()
    >>> tokenizer("é!").input_ids, tokenizer.decode([195, 169, 33])
    ([195, 169, 33], 'é!')
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # the ByteLevel alphabet: other bytes move above 255
    others = [b for b in range(256) if b not in printable]
    alphabet = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tokenizer = Tokenizer(models.BPE({char: byte for byte, char in alphabet.items()}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in names.values()])
    return _wrap(tokenizer, **names)


def load_tokenizer(
    source: str | os.PathLike[str] | PreTrainedTokenizerBase, *, need_eos: bool = True, shared: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that `source` names.

    Args:
        source: a tokenizer object (returned as it is); "bytes"; a name that begins "textenv/" (the embedded models); a
            directory; anything else is a name on the hub.
        need_eos: texts are generated with it, so it must be able to end one (a classifier's need not).
        shared: for judges, who change nothing about it: whoever asks for the same files again gets the same object.

    Raises:
        FileNotFoundError: nothing of that name, here or on the hub.
        ValueError: no such embedded model; a directory without a tokenizer; a tokenizer without an end-of-text token.
    """
    if isinstance(source, PreTrainedTokenizerBase):
        tokenizer: PreTrainedTokenizerBase = source
    elif not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"a tokenizer is a name, a directory or a tokenizer object, got {type(source).__name__}")
    elif source == "bytes":
        tokenizer = byte_tokenizer()
    else:
        tokenizer = _from_files(os.fspath(source), shared)
    if need_eos and tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer {source if isinstance(source, str) else tokenizer.name_or_path!r} has no end-of-text token; "
            "set tokenizer.eos_token to one of its tokens and pass the tokenizer object"
        )
    return tokenizer


def prompt_end(tokenizer: Any) -> tuple[int, ...]:
    """What the tokenizer puts behind every text, and a prompt goes without: (EOS,) or ()."""
    ids = list(tokenizer("a")["input_ids"])
    return (ids[-1],) if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ()


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text that is to be continued, so without the tokenizer's EOS; at least one: BOS, or EOS, if need be."""
    ids = list(tokenizer(text)["input_ids"])
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and prompt_end(tokenizer):
        ids.pop()
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return ids or [begin]


# Judges of one model read with one tokenizer, so that what it made of a text is known to all of them.
_SHARED: WeakValueDictionary[tuple[Any, ...], PreTrainedTokenizerBase] = WeakValueDictionary()


def _holds_tokenizer(directory: Path) -> bool:
    return any((directory / file).exists() for file in _TOKENIZER_FILES)


def _from_files(name: str, shared: bool) -> PreTrainedTokenizerBase:
    if name.startswith("textenv/"):
        from textenv import embedded

        name = str(embedded.path(name))
    name = os.path.expanduser(name)
    if (os.path.isabs(name) or name.startswith(".") or name.count("/") > 1) and not os.path.exists(name):
        raise FileNotFoundError(f"no tokenizer directory at {name}")
    if os.path.isdir(name) and not _holds_tokenizer(Path(name)):
        agent = Path(name) / "agent"  # of a run of `textenv train`
        hint = f"its agent does, give {agent}" if _holds_tokenizer(agent) else (
            "save one there with tokenizer.save_pretrained(directory), or name the tokenizer apart from the model"
        )
        raise ValueError(f"the directory {name} holds no tokenizer (none of {', '.join(_TOKENIZER_FILES)}); {hint}")
    files = sorted(Path(name).iterdir()) if os.path.isdir(name) else []
    key = (name, *(file.stat().st_mtime_ns for file in files))
    found = _SHARED.get(key) if shared else None
    if found is not None:
        return found
    with opening(name):
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    if shared:
        _SHARED[key] = loaded
    return loaded
