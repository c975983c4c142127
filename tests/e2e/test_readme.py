"""The README's commands, in its order, as they stand: only training is cut short, and the port is a free one."""

import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.pages import NOT_RUN, README, ROOT, commands

COMMANDS = commands(README)
OFFICE = "../shared/data/amazon-office"
PORT = 8000


def test_make_targets_exist() -> None:
    targets = [command.split()[1] for command in COMMANDS if command in NOT_RUN]
    assert targets == ["demo", "test"]
    for target in targets:
        dry_run = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert dry_run.returncode == 0, dry_run.stderr


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / README).read_text(encoding="utf-8")):
        assert (ROOT / target).is_file(), target


def test_commands_on_real_data(tmp_path: Path) -> None:
    office = (ROOT / OFFICE).resolve()
    if not office.is_dir():
        pytest.skip(f"the README's data set is not at {OFFICE}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = [
        re.sub(rf"\b{PORT}\b", str(port), command.replace(OFFICE, str(office)))
        for command in COMMANDS
        if command not in NOT_RUN
    ]
    assert [command.split()[1] for command in told] == [
        "data",
        "bundle",
        "evaluate",
        "serve",
        "-s",
        "recommend",
    ]
    *before, serve, curl, client = map(shlex.split, told)
    for command in before:
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "office.json").read_text())["rows"]
    assert {row["method"]: row["recall@10"] for row in rows}["popularity"] == pytest.approx(0.0136, abs=5e-5)

    server = subprocess.Popen(
        [*argv(serve), "--port", str(port)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    lines = iter(server.stderr.readline, "")
    try:
        assert any(line.startswith("serving ") for line in lines)
        rest = threading.Thread(target=lambda: list(lines))
        rest.start()
        answer = json.loads(subprocess.run(curl, capture_output=True, text=True, check=True).stdout)
        assert len({item["item_id"] for item in answer["items"]}) == 10
        assert all(item["title"] for item in answer["items"])
        done = run([*client, "--url", f"http://127.0.0.1:{port}"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert answer["items"][0]["title"] in done.stdout
    finally:
        server.terminate()
        assert server.wait(timeout=60) == 0
        rest.join()
        server.stderr.close()


def argv(command: list[str]) -> list[str]:
    assert command[0] == "padrec"
    return [sys.executable, "-m", "service.cli", *command[1:]]


def run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    short = ["--steps", "5"] if command[1:3] == ["bundle", "build"] else []
    return subprocess.run(
        [*argv(command), *short], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )
