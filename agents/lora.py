"""Low-rank adapters on a language model (Hu et al. 2022, *LoRA*, arXiv 2106.09685), by PEFT.

    h = W x + (α / r) B A x,   W frozen, A random, B = 0: an adapter that has not learned anything changes nothing

1. Adapters are put *into* the transformers model (`model.add_adapter`), which stays a transformers model, read as before.
2. By default on every linear layer but the head ("all-linear"), r as asked for, α = 2 r, no dropout.
3. The first A does not depend on the global generator, nor move it: two policies of one base begin alike.
4. Copies share the frozen base: a reference costs an adapter at most, and without one it *is* the base, bit for bit.
   Variants that change W itself (a trained bias, PiSSA, OLoRA, LoftQ, CorDA) are refused: there would be no base left.
5. On disk an adapter is what PEFT writes (adapter_config.json, adapter_model.safetensors), and names its base; a base
   without a name stands beside it in base/.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from textenv.models import load_language_model, quiet_files

__all__ = [
    "add_adapter", "adapter_of", "base_name", "freeze_base", "is_adapter", "load_adapter", "merge_adapter", "open_model",
    "remove_adapter", "save_adapter", "sharing_copy", "tokenizer_source", "train_adapter_alone", "untouched",
]  # fmt: skip

ADAPTER_FILE, WEIGHTS_FILE, BASE = "adapter_config.json", "adapter_model.safetensors", "base"
Holder = TypeVar("Holder", bound=nn.Module)


def add_adapter(model: Any, lora: Any) -> None:
    """Put a fresh adapter into a model, and freeze the rest.

    Args:
        model: a transformers model without an adapter.
        lora: the rank r; a dict of `peft.LoraConfig`'s arguments; or a `LoraConfig`.

    Raises:
        ImportError: PEFT is not installed.
        TypeError: `lora` is something else.
        ValueError: a rank below 1; the model has an adapter; a variant that changes the base.
    """
    if adapter_of(model) is not None:
        raise ValueError(f"the model has an adapter already; leave out lora={lora!r} to go on with it, or merge it first")
    config = _config(lora, model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # PEFT takes no generator, and draws on the CPU
        model.add_adapter(config, "default")
    train_adapter_alone(model)


def adapter_of(model: Any) -> Any:
    """The `LoraConfig` of the model's adapter, or None.

    Raises:
        ValueError: several adapters, or one of another kind.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        return None
    configs = dict(model.peft_config)
    if len(configs) != 1:
        raise ValueError(f"the model has the adapters {sorted(configs)}; delete all but one (model.delete_adapter)")
    (config,) = configs.values()
    _check(config)
    return config


def unwrapped(model: Any) -> Any:
    """The transformers model inside a `PeftModel`, its adapter in place; any other model as it is."""
    if not type(model).__module__.startswith("peft."):
        return model
    inner = model.get_base_model()
    inner.peft_config = dict(model.peft_config)
    inner._hf_peft_config_loaded = True
    return inner


def train_adapter_alone(model: Any) -> None:
    """The adapter's weights, in float32 at least, take gradients; the base's take none."""
    from peft.tuners.tuners_utils import cast_adapter_dtype

    (name,) = model.peft_config
    model.requires_grad_(False)
    model.set_adapter(name)
    cast_adapter_dtype(model, name)  # a step of Adam is lost in bfloat16
    for layer in _layers(model):
        layer.set_adapter(name)


def freeze_base(model: Any) -> None:
    """No gradients for anything but the adapter."""
    for name, parameter in model.named_parameters():
        if not _is_adapter_weight(name):
            parameter.requires_grad_(False)


def untouched(model: Any) -> bool:
    """Whether the adapter changes nothing, because every B is zero."""
    learned = [(name, p) for name, p in model.named_parameters() if _is_adapter_weight(name)]
    plain = all("lora_A" in name or "lora_B" in name or "lora_embedding" in name for name, _ in learned)
    return plain and not any(bool(p.any()) for name, p in learned if "lora_B" in name or "lora_embedding_B" in name)


def sharing_copy(holder: Holder, model: Any) -> Holder:
    """A copy of a module with its own weights, but for the frozen base of `model` in it, which both hold."""
    base = [p for name, p in model.named_parameters() if not _is_adapter_weight(name)]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*base, *model.buffers())}
    return copy.deepcopy(holder, memo)


def remove_adapter(model: Any) -> None:
    """Take the adapter out: what is left is the base."""
    _replace(model, merge=False)


def merge_adapter(model: Any) -> None:
    """Add the adapter's product to the base's weights, W ← W + (α / r) B A, and take it out."""
    _replace(model, merge=True)


# --- On disk -----------------------------------------------------------------------------------------------------------


def is_adapter(source: Any) -> bool:
    """Whether a source is the directory of an adapter."""
    return isinstance(source, (str, os.PathLike)) and (Path(source).expanduser() / ADAPTER_FILE).is_file()


