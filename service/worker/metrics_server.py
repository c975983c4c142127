"""`/metrics` of the worker, which has no HTTP server of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from service.errors import InputError

_log = structlog.get_logger(__name__)

_WAIT_SECONDS = 0.5


@contextmanager
def metrics_server(
    host: str, port: int | None, registry: CollectorRegistry, *, beside: bool = False
) -> Iterator[None]:
    """Serve a registry over HTTP while the block runs; port 0 takes any free one, None serves nothing.

    Args:
        host: where.
        port: where.
        registry: what.
        beside: another worker may have the port still; it is taken when that one has ended.

    Raises:
        InputError: the port is in use, or the host is not this machine's.
    """
    if port is None:
        yield
        return
    if not beside:
        stop = _serve(host, port, registry)
        try:
            yield
        finally:
            stop()
        return
    over = threading.Event()
    thread = threading.Thread(target=_serve_once_free, args=(host, port, registry, over), name="metrics")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _serve_once_free(host: str, port: int, registry: CollectorRegistry, over: threading.Event) -> None:
    while not over.is_set():
        try:
            stop = _serve(host, port, registry)
        except InputError:
            over.wait(_WAIT_SECONDS)
        else:
            over.wait()
            stop()


def _serve(host: str, port: int, registry: CollectorRegistry) -> Callable[[], None]:
    """Begin; what is returned ends it."""
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise InputError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
    _log.info("metrics listening", url=f"http://{host}:{server.server_port}/metrics")

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
