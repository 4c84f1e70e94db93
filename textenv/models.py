"""Language models by name: an embedded one ("textenv/tiny"), a saved directory, a hub name, or a model at hand."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging

from textenv import embedded
from textenv.activations import fuse_gelu
from textenv.precision import resolved

__all__ = [
    "check_vocabulary",
    "headless",
    "load_causal_lm",
    "load_language_model",
    "load_sequence_classifier",
    "load_token_classifier",
    "open_config",
    "opening",
    "pick_device",
    "pick_dtype",
    "quiet_files",
    "refuse_model",
    "resolve",
    "saved_as",
]

_ASKED_BY = {
    "scorer": "SequenceClassifierScorer(model, tokenizer=..., label=...)",
    "critic": "LanguageModelCritic(model, form, tokenizer=...)",
}


@contextmanager
def quiet_files() -> Iterator[None]:
    """No progress bar for files that are read or written in a blink; the user's setting comes back afterwards."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


_HEADLESS: ContextVar[bool] = ContextVar("headless", default=False)


@contextmanager
def headless() -> Iterator[None]:
    """Within, models may come without their heads: for those who read the states of a trunk, a reward model's, say."""
    token = _HEADLESS.set(True)
    try:
        yield
    finally:
        _HEADLESS.reset(token)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device meant by "auto" (CUDA where there is one), or the one named.

    Raises:
        ValueError: a name that PyTorch does not know; a GPU that is not there.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is none that PyTorch knows: auto, cpu, cuda, cuda:1, ...") from error
    if named.type == "cuda" and (named.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={device!r}: PyTorch sees {torch.cuda.device_count()} GPUs here; device='auto' takes what there is"
        )
    return named


def pick_dtype(dtype: torch.dtype | Literal["auto"], device: str | torch.device = "auto") -> torch.dtype:
    """The dtype of frozen weights: the one named, or for "auto" bfloat16 where a policy of "auto" precision computes in it."""
    if isinstance(dtype, torch.dtype):
        return dtype
    return torch.bfloat16 if resolved("auto", pick_device(device), torch.float32) == "bf16" else torch.float32


def resolve(source: str | os.PathLike[str]) -> str:
    """What transformers can open: embedded names become directories, other names stay.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a directory that holds no model.
    """
    name = os.fspath(source)
    if name.startswith("textenv/"):
        return str(embedded.path(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"{name} holds no config.json, so it is no saved model (save_pretrained writes one)")
        return str(path)
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"no model directory at {name}")
    return name  # a hub name


@contextmanager
def opening(source: str | os.PathLike[str]) -> Iterator[None]:
    """Within, files of this model are read: what fails is said of its name, which transformers may leave out.

    Raises:
        FileNotFoundError: nothing of that name, here or on the hub.
        ValueError: weights that are damaged.
    """
    name = os.fspath(source)
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"the weights of {name} are damaged or not whole ({error}); save or download them again") from error
    except OSError as error:
        if Path(name).expanduser().is_dir():
            raise  # it names the directory
        said = str(error).partition("\n")[0]
        raise FileNotFoundError(
            f"{name!r} is no directory and no embedded model ('textenv/...'), and could not be had from the hub or from what was "
            f"downloaded before: {said}"
        ) from error


def open_config(source: str | os.PathLike[str]) -> Any:
    """The configuration of a model by name.

    Raises:
        FileNotFoundError, ValueError: no model there.
    """
    place = resolve(source)
    with opening(source):
        return transformers.AutoConfig.from_pretrained(place)


def check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    """Raise where a model has no embedding for some id of its tokenizer: it would fail at the first text that holds one.

    Raises:
        ValueError: with both numbers.
    """
    embeddings = getattr(model, "get_input_embeddings", None)  # a module of one's own need not have any
    known = len(tokenizer) if embeddings is None else int(embeddings().weight.shape[0])
    if known < len(tokenizer):
        raise ValueError(
            f"{name} knows {known} ids, its tokenizer {len(tokenizer)}: they do not belong together; name the tokenizer that the "
            "model was trained with (tokenizer=), or resize the model's embeddings and train it with the new ones"
        )


