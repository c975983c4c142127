"""A package of `service/` imports only from rows above its own; packages of one row do not import each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = Path(__file__).parent.parent / "service"

ROWS = [
    {"types", "errors", "config", "files", "processes"},
    {"catalog", "history", "telemetry", "rpc", "data"},
    {"model", "gateway"},
    {"engine", "training", "client"},
    {"worker", "evaluation"},
    {"build", "child", "control", "drafts", "launch", "cli", "prepared", "targets", "teachers"},
]
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}

# The gateway, and all it may import, stays free of torch; so does the command line until a command needs it.
TORCH = {"torch", "transformers"}
MAY_IMPORT_TORCH = {
    "model",
    "engine",
    "training",
    "worker",
    "evaluation",
    "build",
    "cli",
    "drafts",
    "targets",
    "teachers",
}


def imports(file: Path) -> set[str]:
    """Absolute names of every module that a file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def part_of(file: Path) -> str:
    return file.relative_to(SERVICE).parts[0].removesuffix(".py")


FILES = sorted(
    file
    for file in SERVICE.rglob("*.py")
    if "generated" not in file.parts and file != SERVICE / "__init__.py"
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SERVICE)))
def test_imports_only_from_rows_above(file: Path) -> None:
    own = part_of(file)
    assert own in ROW_OF, f"service/{own} stands in no row"
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "service" and len(parts) > 1 and parts[1] in ROW_OF and parts[1] != own:
            same_row_file = ROW_OF[own] in (0, 5)
            assert ROW_OF[parts[1]] < ROW_OF[own] or same_row_file, (
                f"service/{own} imports service.{parts[1]}"
            )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SERVICE)))
def test_torch_stays_behind_the_gateway(file: Path) -> None:
    top_level = {name.split(".")[0] for name in imports(file)}
    if part_of(file) not in MAY_IMPORT_TORCH:
        assert not TORCH & top_level


def test_gateway_and_command_line_start_without_torch() -> None:
    code = f"import sys, service.cli, service.gateway.server; sys.exit(bool({TORCH} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_client_is_light() -> None:
    heavy = TORCH | {"fastapi", "grpc", "numpy", "pyarrow", "starlette", "structlog", "uvicorn"}
    code = f"import sys, service.client; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SERVICE)))
def test_nothing_needs_ray(file: Path) -> None:
    assert "ray" not in {name.split(".")[0] for name in imports(file)}
