"""`padrec demo --once`, as a newcomer's first command: from nothing to a recommendation, twice."""

import asyncio
import json
import os
from pathlib import Path

from service.catalog.bundle import Bundle
from service.config import HistorySettings
from service.history.opening import open_store


def test_once_prints_a_recommendation_and_exits(padrec_process, tmp_path: Path) -> None:
    first = padrec_process("demo", "--once", "--steps", 5, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert len({item["title"] for item in answer["items"]}) == 10
    assert answer["fallback"] is None
    assert {path.name for path in (tmp_path / ".demo").iterdir()} >= {"shop", "bundle", "history.sqlite3"}

    second = padrec_process("demo", "--once", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert [item["item_id"] for item in json.loads(second.stdout)["items"]] == [
        item["item_id"] for item in answer["items"]
    ]
    assert second.stderr == ""


def test_prepared_for_a_service_of_several_processes(padrec_process, tmp_path: Path) -> None:
    history = {"PADREC_HISTORY__URL": f"sqlite:///{tmp_path}/history.sqlite3"}
    prepare = ("demo", "--prepare", "--dir", tmp_path / "demo", "--steps", 5)
    done = padrec_process(*prepare, env=os.environ | history)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/demo/bundle can be served" in done.stderr
    Bundle.open(tmp_path / "demo" / "bundle")
    assert stored("user-00000", history)
    before = (tmp_path / "demo" / "bundle" / "manifest.json").read_bytes()
    assert padrec_process(*prepare, env=os.environ | history).returncode == 0
    assert (tmp_path / "demo" / "bundle" / "manifest.json").read_bytes() == before


def stored(user: str, environment: dict[str, str]) -> list[str]:
    store = open_store(HistorySettings(url=environment["PADREC_HISTORY__URL"]))

    async def read() -> list[str]:
        try:
            return list(await store.get(user))
        finally:
            await store.close()

    return asyncio.run(read())


def test_once_and_prepared_contradict_each_other(padrec) -> None:
    done = padrec("demo", "--once", "--prepare")
    assert (done.returncode, done.stderr) == (
        2,
        "padrec: --once serves, and --prepare does not: give one of them\n",
    )