def refuse_model(argument: str, given: Any, way_out: str = "") -> None:
    """Raise where a bare model stands for whoever asks it: it is callable, and would fail at the first text.

    Args:
        argument: "scorer", "critic", or another with its `way_out`.

    Raises:
        TypeError: with what to pass.
    """
    if isinstance(given, torch.nn.Module):
        asked = way_out or _ASKED_BY[argument]
        raise TypeError(f"{argument}= got a model ({type(given).__name__}); say how it is to be asked: {argument}={asked}")


def saved_as(source: str | os.PathLike[str]) -> str:
    """The class that a model was saved as, as its config says ("LlamaForCausalLM"); "" where it does not say."""
    return next(iter(open_config(source).architectures or []), "")


def load_causal_lm(
    source: Any, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "auto", shared: bool = False
) -> Any:
    """A causal language model in eval mode. An object passes through (moved to `device`).

    Args:
        source: "textenv/tiny", a directory, a hub name, or a transformers model.
        dtype: of the weights.
        device: "auto", "cpu", "cuda", ...
        shared: for models that nobody trains: whoever asks for the same files again gets the same object.

    Raises:
        FileNotFoundError, ValueError: no model there; one without its head (a classifier, say), which would be random numbers.
    """
    return _load("AutoModelForCausalLM", source, dtype, pick_device(device), shared)


def load_language_model(
    source: Any, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "auto", shared: bool = False
) -> Any:
    """A language model that writes texts, causal or encoder–decoder, as its config says, with the same arguments."""
    if not isinstance(source, (str, os.PathLike)):
        return fuse_gelu(source.to(pick_device(device)).eval())
    kind = "AutoModelForSeq2SeqLM" if open_config(source).is_encoder_decoder else "AutoModelForCausalLM"
    return _load(kind, source, dtype, pick_device(device), shared)


def load_sequence_classifier(
    source: Any, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "auto", shared: bool = False
) -> Any:
    """A sequence classifier in eval mode, from the same kinds of source, with the same arguments."""
    return _load("AutoModelForSequenceClassification", source, dtype, pick_device(device), shared)


def load_token_classifier(
    source: Any, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "auto", shared: bool = False
) -> Any:
    """A token classifier in eval mode, from the same kinds of source, with the same arguments."""
    return _load("AutoModelForTokenClassification", source, dtype, pick_device(device), shared)


# Eight environments in a vector ask for the same critic; it is held once, and for as long as somebody holds it.
_SHARED: weakref.WeakValueDictionary[tuple[Any, ...], Any] = weakref.WeakValueDictionary()

_HEADS = {
    "AutoModelForCausalLM": ("", "a language model (a classifier judges texts, as scorer=)"),
    "AutoModelForSeq2SeqLM": ("", "an encoder–decoder that writes texts"),
    "AutoModelForSequenceClassification": ("SequenceClassification", "a sequence classifier"),
    "AutoModelForTokenClassification": ("TokenClassification", "a token classifier"),
}
"""What the class of a saved classifier must say (the heads of both kinds may bear one name), and what should be named."""


def _load(kind: str, source: Any, dtype: torch.dtype, device: torch.device, shared: bool) -> Any:
    if not isinstance(source, (str, os.PathLike)):
        return fuse_gelu(source.to(device).eval())
    name = resolve(source)
    files = sorted(Path(name).iterdir()) if Path(name).is_dir() else []
    key = (kind, name, dtype, device, _HEADLESS.get(), *(file.stat().st_mtime_ns for file in files))
    found = _SHARED.get(key) if shared else None
    if found is not None:
        return found
    said, wanted = _HEADS[kind]
    saved = saved_as(source)
    if said and "Classification" in saved and said not in saved:
        raise ValueError(f"{os.fspath(source)} was saved as {saved}; name {wanted}")
    with quiet_files(), opening(source):
        model, found_keys = getattr(transformers, kind).from_pretrained(name, dtype=dtype, output_loading_info=True)
    trunk = f"{model.base_model_prefix}." if _HEADLESS.get() else ""
    missing = sorted(key for key in found_keys["missing_keys"] if key.startswith(trunk))  # a tied head is not one
    if missing:
        raise ValueError(
            f"{os.fspath(source)} (saved as {saved or 'no class that its config names'}) has no {', '.join(missing[:3])}"
            f"{', …' * (len(missing) > 3)}, which {type(model).__name__} would fill with random numbers; name {wanted}"
        )
    model = fuse_gelu(model.to(device).eval())
    if shared:
        _SHARED[key] = model.requires_grad_(False)
    return model
