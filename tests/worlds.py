"""Small real things for the tests: tiny models with random weights, trained tokenizers, environments, ways to step."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import transformers
from stable_baselines3.common.logger import KVWriter
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import textenv  # noqa: F401 - registers the environments
from textenv.episode import Episode, Prompt
from textenv.models import quiet_files
from textenv.tokenization import byte_tokenizer, fast_tokenizer, train_sentencepiece

BYTES = byte_tokenizer()
EOS = int(BYTES.eos_token_id)
VOCABULARY = len(BYTES)  # 259

LINES = [
    "the quick brown fox jumps over the lazy dog",
    "you are a weasel and an old goat, said the café owner",
    "naïve résumé, jalapeño, crème brûlée: all good",
    "one two three four five six seven eight nine ten",
    "I don't think it's bad; it isn't good either.",
] * 4


# --- Models ------------------------------------------------------------------------------------------------------------


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Random weights of this seed; the global generator is as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def llama(vocabulary: int = VOCABULARY, *, seed: int = 0, **options: Any) -> Any:
    """A tiny Llama. Its weights are large enough for its distributions to differ from uniform."""
    settings = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128, "initializer_range": 0.2,
        "pad_token_id": None, "bos_token_id": 257, "eos_token_id": 258, "tie_word_embeddings": False,
    }  # fmt: skip
    with seeded(seed):
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**settings, **options})).eval()


def gpt2(vocabulary: int = VOCABULARY, *, seed: int = 0, **options: Any) -> Any:
    """A tiny GPT-2: learned positions, tied embeddings, dropout in training."""
    settings = {
        "vocab_size": vocabulary, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.2,
        "bos_token_id": 257, "eos_token_id": 258,
    }  # fmt: skip
    with seeded(seed):
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**settings, **options})).eval()


def decoder(kind: str, *, seed: int = 0, **options: Any) -> Any:
    """A tiny decoder of a transformers family: "Qwen3", "Mistral", ..."""
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **options,
    }  # fmt: skip
    cls = getattr(transformers, f"{kind}ForCausalLM")
    with seeded(seed):
        return cls(cls.config_class(**settings)).eval()


def gemma2(*, seed: int = 0) -> Any:
    """A tiny Gemma 2: its head caps the logits."""
    config = transformers.Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=128, sliding_window=64,
        final_logit_softcapping=2.0, pad_token_id=256, bos_token_id=257, eos_token_id=258,
    )  # fmt: skip
    with seeded(seed):
        return transformers.Gemma2ForCausalLM(config).eval()


def t5(vocabulary: int = VOCABULARY, *, kind: str = "T5", seed: int = 0, **options: Any) -> Any:
    """A tiny T5 (its outputs are scaled before its head; with `tie_word_embeddings=False` they are not) or "MT5"."""
    settings = {
        "vocab_size": vocabulary, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2,
        "pad_token_id": 256, "eos_token_id": 258, "decoder_start_token_id": 256,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**{**settings, **options})
    with seeded(seed):
        return getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()


def bart(vocabulary: int = VOCABULARY, *, bias: bool = False, seed: int = 0, **options: Any) -> Any:
    """A tiny BART: learned positions; with `bias`, its head adds one to the logits."""
    settings = {
        "vocab_size": vocabulary, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128,
        "init_std": 0.2, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258, "decoder_start_token_id": 258,
        "forced_eos_token_id": None,
    }  # fmt: skip
    with seeded(seed):
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**{**settings, **options})).eval()
        if bias:
            model.final_logits_bias.normal_()
        return model


ENCODER_DECODERS: dict[str, Callable[[], Any]] = {
    "t5": t5, "flan_t5": lambda: t5(tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
    "mt5": lambda: t5(kind="MT5"), "bart": bart, "bart with a bias": lambda: bart(bias=True),
}  # fmt: skip


def classifier(kind: str = "bert", labels: Sequence[str] = ("civil", "toxic"), *, seed: int = 0) -> Any:
    """A tiny sequence classifier: "bert", "llama" or "gpt2"."""
    names = dict(enumerate(labels))
    common = {"vocab_size": VOCABULARY, "id2label": names, "label2id": {v: k for k, v in names.items()}}
    with seeded(seed):
        if kind == "bert":
            config: Any = transformers.BertConfig(
                **common, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                max_position_embeddings=64, initializer_range=0.2, pad_token_id=256,
            )  # fmt: skip
            return transformers.BertForSequenceClassification(config).eval()
        if kind == "llama":
            config = transformers.LlamaConfig(
                **common, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.2, pad_token_id=256,
                bos_token_id=257, eos_token_id=258,
            )  # fmt: skip
            return transformers.LlamaForSequenceClassification(config).eval()
        config = transformers.GPT2Config(
            **common, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2, pad_token_id=256,
            bos_token_id=257, eos_token_id=258,
        )  # fmt: skip
        return transformers.GPT2ForSequenceClassification(config).eval()


def saved(model: Any, directory: Path, tokenizer: Any = BYTES) -> Path:
    """The model and its tokenizer as `save_pretrained` writes them."""
    with quiet_files():
        model.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
    return directory


def same_weights(a: Any, b: Any) -> bool:
    """Whether two modules hold the same numbers."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- Tokenizers --------------------------------------------------------------------------------------------------------


