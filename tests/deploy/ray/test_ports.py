import socket

import pytest

from deploy.ray import ports
from deploy.ray.ports import listen_from
from service.errors import InputError
from tests.history.conftest import free_port, is_free


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def test_the_next_port_where_one_is_taken() -> None:
    first = free_port()
    while not is_free(first + 1):
        first = free_port()
    with listen_from("127.0.0.1", first) as one, listen_from("127.0.0.1", first) as two:
        assert (port_of(one), port_of(two)) == (first, first + 1)


def test_any_port() -> None:
    with listen_from("127.0.0.1", 0) as one, listen_from("127.0.0.1", 0) as two:
        assert port_of(one) != port_of(two)


def test_none_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_NUM_PORTS", 0)
    with listen_from("127.0.0.1", 0) as taken, pytest.raises(InputError, match="in use"):
        listen_from("127.0.0.1", port_of(taken))


def test_not_this_machine() -> None:
    with pytest.raises(InputError, match=r"192\.0\.2\.1"):
        listen_from("192.0.2.1", 0)
