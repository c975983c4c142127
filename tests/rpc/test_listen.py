import socket
from pathlib import Path

import pytest

from service.errors import InputError
from service.rpc.listen import check_listen, listen_tcp, split_host_port


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("worker:65535", ("worker", 65535))],
)
def test_host_and_port(address: str, expected: tuple[str, int]) -> None:
    assert split_host_port(address) == expected


@pytest.mark.parametrize("address", ["", "here", "here:", ":80", "here:65536", "here:-1", "here:http"])
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        check_listen(address)


def test_a_port_in_use_is_one_line() -> None:
    with listen_tcp("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            check_listen(f"127.0.0.1:{port}")
    check_listen(f"127.0.0.1:{port}")


def test_an_unknown_host_is_one_line() -> None:
    with pytest.raises(InputError, match=r"cannot listen on no\.such\.host\.invalid:80"):
        listen_tcp("no.such.host.invalid", 80)


def test_a_foreign_address_is_one_line() -> None:
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1:0"):
        listen_tcp("192.0.2.1", 0)


def test_a_stale_socket_is_removed_and_a_served_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(InputError, match="another process serves it"):
            check_listen(f"unix:{path}")
        assert path.is_socket()
    check_listen(f"unix:{path}")
    assert not path.exists()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(InputError, match="is no socket"):
        check_listen(f"unix:{path}")
    assert path.read_text() == "mine"


def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than 103 bytes"):
        check_listen(f"unix:{tmp_path / ('s' * 100)}")
    with pytest.raises(InputError, match="no such folder"):
        check_listen("unix:/no/such/folder/s")