def _wrap(tokenizer: Tokenizer) -> Any:
    names = {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, split_special_tokens=True, **names)


def byte_level_bpe() -> Any:
    """GPT-2's kind: every text can be written, a character may be cut between tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
    )  # fmt: skip
    tokenizer.train_from_iterator(LINES, trainer)
    return _wrap(tokenizer)


def word_piece() -> Any:
    """BERT's kind: lower case, "##" continues a word, decoding cleans up spaces; ids do not say their bytes."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, show_progress=False, special_tokens=["<pad>", "<s>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(LINES, trainer)
    return _wrap(tokenizer)


def plain_bpe() -> Any:
    """The first BPE: "</w>" ends a word; unknown characters are lost."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200, show_progress=False, end_of_word_suffix="</w>", special_tokens=["<pad>", "<s>", "</s>", "<unk>"]
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return _wrap(tokenizer)


@cache
def tokenizers() -> dict[str, Any]:
    """One tokenizer of each kind, by name."""
    return {
        "bytes": BYTES,
        "byte_level_bpe": byte_level_bpe(),
        "unigram": fast_tokenizer(train_sentencepiece(LINES, 320)),
        "sentencepiece_bpe": fast_tokenizer(train_sentencepiece(LINES, 400, model_type="bpe")),
        "word_piece": word_piece(),
        "plain_bpe": plain_bpe(),
    }


def closing(template: str = "$A </s>") -> Any:
    """The byte tokenizer, with special tokens around every text as T5 ("$A </s>") or BART ("<s> $A </s>") has them."""
    tokenizer = byte_tokenizer()
    named = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return tokenizer


# --- Environments and texts --------------------------------------------------------------------------------------------


def make(**arguments: Any) -> gym.Env[Any, Any]:
    """CountLetter, through `gym.make`."""
    return gym.make("textenv/CountLetter-v0", **arguments)


def ids(text: str, *, end: bool = False) -> list[int]:
    """Byte tokens of a text, with EOS if asked for."""
    return [*text.encode(), *([EOS] if end else [])]


def walk(env: gym.Env[Any, Any], tokens: Sequence[int], **reset: Any) -> tuple[list[float], Episode | None]:
    """Step through the tokens: what each step paid, and the credited episode, if the text ended."""
    env.reset(**reset)
    rewards, episode = [], None
    for token in tokens:
        _, reward, terminated, truncated, info = env.step(np.int64(token))
        assert not truncated
        rewards.append(float(reward))
        if terminated:
            episode = info["text_episode"]
    return rewards, episode


def credited(env: gym.Env[Any, Any], tokens: Sequence[int], prompt: str = "p: ") -> Episode:
    """The same tokens by the batched road."""
    (episode,) = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(Prompt(prompt), tokens)])
    return episode


def constant_scorer(value: float) -> Callable[[Sequence[Episode]], list[float]]:
    """Every text scores `value`."""
    return lambda episodes: [value] * len(episodes)


def even_share(episodes: Sequence[Episode]) -> list[float]:
    """The share of even ids: a verdict that differs between random texts."""
    return [float(np.mean(episode.tokens % 2 == 0)) for episode in episodes]


class Memory(KVWriter):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


class CountedCritic:
    """A critic that counts its calls and the texts it was shown."""

    def __init__(self, critic: Callable[[Sequence[Episode]], Any]) -> None:
        self.critic, self.calls, self.texts = critic, 0, list[str]()

    def __call__(self, episodes: Sequence[Episode], /) -> Any:
        self.calls += 1
        self.texts += [episode.text for episode in episodes]
        return self.critic(episodes)


def parrot(answer: str) -> tuple[Any, Any]:
    """A GPT-2 that, wherever ":" has been said, writes this answer and ends; and its tokenizer of words.

    Its blocks do nothing and its head is a table of what follows what, so no word may occur twice in the answer.
    """
    pieces = re.findall(r" ?\w+|[^\w]", answer)
    assert len(set(pieces)) == len(pieces), f"a word occurs twice: {pieces}"
    chain = [":", *pieces, "</s>"]
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", *chain])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|[^\w]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    size = len(vocabulary)
    model = gpt2(size, n_embd=size, n_layer=1, n_head=1, tie_word_embeddings=False)
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.zero_()
        model.transformer.wpe.weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for before, after in itertools.pairwise(chain):
            model.lm_head.weight[vocabulary[after], vocabulary[before]] = 10.0
    return model, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
