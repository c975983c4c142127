"""The gateway as a process."""

import asyncio
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, ProcessCollector

from service.catalog.bundle import ITEMS, POPULAR, Bundle
from service.config import Settings
from service.errors import InputError
from service.gateway.edition import Edition
from service.gateway.grpc import GrpcServer
from service.gateway.keys import KeyRing
from service.gateway.recommender import Recommender
from service.gateway.rest import create_app
from service.gateway.swap import Connect, Swaps
from service.gateway.withdrawals import Withdrawals
from service.history.opening import open_store, open_withdrawals
from service.processes import LAUNCHER, beat, end_with_supervisor, keep_for_good
from service.rpc.client import WorkerClient
from service.rpc.listen import join_host_port, listen_tcp, listen_unix
from service.rpc.tls import ServerTls, server_tls, worker_client_tls
from service.telemetry.logs import configure_logging
from service.telemetry.metrics import GatewayMetrics
from service.telemetry.requests import sent_along
from service.telemetry.tracing import Tracing, open_tracing

_log = structlog.get_logger(__name__)

# Requests in flight may end after the signal to stop; the orchestrators' usual patience is 30 seconds.
DRAIN_SECONDS = 10
_POLL_SECONDS = 0.1


def run_gateway(bundle_path: Path, settings: Settings, *, sockets: list[socket.socket] | None = None) -> None:
    """Serve a bundle until SIGINT or SIGTERM, then answer what is in flight and return.

    Call it in the main thread, which is the one that gets signals.

    Args:
        bundle_path: only the catalogue and the popular list are read.
        settings: `gateway.worker` is required; the worker need not answer yet.
        sockets: bound sockets to serve on, closed at the end; None binds `gateway.host` and `gateway.port`.

    Raises:
        InputError: a setting is missing, the port is in use, or a file that a setting names cannot be used.
        BundleError: the bundle is torn.
    """
    configure_logging(settings.log)
    end_with_supervisor()
    if settings.gateway.worker is None:
        raise InputError("setting 'gateway.worker': give the workers' address, host:port or unix:PATH")
    with ExitStack() as stack:
        listeners = sockets or [listen_tcp(settings.gateway.host, settings.gateway.port)]
        for listener in listeners:
            stack.enter_context(listener)
        bundle = Bundle.open(bundle_path, only=[ITEMS, POPULAR])
        worker_tls = worker_client_tls(settings.gateway)

        def connect(address: str, catalog_version: str) -> WorkerClient:
            return WorkerClient(address, catalog_version, worker_tls, sent_along)

        asyncio.run(serve(bundle, settings, connect, settings.gateway.worker, listeners))


