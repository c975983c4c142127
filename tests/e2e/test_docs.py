"""The commands and programs of pages, as they stand; only training is cut short, and ports are free."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import DEPLOY, NOT_RUN, README, ROOT, blocks, commands, shell, shown

OFFICE = "../shared/data/amazon-office"
REST, GRPC = "http://127.0.0.1:8000", "127.0.0.1:9000"


def runnable(page: str) -> list[tuple[str, str]]:
    """Kind and text of what can be run, in its order."""
    return [(kind, text) for kind, text in blocks(f"docs/{page}") if kind in ("sh", "python")]


def run(kind: str, text: str, folder: Path) -> str:
    text = re.sub(r"^(padrec bundle build .*--preset.*)$", r"\1 --steps 3", text, flags=re.M)
    text = re.sub(r"^padrec ", f"{sys.executable} -m service.cli ", text, flags=re.M)
    text = re.sub(r"^python ", f"{sys.executable} ", text, flags=re.M)
    command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-euc", text]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", ["rest.md", "grpc.md", "events.md", "client.md"])
def test_what_callers_are_told_works(service, page: str, tmp_path: Path) -> None:
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    for kind, text in runnable(page):
        run(kind, text.replace(REST, service.url).replace(GRPC, service.grpc), tmp_path)


@pytest.mark.parametrize("page", ["catalogue.md", "model.md"])
def test_what_builders_are_told_works(page: str, tmp_path: Path) -> None:
    office = (ROOT / OFFICE).resolve()
    for kind, text in runnable(page):
        if OFFICE in text and not office.is_dir():
            pytest.skip(f"the page's data set is not at {OFFICE}")
        run(kind, text.replace(OFFICE, str(office)), tmp_path)


def test_what_operators_are_told_works(service, tmp_path: Path) -> None:
    for command in [*shown(README), *commands(DEPLOY)]:
        if command not in NOT_RUN:
            done = shell(command.replace(REST, service.url), tmp_path)
            assert done.returncode == 0, f"{command}{done.stderr}"
            assert done.stdout, command


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_linked_files_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
