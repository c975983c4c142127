"""What the deployment's files say, in the words of the code. No test module."""

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer

from service.cli.app import app
from service.config import Settings, load_settings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
USER = "10001"


@dataclass
class Stage:
    """A stage of the Dockerfile, with what it has from those that it is made on.

    Attributes:
        instructions: its own, each with its arguments in one line.
    """

    name: str
    base: "Stage | None"
    env: dict[str, str] = field(default_factory=dict)
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str | None:
        """The arguments of an instruction that replaces the ones before it."""
        own = [arguments for name, arguments in self.instructions if name == instruction]
        if own:
            return own[-1]
        return None if self.base is None else self.base.last(instruction)

    def all(self, instruction: str) -> list[str]:
        own = [arguments for name, arguments in self.instructions if name == instruction]
        return [*([] if self.base is None else self.base.all(instruction)), *own]

    @property
    def settings(self) -> dict[str, str]:
        return {name: value for name, value in self.env.items() if name.startswith("PADREC_")}

    @property
    def ports(self) -> set[int]:
        return {int(port) for line in self.all("EXPOSE") for port in line.split()}


def read_dockerfile() -> dict[str, Stage]:
    """By name, in their order."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, arguments = line.partition(" ")
        arguments = " ".join(arguments.split())
        if instruction == "FROM":
            made_on, _, name = arguments.partition(" AS ")
            base = stages.get(made_on)
            stage = stages[name] = Stage(name, base, dict(base.env) if base else {})
        elif stage is not None:
            stage.instructions.append((instruction, arguments))
            if instruction == "ENV":
                stage.env.update(pair.split("=", 1) for pair in shlex.split(arguments))
    return stages


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that an environment gives; raises `InputError` for what is none."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return load_settings()


def check_command(argv: Iterable[str]) -> None:
    """Raise unless the command line takes this, `padrec` itself left out."""
    names = list(argv)
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and names and not names[0].startswith("-"):
        command = command.commands[names.pop(0)]
    if names != ["--help"]:
        command.make_context(command.name, names)


def exec_form(arguments: str | None) -> list[str]:
    """A command in the Dockerfile's exec form, which passes signals on."""
    assert arguments is not None
    found: list[str] = json.loads(arguments)
    return found
