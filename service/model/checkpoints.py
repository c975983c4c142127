"""Training state on disk: a model, its optimisers and where it stood, in safetensors; replaced as a whole."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

_MODEL, _OPTIMIZER = "model.", "optimizer."


def save_state(path: Path, model: nn.Module, optimizers: Sequence[Optimizer], meta: dict[str, Any]) -> None:
    """Write one file that holds all of `meta` (JSON), the weights, and the optimisers' state by parameter name."""
    tensors = {f"{_MODEL}{name}": value.detach().contiguous() for name, value in model.named_parameters()}
    for optimizer in optimizers:
        names = _names(model, optimizer)
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"{_OPTIMIZER}{names[index]}:{key}"] = torch.as_tensor(value).contiguous()
    _write(path, tensors, {"meta": json.dumps(meta)})


def load_meta(path: Path) -> dict[str, Any] | None:
    """What `save_state` was given, or None where there is no readable state."""
    try:
        with safe_open(path, framework="pt") as file:
            meta: dict[str, Any] = json.loads(file.metadata()["meta"])
            return meta
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def load_state(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Put the saved weights and optimisers' state into `model` and `optimizers`, built as they were then."""
    with safe_open(path, framework="pt") as file:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"{_MODEL}{name}"))
        kept: dict[str, dict[str, torch.Tensor]] = {}
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            if key.startswith(_OPTIMIZER):
                name, field = key.removeprefix(_OPTIMIZER).rsplit(":", 1)
                kept.setdefault(name, {})[field] = file.get_tensor(key)
    for optimizer in optimizers:
        state = {index: kept[name] for index, name in enumerate(_names(model, optimizer)) if name in kept}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the parameters alone; `load_weights` puts them back."""
    _write(path, {name: value.detach().contiguous() for name, value in model.named_parameters()})


def load_weights(path: Path, model: nn.Module) -> None:
    """Put saved weights into `model`, built as it was then."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(name))


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    save_file(tensors, scratch, metadata=metadata)
    scratch.rename(path)


def _names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the parameters in the optimiser's order, which its groups decide."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
