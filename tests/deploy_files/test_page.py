"""docs/deploy.md names what there is."""

import re
import shlex
from pathlib import Path

import pytest

from tests.deploy_files.reading import BIN, ROOT, check_command, read_dockerfile
from tests.pages import NOT_RUN, shell

PAGE = (ROOT / "docs/deploy.md").read_text()


def test_commands_exist() -> None:
    named = re.findall(r"`(padrec [^`]+)`", PAGE)
    named += [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]
    commands = [shlex.split(line)[1:] for line in named if line.startswith("padrec ")]
    assert ["swap", "/bundles/next", "--worker", "dns:///padrec-worker-next:50051"] in commands
    for command in commands:
        if command[0] not in ("serve", "gateway", "worker", "bundle"):  # as words, without their arguments
            check_command(command)


def test_files_and_images_exist() -> None:
    for path in re.findall(r"`((?:deploy/k8s/|tests/)[a-z_0-9/.-]+)`|\]\((?:\.\./)?([A-Za-z_/.]+)\)", PAGE):
        name = next(filter(None, path))
        assert (ROOT / name).exists() or (ROOT / "docs" / name).exists(), name
    for name in re.findall(r"`((?:overlays|components|base)/[a-z/.-]+)`", PAGE):
        assert (ROOT / "deploy/k8s" / name).exists(), name
    for folder in re.findall(r"kubectl apply -k (\S+)", PAGE):
        assert (ROOT / folder / "kustomization.yaml").is_file()
    images = re.findall(r"^\| `([a-z-]+)` \| (?:`padrec|the same|any)", PAGE, re.MULTILINE)
    assert images == ["gateway", "worker", "worker-cuda", "tools"]
    assert set(images) <= set(read_dockerfile())


def test_secrets_are_those_of_the_manifests() -> None:
    text = "".join(file.read_text() for file in (ROOT / "deploy/k8s").rglob("*.yaml"))
    used = set(re.findall(r"secretName: ([a-z-]+)", text)) | set(
        re.findall(r"secretKeyRef: \{name: ([a-z-]+)", text)
    )
    assert used == set(re.findall(r"padrec-(?:keys|history|gateway-tls|worker-tls)", PAGE))


@pytest.mark.parametrize("command", [one for one in NOT_RUN if "kubectl" in one and " create " in one])
def test_kubectl_reads_its_commands(command: str, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[]")
    done = shell(f"{BIN}/{command} --dry-run=client", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" created (dry run)\n")
