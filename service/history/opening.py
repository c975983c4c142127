"""Which store a URL means."""

from pathlib import Path

from service.config import HistorySettings
from service.errors import InputError
from service.history.sqlite import SqliteHistoryStore
from service.history.store import HistoryStore

_SQLITE = "sqlite:///"
_REDIS = ("redis://", "rediss://", "unix://")


def open_store(settings: HistorySettings) -> HistoryStore:
    """Open the store of `settings.url`: `sqlite:///PATH` (four slashes for an absolute path) or Redis.

    Raises:
        InputError: the URL is of no known kind, or its file cannot be used.
    """
    if settings.url.startswith(_SQLITE) and (path := settings.url.removeprefix(_SQLITE)):
        return SqliteHistoryStore(Path(path), settings.max_items_per_user)
    if settings.url.startswith(_REDIS):
        # Here, for the embedded store saves the third of a second that loading redis-py takes.
        from service.history.redis import RedisHistoryStore

        return RedisHistoryStore(settings.url, settings.max_items_per_user)
    raise InputError("setting 'history.url': give sqlite:///PATH or redis://HOST:PORT/DB")
