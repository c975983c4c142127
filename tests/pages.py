"""What the pages print that can be run. No test module."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, RUNBOOK, DEPLOY = "README.md", "docs/runbook.md", "docs/deploy.md"

# Printed commands that no test runs as they stand, and why. All others of README, RUNBOOK and DEPLOY are run.
NOT_RUN: Mapping[str, str] = {
    "make demo": "serves until it is stopped; its `padrec demo` is run by tests/e2e/test_demo.py",
    "make test": "runs these tests",
    "docker compose up --build --detach": "needs Docker",
    "kubectl create namespace padrec": "needs a cluster; run with --dry-run=client",
    "kubectl -n padrec create secret generic padrec-keys --from-file=keys.json": "needs a cluster; "
    "run with --dry-run=client",
    "kubectl -n padrec create secret generic padrec-history "
    "--from-literal=url=rediss://padrec:PASSWORD@redis.example.com:6379/0": "needs a cluster; "
    "run with --dry-run=client",
    "kubectl apply -k deploy/k8s/overlays/cpu": "needs a cluster; tests/deploy_files builds it and reads the objects",
    "kubectl apply -k deploy/k8s/demo": "needs a cluster; tests/deploy_files builds it and reads the objects",
    "kubectl -n padrec rollout status deployment/padrec-gateway": "needs a cluster",
    "padrec demo --prepare": "trains for minutes; `padrec demo` is run by tests/e2e/test_demo.py",
    "serve run --address local deploy/ray/one-machine.yaml": "serves until it is stopped; tests/e2e/test_ray.py runs "
    "it with free ports",
}

_PROGRAMS = ("padrec", "make", "curl", "python", "promtool", "redis-cli", "docker", "kubectl", "git", "pip")

# As if it were installed; a step of a pipe that fails, fails.
_START = f"""
padrec() {{ "{sys.executable}" -m service.cli "$@"; }}
python() {{ "{sys.executable}" "$@"; }}
set -eo pipefail
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """Kind and text of what stands between fences, in its order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^[ >]*```([^\n]*)\n(.*?)^[ >]*```$", text, flags=re.M | re.S)


def commands(page: str) -> list[str]:
    """What it tells a shell, line by line."""
    return [line for kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]


def shown(page: str) -> list[str]:
    """Commands in what programs print."""
    lines = [line.strip() for kind, text in blocks(page) if kind != "sh" for line in text.splitlines()]
    return [line for line in lines if line.startswith(tuple(f"{name} " for name in _PROGRAMS))]


def shell(text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run commands in a folder; whether they succeed is the caller's to ask."""
    return subprocess.run(
        ["bash", "-c", _START + text], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
