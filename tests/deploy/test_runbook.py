"""The commands of docs/runbook.md as they stand; only ports, and the bundle that is rolled back to, are the tests' own.

Slow: a bundle is swapped.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.deploy.conftest import Monitored
from tests.deploy.files import ROOT, alerts, headings
from tests.history.conftest import RedisServer, redis_server
from tests.pages import NOT_RUN, RUNBOOK, commands, shell

__all__ = ["redis_server"]  # the fixture

pytestmark = pytest.mark.slow

# A list that the runbook asks for is not to be refused for the traffic beside it.
MAX_QUEUE = "256"

PAGE = (ROOT / RUNBOOK).read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.M | re.S)
}


def test_all_its_commands_stand_in_sections() -> None:
    run = [line for section in SECTIONS.values() for text in section for line in text.splitlines()]
    assert run == commands(RUNBOOK)
    assert set(run).isdisjoint(NOT_RUN)


@pytest.mark.parametrize("title", [title for title, texts in SECTIONS.items() if texts])
def test_its_commands_work(
    monitored: Monitored, bundle: Path, redis_server: RedisServer, tmp_path: Path, title: str
) -> None:
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "padrec-history.sqlite3").touch()
    own = {
        "127.0.0.1:8000": urlsplit(monitored.service.url).netloc,
        "127.0.0.1:8001": f"127.0.0.1:{monitored.worker_port}",
        "127.0.0.1:9090": urlsplit(monitored.url).netloc,
        "-p 6379": f"-p {redis_server.port}",
        "padrec recommend ann": f"padrec recommend ann --url {monitored.service.url}",
        "padrec swap /srv/bundles/2026-11-24": f"padrec swap {bundle} --url {monitored.service.url}",
    }
    for text in SECTIONS[title]:
        for theirs, ours in own.items():
            text = text.replace(theirs, ours)
        done = shell(text, tmp_path)
        assert done.returncode == 0, f"{text}{done.stdout}{done.stderr}"
        assert done.stdout or "VACUUM" in text, text


def test_every_alert_has_a_section_as_have_what_is_behind_several() -> None:
    assert {alert["alert"] for alert in alerts()} <= set(SECTIONS)
    assert {"Look first", "Disk full", "Redis down", "Roll back a bundle"} <= set(SECTIONS)


def test_its_links_lead_to_sections() -> None:
    for page, section in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", PAGE):
        assert section in headings(page or "runbook.md"), f"{page}#{section}"
