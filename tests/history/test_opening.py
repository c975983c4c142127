from pathlib import Path

import pytest

from service.config import HistorySettings
from service.errors import InputError
from service.history.breaker import Breaker
from service.history.opening import open_store
from service.history.sqlite import SqliteHistoryStore


async def test_the_url_chooses_the_store(tmp_path: Path) -> None:
    embedded = open_store(HistorySettings(url=f"sqlite:///{tmp_path}/history.sqlite3"))
    assert isinstance(embedded, SqliteHistoryStore)
    assert (tmp_path / "history.sqlite3").is_file()
    await embedded.close()
    shared = open_store(HistorySettings(url="redis://localhost:6379/0"))
    assert isinstance(shared, Breaker)
    await shared.close()


@pytest.mark.parametrize("url", ["", "sqlite:///", "sqlite://x", "postgresql://db", "history.sqlite3"])
def test_another_url_is_refused_with_the_ones_that_work(url: str) -> None:
    with pytest.raises(InputError, match=r"history\.url.*sqlite:///PATH or redis://"):
        open_store(HistorySettings(url=url))
