"""An agent on disk: a directory that any tool reads, without pickle.

    config.json, model.safetensors, tokenizer files   the policy, as `save_pretrained` writes it
    adapter_config.json, adapter_model.safetensors    with LoRA, in place of the model; and base/, where its base has no name
    value_head.safetensors                            the value head
    optimizer.safetensors                             the optimizer's tensors
    NAME.safetensors                                  further networks of the agent (a critic), without what they share
    reference/                                        the reference, where it has no name to load it by again
    agent.json                                        class, version, settings, counters, generators

Where the reference is the base of a LoRA policy, it is not written at all. Nothing in the directory is run when it is
loaded. It is written beside its place and renamed, so that a failure leaves the last checkpoint whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import textenv
from textenv.agents import lora as adapters
from textenv.agents.agent_file import AGENT_FILE, agent_content
from textenv.agents.distributed.sharding import like
from textenv.agents.policy import LMPolicy
from textenv.agents.value_head import head_like
from textenv.models import quiet_files
from textenv.saving import atomic_directory

__all__ = ["load_networks", "load_optimizer", "load_policy", "load_reference", "save_agent"]


def save_agent(
    path: str | os.PathLike[str],
    *,
    kind: str,
    policy: LMPolicy,
    reference: LMPolicy | None,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    state: dict[str, Any],
    networks: Mapping[str, nn.Module] | None = None,
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write an agent.

    Args:
        path: the directory; a saved agent or model that stands there is replaced, at once; other files stay.
        kind: the class of the agent.
        state: settings and counters, JSON values.
        networks: what else it learns, by name; weights that are the policy's own objects are not written again.
        more: writes further files of the agent into the directory that it is given.
    """
    dtype = str(policy.model.dtype).removeprefix("torch.")
    head = {"agent": kind, "version": textenv.__version__, "temperature": policy.temperature, "dtype": dtype}
    head["gradient_checkpointing"], head["precision"] = policy.gradient_checkpointing, policy.precision
    head["frozen_layers"] = 0 if policy.frozen is None else policy.frozen.n
    if reference is not None:
        head["reference_temperature"] = reference.temperature
    shared = reference is not None and policy.adapted and reference.shares_base(policy)
    if shared and reference is not None:
        head["shared_reference"] = "adapter" if reference.adapted else "base"
    content = json.dumps({**head, **state}, indent=2)
    with atomic_directory(path, keep=True) as scratch, quiet_files():
        policy.write(scratch, Path(path))
        save_file({k: v.contiguous() for k, v in policy.value_head.state_dict().items()}, scratch / "value_head.safetensors")
        tensors = {f"{i}.{name}": value.contiguous() for i, name, value in _tensors(optimizer)}
        save_file({**tensors, "generator": generator.get_state()}, scratch / "optimizer.safetensors")
        for name, network in (networks or {}).items():
            save_file(_own(network, policy), scratch / f"{name}.safetensors")
        if reference is not None and shared and reference.adapted:
            adapters.save_adapter(reference.model, scratch / "reference", with_base=False)
        elif reference is not None and not shared and reference.source is None:
            (reference.merged() if reference.adapted else reference).model.save_pretrained(scratch / "reference")
        if more is not None:
            more(scratch)
        (scratch / AGENT_FILE).write_text(content, encoding="utf-8")


def load_policy(path: str | os.PathLike[str], **arguments: Any) -> LMPolicy:
    """The policy of a saved agent, with its value head. Arguments as for `LMPolicy`, device and dtype among them."""
    directory = Path(path)
    tokenizer = directory if any(directory.glob("tokenizer*")) else None
    kept = agent_content(directory)
    kept = {name: kept[name] for name in ("gradient_checkpointing", "frozen_layers") if name in kept}
    model = adapters.open_model(directory, dtype=arguments["dtype"], device=arguments["device"])
    policy = LMPolicy(model, tokenizer, **{**kept, **arguments})
    policy.value_head = head_like(load_file(directory / "value_head.safetensors", device=str(policy.device)), policy.device)
    return policy


def load_reference(path: str | os.PathLike[str], name: str | None, policy: LMPolicy, **arguments: Any) -> LMPolicy:
    """The frozen reference of a saved agent: by its name, or from the directory. Arguments as for `LMPolicy`."""
    kept = Path(path) / "reference"
    shared = agent_content(path).get("shared_reference")
    if shared == "base":
        return policy.base()
    if shared == "adapter":
        copied = policy.copy()
        adapters.load_adapter(copied.model, kept)
        return copied.requires_grad_(False).eval()
    model = adapters.open_model(kept if name is None else name, dtype=policy.model.dtype, device=policy.device)
    reference = LMPolicy(model, policy.tokenizer, **arguments)
    if policy.frozen is not None:
        policy.frozen.share(policy.model, reference.model)
        reference.frozen = policy.frozen
    reference.source = name
    return reference.requires_grad_(False).eval()


def load_optimizer(
    path: str | os.PathLike[str],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    order: Sequence[Tensor] | None = None,
) -> None:
    """Put the saved tensors into an optimizer, and the generator's state.

    Args:
        order: the parameters that the first saved tensors are of; what follows them is left out. Default: all are the optimizer's,
            in its order.

    Raises:
        ValueError: tensors of other parameters.
    """
    file = Path(path) / "optimizer.safetensors"
    tensors = load_file(file)
    generator.set_state(tensors.pop("generator"))
    content = optimizer.state_dict()
    content["state"] = {}
    learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    place = {id(parameter): i for i, parameter in enumerate(learned)}
    saved = learned if order is None else order
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        if order is not None and int(index) >= len(order):
            continue
        parameter = saved[int(index)] if int(index) < len(saved) else None
        if parameter is None or (value.dim() and value.shape != parameter.shape):
            wanted = "nothing of that number" if parameter is None else f"a parameter of shape {tuple(parameter.shape)}"
            raise ValueError(
                f"{file} holds {name} of shape {tuple(value.shape)}, but the agent learns {wanted}: load it with the settings "
                "that it was saved with"
            )
        content["state"].setdefault(place[id(parameter)], {})[key] = like(value, parameter)
    optimizer.load_state_dict(content)


def load_networks(path: str | os.PathLike[str], networks: Mapping[str, nn.Module], policy: LMPolicy) -> None:
    """Put saved weights into further networks of an agent, made as they were when it was saved.

    Raises:
        ValueError: weights of other networks.
    """
    for name, network in networks.items():
        file = Path(path) / f"{name}.safetensors"
        found, own = load_file(file), _own(network, policy)
        if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in own.items()}:
            odd = sorted(found.keys() ^ own.keys())[:3]
            raise ValueError(f"{file} holds other weights than the agent's {name} has: {odd or 'of other shapes'}")
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(like(found[key], value))


def _own(network: nn.Module, policy: LMPolicy) -> dict[str, Tensor]:
    """The weights of a network that are not the policy's own objects."""
    theirs = set(map(id, policy.parameters()))
    return {name: p.detach() for name, p in network.named_parameters() if id(p) not in theirs}


def _tensors(optimizer: torch.optim.Optimizer) -> list[tuple[int, str, Tensor]]:
    state = optimizer.state_dict()["state"]
    return [(i, name, value) for i, entry in state.items() for name, value in entry.items()]
