"""A Redis that is killed, paused and started again while lists are asked for and events come in."""

import signal
from pathlib import Path

import httpx
import pytest

from tests.e2e.traffic import Traffic
from tests.history.conftest import RedisServer, redis_server

__all__ = ["redis_server"]  # the fixture

pytestmark = pytest.mark.fault


def test_lists_go_on_and_no_acknowledged_event_is_lost(
    serve, bundle: Path, redis_server: RedisServer, tmp_path: Path, tell
) -> None:
    settings = {
        "PADREC_HISTORY__URL": f"redis://127.0.0.1:{redis_server.port}",
        "PADREC_HISTORY__TIMEOUT_SECONDS": "0.2",
    }

    def pause() -> None:
        assert redis_server.process is not None
        redis_server.process.send_signal(signal.SIGSTOP)

    def go_on() -> None:
        assert redis_server.process is not None
        redis_server.process.send_signal(signal.SIGCONT)

    with serve(bundle, tmp_path / "unused", **settings) as service:
        for name, fails, recovers in (
            ("killed", redis_server.kill, redis_server.start),
            ("paused", pause, go_on),
        ):
            traffic = Traffic(service.url, name)
            with traffic.running(*[traffic.ask_of_stored] * 2, *[traffic.record] * 2):
                traffic.goes_on(service)
                fails()
                service.wait_until(lambda traffic=traffic: traffic.events[503] > 5 and traffic.degraded > 5)
                checks = httpx.get(f"{service.url}/health/ready").json()["checks"]
                assert checks == {"worker": True, "history_store": False}
                recovers()
                traffic.goes_on(service)
                service.wait_until(lambda traffic=traffic: not traffic.is_degraded)
                service.wait_until(service.is_ready)
            tell(f"Redis {name}", traffic, service.url)
            assert set(traffic.lists) == {200}
            assert set(traffic.events) == {200, 503}
