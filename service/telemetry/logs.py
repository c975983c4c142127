"""Logs: one line per event on standard error, the same for padrec, uvicorn, grpc and the rest.

Write `structlog.get_logger(__name__).info("what happened", name=value)`. User IDs are not logged, but in one line, that
of a request at debug, and there only where `log.user_ids` asks for them: `about` collects them.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.config import LogSettings

_USERS = ("user_id", "user_ids")

_about: ContextVar[list[str] | None] = ContextVar("about", default=None)


def configure_logging(settings: LogSettings) -> None:
    """Send all logs of this process to standard error; the last call counts.

    A terminal gets coloured text and everything else JSON lines, unless `settings.format` says which.
    """
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not settings.user_ids:
        first.append(_drop_users)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # Records of the standard library; those of structlog went through the same before.
            foreign_pre_chain=first,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last(console)],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *first,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _last(console: bool) -> list[Processor]:
    # Plain tracebacks: the richer ones print local variables, and with them user IDs.
    if console:
        return [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _drop_users(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name in _USERS:
        event.pop(name, None)
    return event


@contextmanager
def one_request() -> Iterator[list[str]]:
    """Around a request: the list that `about` adds to, whichever of its tasks calls that."""
    users: list[str] = []
    _about.set(users)
    try:
        yield users
    finally:
        _about.set(None)  # no reset: a stream that is given up may end in another task


def about(user_ids: Iterable[str]) -> None:
    """Tell whom the request that is answered now is about."""
    users = _about.get()
    if users is not None:
        users.extend(user_ids)
