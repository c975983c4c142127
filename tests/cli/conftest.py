"""Running `padrec` as a user does, and a small real bundle that it built."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli import main

Done = "subprocess.CompletedProcess[str]"
Padrec = Callable[..., Done]


@pytest.fixture(scope="session")
def padrec() -> Padrec:
    """In this process: the libraries are loaded once."""

    def run(*args: object) -> Done:
        argv = ["padrec", *map(str, args)]
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", argv)
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def padrec_process() -> Padrec:
    """As a process of its own, for commands that serve."""

    def run(*args: object, **options) -> Done:
        command = [sys.executable, "-m", "service.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)

    return run


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of the public repositories: 60 items on two levels, 40 users who walk along them."""
    folder = tmp_path_factory.mktemp("source")
    semantic_ids = {str(item): [f"<a_{item // 8}>", f"<b_{item % 8}>"] for item in range(60)}
    interactions = {str(user): [(user * 3 + step) % 60 for step in range(5 + user % 4)] for user in range(40)}
    (folder / "semantic_ids.json").write_text(json.dumps(semantic_ids))
    (folder / "interactions.json").write_text(json.dumps(interactions))
    return folder


@pytest.fixture(scope="session")
def dataset(source: Path, padrec: Padrec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dataset") / "shop"
    done = padrec("data", "import", "semantic-id-json", source, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "40 users, 60 items" in done.stdout
    return out


@pytest.fixture(scope="session")
def bundle(dataset: Path, padrec: Padrec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    done = padrec("bundle", "build", dataset, "--preset", "tiny", "--steps", "6", "--out", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["tiny"]
    return out