def base_name(directory: str | os.PathLike[str]) -> str:
    """Where the base of a saved adapter is: beside it, or what it names.

    Raises:
        ValueError: neither.
    """
    place = Path(directory).expanduser()
    if (place / BASE / "config.json").is_file():
        return str(place / BASE)
    name = json.loads((place / ADAPTER_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{place / ADAPTER_FILE} does not say which model the adapter belongs to (base_model_name_or_path)")
    return str(name)


def tokenizer_source(source: Any) -> Any:
    """Where the tokenizer of a model is: beside it, or, where an adapter came without one, beside its base."""
    bare = is_adapter(source) and not any(Path(source).expanduser().glob("tokenizer*"))
    return base_name(source) if bare else source


def open_model(source: Any, *, dtype: torch.dtype, device: Any) -> Any:
    """A language model, its adapter with it where the source is the directory of one.

    Raises:
        FileNotFoundError: the base, or the adapter's weights, are not there.
    """
    if not is_adapter(source):
        return load_language_model(unwrapped(source), dtype=dtype, device=device)
    model = load_language_model(base_name(source), dtype=dtype, device=device)
    config = _peft().LoraConfig.from_pretrained(os.fspath(source))
    _check(config)
    config.inference_mode = False
    add_adapter(model, config)
    beside = (Path(source).expanduser() / BASE).is_dir()
    config.base_model_name_or_path = None if beside else base_name(source)
    load_adapter(model, source)
    return model


def load_adapter(model: Any, directory: str | os.PathLike[str]) -> None:
    """Put saved weights into the model's adapter.

    Raises:
        FileNotFoundError: no safetensors there.
        ValueError: weights of another adapter.
    """
    file = Path(directory).expanduser() / WEIGHTS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; an adapter's weights are read from safetensors alone")
    (name,) = model.peft_config
    weights = {key.removeprefix("base_model.model."): value for key, value in load_file(file).items()}
    found = _peft().set_peft_model_state_dict(model, weights, adapter_name=name)
    missing = [key for key in found.missing_keys if _is_adapter_weight(key)]
    if missing or found.unexpected_keys:
        raise ValueError(f"{file} is of another adapter: {missing[:3]} are missing, {found.unexpected_keys[:3]} are unknown")


def save_adapter(model: Any, directory: Path, target: Path | None = None, *, with_base: bool = True) -> None:
    """Write the adapter as PEFT does, and the base beside it where no name finds it again.

    Args:
        directory: to write into.
        target: where the directory will stand in the end.
        with_base: False: the adapter alone, whatever its base is called.
    """
    config, place = adapter_of(model), (target or directory).resolve()
    named = config.base_model_name_or_path
    if named is not None and Path(named).expanduser().is_dir():
        found = Path(named).expanduser().resolve()
        named = None if place == found or place in found.parents else str(found)  # what is about to be replaced is no base
    config.base_model_name_or_path = str(place / BASE) if named is None else named
    (adapter,) = model.peft_config
    weights = _peft().get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    try:
        config.save_pretrained(str(directory))
        prefixed = {f"base_model.model.{key}": value.contiguous() for key, value in weights.items()}
        save_file(prefixed, directory / WEIGHTS_FILE, metadata={"format": "pt"})
        if named is None and with_base:
            with quiet_files():
                plain: Any = sharing_copy(model, model)
                remove_adapter(plain)
                plain.save_pretrained(directory / BASE)
    finally:
        config.base_model_name_or_path = named


# --- Within ------------------------------------------------------------------------------------------------------------


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs PEFT: pip install 'textenv[lora]'") from error
    return peft


def _config(lora: Any, model: Any) -> Any:
    kind = _peft().LoraConfig
    if isinstance(lora, kind):
        config = copy.deepcopy(lora)
    elif isinstance(lora, Mapping) or (isinstance(lora, int) and not isinstance(lora, bool)):
        given = {"r": lora} if isinstance(lora, int) else dict(lora)
        rank = given.setdefault("r", 8)
        if rank < 1:
            raise ValueError(f"the rank of LoRA must be at least 1, got {rank}")
        encoder = bool(getattr(model.config, "is_encoder_decoder", False))
        defaults = {
            "lora_alpha": 2 * rank, "target_modules": "all-linear", "task_type": "SEQ_2_SEQ_LM" if encoder else "CAUSAL_LM",
            "fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 keeps W transposed
        }  # fmt: skip
        config = kind(**{**defaults, **given})
    else:
        raise TypeError(f"lora takes a rank, a dict of LoraConfig's arguments or a LoraConfig, got {lora!r}")
    _check(config)
    return config


def _check(config: Any) -> None:
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        raise ValueError(f"the adapter is of the kind {config.peft_type}; LoRA alone is known here")
    if config.bias != "none":
        raise ValueError(f"bias={config.bias!r} trains the base itself, which is the reference; use bias='none'")
    if config.init_lora_weights not in (True, False, "gaussian"):
        raise ValueError(
            f"init_lora_weights={config.init_lora_weights!r} may change the base, which is the reference; use True or 'gaussian'"
        )
    if getattr(config, "trainable_token_indices", None):
        raise ValueError("trainable_token_indices is not known here; use modules_to_save=['embed_tokens'] or the like")


def _is_adapter_weight(name: str) -> bool:
    return any(part.startswith(("lora_", "modules_to_save")) for part in name.split("."))


def _layers(model: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]


def _replace(model: Any, *, merge: bool) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = set(map(id, _layers(model)))
    for name, module in list(model.named_modules()):
        if id(module) not in layers:
            continue
        if isinstance(module, BaseTunerLayer):
            if merge:
                module.merge()
            plain = module.get_base_layer()
        else:  # a whole layer trained beside the original
            plain = module.modules_to_save[module.active_adapters[0]] if merge else module.original_module
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    del model.peft_config
    model._hf_peft_config_loaded = False
