"""Logs: one line per event on standard error, the same for padrec, uvicorn, grpc and the rest.

User IDs are never logged. Write `structlog.get_logger(__name__).info("what happened", name=value)`.
"""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.config import LogSettings


def configure_logging(settings: LogSettings) -> None:
    """Send all logs of this process to standard error; the last call counts.

    A terminal gets coloured text and everything else JSON lines, unless `settings.format` says which.
    """
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    first: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _drop_user_id,
    ]
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


def _drop_user_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.pop("user_id", None)
    return event
