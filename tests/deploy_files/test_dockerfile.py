"""The Dockerfile is true to the code; `make lint` has hadolint read it."""

import fnmatch
import re
import shlex
import tomllib

import pytest

from tests.deploy_files.reading import (
    ROOT,
    USER,
    Stage,
    check_command,
    exec_form,
    read_dockerfile,
    settings_of,
)

STAGES = read_dockerfile()
IMAGES = ("gateway", "worker", "worker-cuda", "tools")
SERVING = IMAGES[:3]


@pytest.mark.parametrize("name", IMAGES)
def test_who_runs_and_how(name: str) -> None:
    stage = STAGES[name]
    assert stage.last("USER") == f"{USER}:{USER}"
    assert exec_form(stage.last("ENTRYPOINT")) == ["tini", "--", "padrec"]
    check_command(exec_form(stage.last("CMD")))
    assert any("org.opencontainers.image.title=" in labels for labels in stage.all("LABEL"))


def test_the_last_stage_is_the_gateway() -> None:
    assert list(STAGES)[-1] == "gateway"


@pytest.mark.parametrize("name", SERVING)
def test_every_setting_exists_and_every_port_is_theirs(name: str) -> None:
    stage = STAGES[name]
    settings = settings_of(stage.settings)
    if name == "gateway":
        assert settings.gateway.host == "0.0.0.0"
        assert stage.ports == {settings.gateway.port, settings.gateway.grpc_port}
        assert settings.history.url.startswith("sqlite:////var/lib/padrec/")
    else:
        host, _, port = settings.worker.listen.rpartition(":")
        assert (host, settings.worker.metrics_host) == ("0.0.0.0", "0.0.0.0")
        assert stage.ports == {int(port), settings.worker.metrics_port}


@pytest.mark.parametrize("name", SERVING)
def test_health_is_asked_of_where_it_listens(name: str) -> None:
    stage = STAGES[name]
    options, _, command = (stage.last("HEALTHCHECK") or "").partition("CMD ")
    assert "--start-period=" in options
    asked = exec_form(command)
    assert asked[0] == "padrec"
    check_command(asked[1:])
    settings = settings_of(stage.settings)
    port = settings.gateway.port if name == "gateway" else settings.worker.listen.rpartition(":")[2]
    assert asked[-1].endswith(f"127.0.0.1:{port}")


def test_torch_is_where_it_is_needed_alone() -> None:
    def says(stage: Stage, word: str) -> bool:
        return any(word in line for line in stage.all("RUN"))

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in IMAGES:
        [copied] = [line for line in STAGES[name].all("COPY") if line.startswith("--from=")]
        source = copied.removeprefix("--from=").split()[0]
        assert source == f"installed-{name}"
        installed = STAGES[source]
        assert says(installed, "torch") == (name != "gateway")
        for line in installed.all("RUN"):
            # What comes from the usual index comes in the versions that the tests ran with.
            assert "pip install" not in line or "/dist/" in line or "-c constraints.txt" in line
            extras = [extra for found in re.findall(r"\'\.\[(.*?)\]\'", line) for extra in found.split(",")]
            assert set(extras) <= set(known)
    assert "/cpu" in (STAGES["requirements-worker"].last("ARG") or "")
    assert "/cu" in (STAGES["requirements-worker-cuda"].last("ARG") or "")
    pins = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
    ]
    assert len(pins) == 1


def test_what_is_copied_is_here_and_let_through() -> None:
    let_through = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    ]
    for stage in STAGES.values():
        for line in stage.all("COPY"):
            if line.startswith("--from="):
                continue
            for source in shlex.split(line)[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, pattern) for pattern in let_through), source
