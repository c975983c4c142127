"""`/metrics` of the worker, which has no HTTP server of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from service.errors import InputError

_log = structlog.get_logger(__name__)


@contextmanager
def metrics_server(host: str, port: int | None, registry: CollectorRegistry) -> Iterator[None]:
    """Serve a registry over HTTP while the block runs; port 0 takes any free one, None serves nothing.

    Raises:
        InputError: the port is in use, or the host is not this machine's.
    """
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise InputError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
    _log.info("metrics listening", url=f"http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
