"""The service as an application of Ray Serve: `serve run deploy/ray/one-machine.yaml`."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from deploy.ray.gateway import GatewayReplica
from deploy.ray.worker import WorkerReplica
from service.config import load_settings
from service.gateway.server import DRAIN_SECONDS as GATEWAY_DRAIN_SECONDS
from service.worker.worker import DRAIN_SECONDS as WORKER_DRAIN_SECONDS

# Beyond what a worker's own queue lets in, so that it is the worker which refuses, and says when to come back.
_MORE_REQUESTS = 64
# For what a drain takes besides.
_LAST_SECONDS = 4.0
_ALL: dict[str, Any] = {
    "health_check_period_s": 2,
    "health_check_timeout_s": 10,
    "graceful_shutdown_wait_loop_s": 0.1,
    # Our own logs say what becomes of requests.
    "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
}


class _Worker(WorkerReplica):
    # Serve awaits it at the replica's end.
    async def __del__(self) -> None:
        await self.end()


class _Gateway(GatewayReplica):
    # The same.
    async def __del__(self) -> None:
        await self.end()


class Arguments(BaseModel):
    """Of the application."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str = Field(description="the folder, at the same path on every machine")
    config: Path | None = Field(None, description="settings in TOML; PADREC_* variables win")


def app(arguments: Arguments) -> serve.Application:
    """Gateways before workers; how many there are, and what each gets of a machine, the YAML says.

    Raises:
        InputError: a setting is wrong.
    """
    settings = load_settings(arguments.config)
    room = settings.worker.max_batch + settings.worker.max_queue
    workers = serve.deployment(
        _Worker,
        name="Worker",
        max_ongoing_requests=room + _MORE_REQUESTS,
        graceful_shutdown_timeout_s=WORKER_DRAIN_SECONDS + _LAST_SECONDS,
        **_ALL,
    )
    gateways = serve.deployment(
        _Gateway,
        name="Gateway",
        graceful_shutdown_timeout_s=(
            settings.gateway.drain_delay_seconds + GATEWAY_DRAIN_SECONDS + _LAST_SECONDS
        ),
        **_ALL,
    )
    application: serve.Application = gateways.bind(
        arguments.bundle, settings, workers.bind(arguments.bundle, settings)
    )
    return application
