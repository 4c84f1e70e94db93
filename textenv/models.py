"""Language models by name: an embedded one ("textenv/tiny"), a saved directory, a hub name, or a model at hand."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

from textenv import embedded

__all__ = [
    "load_causal_lm",
    "load_language_model",
    "load_sequence_classifier",
    "load_token_classifier",
    "pick_device",
    "quiet_files",
    "resolve",
]


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


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device meant by "auto" (CUDA where there is one), or the one named."""
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


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


def load_causal_lm(
    source: Any, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "auto", shared: bool = False
) -> Any:
    """A causal language model in eval mode. An object passes through (moved to `device`).

    Args:
        source: "textenv/tiny", a directory, a hub name, or a transformers model.
        dtype: of the weights.
        device: "auto", "cpu", "cuda", ...
        shared: for models that nobody trains: whoever asks for the same files again gets the same object.
    """
    return _load("AutoModelForCausalLM", source, dtype, pick_device(device), shared)


def load_language_model(
    source: Any, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "auto", shared: bool = False
) -> Any:
    """A language model that writes texts, causal or encoder–decoder, as its config says, with the same arguments."""
    if not isinstance(source, (str, os.PathLike)):
        return source.to(pick_device(device)).eval()
    encoder = transformers.AutoConfig.from_pretrained(resolve(source)).is_encoder_decoder
    kind = "AutoModelForSeq2SeqLM" if encoder else "AutoModelForCausalLM"
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


def _load(kind: str, source: Any, dtype: torch.dtype, device: torch.device, shared: bool) -> Any:
    if not isinstance(source, (str, os.PathLike)):
        return source.to(device).eval()
    name = resolve(source)
    files = sorted(Path(name).iterdir()) if Path(name).is_dir() else []
    key = (kind, name, dtype, device, *(file.stat().st_mtime_ns for file in files))
    found = _SHARED.get(key) if shared else None
    if found is not None:
        return found
    with quiet_files():
        model = getattr(transformers, kind).from_pretrained(name, dtype=dtype).to(device).eval()
    if shared:
        _SHARED[key] = model.requires_grad_(False)
    return model
