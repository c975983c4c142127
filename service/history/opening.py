"""Which store a URL means."""

from pathlib import Path

from service.config import HistorySettings
from service.errors import InputError
from service.history.breaker import Breaker
from service.history.sqlite import SqliteHistoryStore
from service.history.sqlite_withdrawals import SqliteWithdrawals
from service.history.store import HistoryStore
from service.history.withdrawals import WithdrawalStore

_SQLITE = "sqlite:///"
_REDIS = ("redis://", "rediss://", "unix://", "redis+", "rediss+")


def open_store(settings: HistorySettings) -> HistoryStore:
    """Open the store of `settings.url`: `sqlite:///PATH` (four slashes for an absolute path) or Redis, with a breaker.

    Raises:
        InputError: the URL is of no known kind, or its file cannot be used.
    """
    remember_seconds = 60 * settings.remember_minutes
    if settings.url.startswith(_SQLITE) and (path := settings.url.removeprefix(_SQLITE)):
        if settings.expire_days is not None:
            raise InputError("setting 'history.expire_days': sqlite keeps users until they are deleted")
        return SqliteHistoryStore(Path(path), settings.max_items_per_user, remember_seconds=remember_seconds)
    if settings.url.startswith(_REDIS):
        # Here, for the embedded store saves the third of a second that loading redis-py takes.
        from service.history.redis import RedisHistoryStore

        return Breaker(
            RedisHistoryStore(
                settings.url,
                settings.max_items_per_user,
                timeout=settings.timeout_seconds,
                expire_days=settings.expire_days,
                remember_seconds=remember_seconds,
            )
        )
    raise InputError(
        "setting 'history.url': give sqlite:///PATH or redis://HOST:PORT/DB, or with rediss, +cluster or +sentinel"
    )


def open_withdrawals(settings: HistorySettings) -> WithdrawalStore:
    """Open the withdrawn items beside the histories; call it after `open_store`, and with the same settings.

    Raises:
        InputError: the file cannot be used.
    """
    if settings.url.startswith(_SQLITE):
        return SqliteWithdrawals(Path(settings.url.removeprefix(_SQLITE)))
    from service.history.redis_withdrawals import RedisWithdrawals

    return RedisWithdrawals(settings.url, settings.timeout_seconds)
