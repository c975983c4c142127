"""Addresses, checked before gRPC listens on them: gRPC says little, and replaces sockets that are in use."""

import os
import socket
import stat
from pathlib import Path

import grpc

from service.errors import InputError
from service.rpc.tls import ServerTls

UNIX = "unix:"
# sockaddr_un holds 108 bytes on Linux, 104 elsewhere, the final zero included.
MAX_UNIX_PATH_BYTES = 103


def check_listen(address: str) -> None:
    """Check that `address`, `host:port` or `unix:PATH`, is free; a socket file that nobody serves is removed.

    Raises:
        InputError: the address is malformed, in use, or not this machine's.
    """
    if address.startswith(UNIX):
        _check_unix(Path(address.removeprefix(UNIX)))
    else:
        listen_tcp(*split_host_port(address)).close()


def split_host_port(address: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port` as host and port.

    Raises:
        InputError: it is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"'{address}' is no address: expected host:port or unix:PATH")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_host_port(host: str, port: int) -> str:
    """The other way round."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def add_port(server: grpc.aio.Server, address: str, tls: ServerTls | None = None) -> int:
    """Have a gRPC server that is not started yet listen on `address`; returns the port, where it has one.

    A Unix socket never speaks TLS.

    Raises:
        InputError: as `check_listen`, or a file of `tls` cannot be used.
    """
    check_listen(address)
    try:
        if tls is None or address.startswith(UNIX):
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, tls.credentials()))
    except RuntimeError as error:
        raise InputError(f"cannot listen on {address}") from error


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket on `host` and `port`; port 0 takes any free one.

    Raises:
        InputError: the port is in use, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen()  # with SO_REUSEADDR, a port that another socket listens on may be refused only here
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from error
    return listener


def listen_unix(path: Path) -> socket.socket:
    """A listening Unix socket that only processes of this user may use; one that nobody serves is replaced.

    Raises:
        InputError: the path cannot be used, or is in use.
    """
    _check_unix(path)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(mask)
    return listener


def _check_unix(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise InputError(f"cannot listen on {path}: longer than {MAX_UNIX_PATH_BYTES} bytes")
    if not path.parent.is_dir():
        raise InputError(f"cannot listen on {path}: no such folder: {path.parent}")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise InputError(f"cannot listen on {path}: it exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise InputError(f"cannot listen on {path}: another process serves it")
