"""The JSON that benchmarks and evaluations write: what ran, on what, and its rows."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from service.files import write_json

PACKAGES = ("padrec", "torch", "transformers", "numpy")


def write_report(path: Path, command: str, device: torch.device, rows: list[dict[str, Any]]) -> None:
    """Write `{"command", "versions", "device", "rows"}`."""
    versions = {"python": platform.python_version(), **{name: _installed(name) for name in PACKAGES}}
    report = {"command": command, "versions": versions, "device": device_name(device), "rows": rows}
    write_json(path, report)


def _installed(name: str) -> str | None:
    """A package's version; None where it runs from a folder, which must not cost the rows."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """A device as a reader would name it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