async def serve(
    bundle: Bundle,
    settings: Settings,
    connect: Connect,
    worker_address: str,
    listeners: list[socket.socket],
    *,
    on_listening: Callable[[], None] = lambda: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve a bundle until SIGINT or SIGTERM, or until `stop`, then answer what is in flight and return.

    Args:
        bundle: its catalogue and popular list are read.
        settings: all but where the workers are.
        connect: a client of the workers at an address.
        worker_address: of those that serve the bundle.
        listeners: bound sockets; closed at the end.
        on_listening: called when requests are taken.
        stop: once set, it ends, and signals are others' affair; None: signals end it, which the main thread gets.

    Raises:
        InputError: the gRPC port is in use, or a file that a setting names cannot be used.
        BundleError: the bundle is torn.
    """
    gateway = settings.gateway
    tls = server_tls(gateway)
    if tls is not None:
        tls.check()
    tracing = open_tracing(settings.tracing, "padrec-gateway")
    keys = None if gateway.keys_file is None else KeyRing(gateway.keys_file)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    store = open_store(settings.history)
    edition = Edition.read(bundle, connect(worker_address, bundle.manifest.catalog_version))
    metrics = GatewayMetrics(registry)
    withdrawals = Withdrawals(open_withdrawals(settings.history), gateway.max_withdrawn_items, metrics)
    recommender = Recommender(edition, store, withdrawals, gateway, metrics)
    swaps = Swaps(recommender, connect, os.environ.get(LAUNCHER))
    beating = asyncio.create_task(beat())
    try:
        await withdrawals.start()
        config = http_config(create_app(recommender, swaps, keys, tracing), gateway.idle_seconds, tls)
        grpc_server = await _grpc_server(recommender, keys, tls, tracing)
        await _Server(config, grpc_server, recommender, on_listening, stop).serve(listeners)
    finally:
        beating.cancel()
        await swaps.close()
        await recommender.edition.worker.close()
        await withdrawals.close()
        await store.close()
        tracing.close()


def http_config(app: FastAPI, idle_seconds: int, tls: ServerTls | None = None) -> uvicorn.Config:
    """How the gateway serves HTTP; a connection may be without requests for so many seconds."""
    certificates: dict[str, Any] = {}
    if tls is not None:
        certificates = {
            "ssl_certfile": tls.certificate,
            "ssl_keyfile": tls.key,
            "ssl_ca_certs": tls.client_ca,
            "ssl_cert_reqs": ssl.CERT_NONE if tls.client_ca is None else ssl.CERT_REQUIRED,
        }
    return uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,  # it would log user IDs
        server_header=False,
        timeout_keep_alive=idle_seconds,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        **certificates,
    )


async def _grpc_server(
    recommender: Recommender, keys: KeyRing | None, tls: ServerTls | None, tracing: Tracing
) -> GrpcServer | None:
    """One that takes calls, where the settings ask for it."""
    host, port = recommender.settings.host, recommender.settings.grpc_port
    if port is None:
        return None
    server = GrpcServer(recommender, join_host_port(host, port), keys, tls, tracing)
    _log.info("gRPC gateway listening", address=join_host_port(host, await server.start()))
    return server


class _Server(uvicorn.Server):
    """HTTP, and the gRPC server beside it: both end together."""

    def __init__(
        self,
        config: uvicorn.Config,
        grpc_server: GrpcServer | None,
        recommender: Recommender,
        on_listening: Callable[[], None],
        stop: asyncio.Event | None,
    ) -> None:
        super().__init__(config)
        self._grpc_server, self._recommender = grpc_server, recommender
        self._on_listening, self._stop = on_listening, stop

    async def on_tick(self, counter: int) -> bool:
        """Whether to end, asked ten times a second."""
        return await super().on_tick(counter) or (self._stop is not None and self._stop.is_set())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say no to who asks whether it is ready; then take no more requests, and finish those that run."""
        _log.info("gateway draining")
        self._recommender.is_draining = True
        over = []
        if self._grpc_server is not None:
            await self._grpc_server.drain()
            over.append(self._grpc_server.stop(DRAIN_SECONDS))
        await self._delay()
        await asyncio.gather(super().shutdown(sockets), *over)
        _log.info("gateway stopped")

    async def _delay(self) -> None:
        """Wait until those who ask for readiness have turned to others; a second signal ends it."""
        until = time.monotonic() + self._recommender.settings.drain_delay_seconds
        while time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(_POLL_SECONDS)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        local_socket = self._recommender.settings.local_socket
        if local_socket is not None:
            await self._serve_locally(local_socket)
        for listener in sockets or ():
            _log.info("gateway listening", url=_url(listener, "https" if self.config.is_ssl else "http"))
        keep_for_good()
        self._on_listening()

    async def _serve_locally(self, path: Path) -> None:
        """The same application on a Unix socket, without the TLS that the base class gives to all its sockets."""

        def protocol() -> asyncio.Protocol:
            kind: Any = self.config.http_protocol_class
            made: asyncio.Protocol = kind(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_unix_server(protocol, sock=listen_unix(path)))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As the base class does, but without raising the signal again at the end: `run_gateway` returns."""
        signals = (signal.SIGINT, signal.SIGTERM) if self._stop is None else ()
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _url(listener: socket.socket, scheme: str) -> str:
    address = listener.getsockname()
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"{scheme}://{join_host_port(host, port)}"
