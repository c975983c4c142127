import time
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from service.errors import InputError
from service.worker.metrics_server import metrics_server
from tests.history.conftest import free_port


def registry(value: float) -> CollectorRegistry:
    made = CollectorRegistry()
    Gauge("value", "A value.", registry=made).set(value)
    return made


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_it_serves_while_the_block_runs() -> None:
    port = free_port()
    with metrics_server("127.0.0.1", port, registry(1)):
        assert "value 1.0" in scrape(port)
        with pytest.raises(InputError, match="in use"), metrics_server("127.0.0.1", port, registry(2)):
            pass
    with pytest.raises(urllib.error.URLError):
        scrape(port)


def test_beside_another_it_takes_the_port_when_that_has_ended() -> None:
    port = free_port()
    first = metrics_server("127.0.0.1", port, registry(1))
    first.__enter__()
    with metrics_server("127.0.0.1", port, registry(2), beside=True):
        assert "value 1.0" in scrape(port)
        first.__exit__(None, None, None)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert "value 2.0" in scrape(port)
                break
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    with pytest.raises(urllib.error.URLError):
        scrape(port)


def test_beside_another_that_never_ends_it_ends_without() -> None:
    port = free_port()
    with (
        metrics_server("127.0.0.1", port, registry(1)),
        metrics_server("127.0.0.1", port, registry(2), beside=True),
    ):
        assert "value 1.0" in scrape(port)
