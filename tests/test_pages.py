"""Nothing that README, runbook and deploy.md print to be run is left out by the tests that run it."""

import re
from typing import Any

import pytest
import typer

from service.cli.app import app
from tests.pages import DEPLOY, NOT_RUN, README, ROOT, RUNBOOK, blocks, commands, shown

PAGES = (README, RUNBOOK, DEPLOY)


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_where_tests_find_them(page: str) -> None:
    assert {kind for kind, _ in blocks(page)} <= {"sh", "text", "toml"}
    fences = re.findall(r"^[ >]*```", (ROOT / page).read_text(encoding="utf-8"), flags=re.M)
    assert len(fences) == 2 * len(blocks(page))


def test_what_is_not_run_is_still_printed() -> None:
    assert set(NOT_RUN) <= {command for page in PAGES for command in commands(page)}


def test_what_programs_print_to_be_run() -> None:
    [of_demo] = shown(README)  # which tests/e2e/test_docs.py runs
    assert of_demo.startswith("curl ")
    assert not shown(RUNBOOK) + shown(DEPLOY)


@pytest.mark.parametrize("page", PAGES)
def test_commands_between_words_exist(page: str) -> None:
    for named in re.findall(r"`padrec ([^`]+)`", (ROOT / page).read_text(encoding="utf-8")):
        words = named.split()
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, named
