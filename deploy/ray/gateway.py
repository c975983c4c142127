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
from service.errors import InputError
from service.gateway.server import serve
from service.telemetry.logs import configure_logging
from service.telemetry.requests import sent_along

# In place of an address: the workers of the same application.
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
        self._listening, self._stop = asyncio.Event(), asyncio.Event()
        self._life = Life(self._serve(opened, settings, workers))
        await self._life.has_begun(self._listening)

    async def check_health(self) -> None:
        """For Serve, which replaces a replica where this raises."""
        self._life.check()

    async def end(self) -> None:
        """At the replica's end: what runs is answered."""
        self._stop.set()
        await self._life.is_over()

    async def _serve(self, bundle: Bundle, settings: Settings, workers: DeploymentHandle) -> None:
        def connect(address: str, catalog_version: str) -> ServeWorkers:
            if address != _OWN:
                raise InputError("with Ray Serve another bundle is another application; see docs/deploy.md")
            return ServeWorkers(workers, catalog_version, sent_along)

        listener, settings = _listen(settings)
        with listener:
            await serve(
                bundle,
                settings,
                connect,
                _OWN,
                [listener],
                on_listening=self._listening.set,
                stop=self._stop,
            )


def _listen(settings: Settings) -> tuple[socket.socket, Settings]:
    """A listener for REST, and settings whose gRPC port is as far from theirs as the listener's is."""
    gateway = settings.gateway
    listener = listen_from(gateway.host, gateway.port)
    if gateway.port and gateway.grpc_port:
        offset = listener.getsockname()[1] - gateway.port
        gateway = gateway.model_copy(update={"grpc_port": gateway.grpc_port + offset})
    return listener, settings.model_copy(update={"gateway": gateway})
