"""A gateway as a replica of Ray Serve: the whole one, REST and gRPC on ports of its own, before Serve's workers."""

import asyncio
import socket
from pathlib import Path

from ray.serve.handle import DeploymentHandle

from deploy.ray.client import ServeWorkers
from deploy.ray.life import Life
from deploy.ray.ports import listen_from
from service.catalog.bundle import ITEMS, POPULAR, Bundle
from service.config import Settings
from service.gateway.server import serve
from service.telemetry.logs import configure_logging
from service.telemetry.requests import sent_along

# The application itself, beside names of others.
_OWN = ""


class GatewayReplica:
    """Listens by itself, so that callers meet the same gateway as without Ray.

    Args:
        bundle: the folder, on every machine.
        settings: all but where the workers are.
        workers: those of the same application.

    Raises:
        InputError, BundleError: what `service.gateway.server.run_gateway` raises; Serve tries again.
    """

    # Serve awaits it.
    async def __init__(  # type: ignore[misc]
        self, bundle: str, settings: Settings, workers: DeploymentHandle
    ) -> None:
        configure_logging(settings.log)
        opened = await asyncio.to_thread(Bundle.open, Path(bundle), only=[ITEMS, POPULAR])
        listener, settings = _listen(settings)

        def connect(_address: str, catalog_version: str) -> ServeWorkers:
            return ServeWorkers(workers, catalog_version, sent_along)

        listening, self._stop = asyncio.Event(), asyncio.Event()
        self._life = Life(
            serve(opened, settings, connect, _OWN, [listener], on_listening=listening.set, stop=self._stop)
        )
        await self._life.has_begun(listening)

    async def check_health(self) -> None:
        """For Serve, which replaces a replica where this raises."""
        self._life.check()

    async def __del__(self) -> None:
        """For Serve, at the replica's end: what runs is answered."""
        self._stop.set()
        await self._life.is_over()


def _listen(settings: Settings) -> tuple[socket.socket, Settings]:
    """A listener for REST, and settings whose gRPC port is as far from theirs as the listener's is."""
    gateway = settings.gateway
    listener = listen_from(gateway.host, gateway.port)
    if gateway.port and gateway.grpc_port:
        offset = listener.getsockname()[1] - gateway.port
        gateway = gateway.model_copy(update={"grpc_port": gateway.grpc_port + offset})
    return listener, settings.model_copy(update={"gateway": gateway})
