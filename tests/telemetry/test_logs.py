import json
import logging
from typing import Any

import pytest
import structlog

from service.config import LogSettings
from service.telemetry.logs import configure_logging

pytestmark = pytest.mark.usefixtures("unchanged_logging")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_off_a_terminal_every_logger_writes_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    structlog.get_logger("service.gateway").info("gateway listening", url="http://x:1")
    logging.getLogger("uvicorn.error").warning("slow %s", "client")
    first, second = lines(capsys)
    assert first.pop("timestamp") <= second.pop("timestamp")
    assert first == {
        "event": "gateway listening",
        "url": "http://x:1",
        "level": "info",
        "logger": "service.gateway",
    }
    assert second == {"event": "slow client", "level": "warning", "logger": "uvicorn.error"}


def test_the_level_holds_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(level="warning"))
    structlog.get_logger("service").info("hidden")
    logging.getLogger("grpc").info("hidden")
    structlog.get_logger("service").error("shown")
    assert [line["event"] for line in lines(capsys)] == ["shown"]


def test_user_ids_are_dropped_from_events_and_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json"))

    def fail(user_id: str) -> None:
        raise RuntimeError("it failed")

    logger = structlog.get_logger("service")
    user = "-".join(["ann", "17"])
    try:
        fail(user)
    except RuntimeError:
        logger.exception("failed", user_id=user)
        logging.getLogger("asyncio").exception("failed")
    first, second = lines(capsys)
    assert "RuntimeError: it failed" in first["exception"]
    assert "RuntimeError: it failed" in second["exception"]
    assert user not in json.dumps([first, second])


def test_the_console_format_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="console"))
    structlog.get_logger("service").info("worker started", pid=7)
    text = capsys.readouterr().err
    assert "worker started" in text
    assert "pid=7" in text
    assert not text.startswith("{")


def test_configuring_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(level="debug"))
    configure_logging(LogSettings())
    structlog.get_logger("service").info("once")
    structlog.get_logger("service").debug("never")
    assert [line["event"] for line in lines(capsys)] == ["once"]
