"""The gateway's side of the internal protocol."""

import json
from collections.abc import AsyncGenerator, Callable, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.rpc.generated.padrec.worker.v1 import worker_pb2, worker_pb2_grpc
from service.rpc.listen import UNIX
from service.rpc.messages import (
    WorkerDescription,
    description_from_message,
    items_from_messages,
    list_from_message,
    request_to_message,
)
from service.rpc.status import error_of
from service.rpc.target import target_of
from service.rpc.tls import ClientTls
from service.types import DecodedItem, DecodedList, DecodeRequest

READY_TIMEOUT = 1.0
WORKER_SERVICE = worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name

# Calls go in turn to all workers that say that they serve. Writing a list changes nothing, so a call whose worker went
# away is tried again, with another where there is one, until its deadline.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": WORKER_SERVICE},
    "methodConfig": [
        {
            "name": [{"service": WORKER_SERVICE}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A worker that was started again is found within a second, one that hangs without closing within ten.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    # A name is looked up again when a connection ends, but not more often than this.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
)


class WorkerClient:
    """Calls one worker, or several in turn; made and used inside one running event loop.

    Args:
        address: as `service.rpc.target` says. Nobody needs to listen there yet.
        catalog_version: of the bundle whose rows the caller speaks.
        tls: how to know the worker; None: without TLS, as always over a Unix socket.
        metadata: what goes along with a request for a list.

    Raises:
        InputError: the address is malformed, or a file of `tls` cannot be used.
    """

    def __init__(
        self,
        address: str,
        catalog_version: str,
        tls: ClientTls | None = None,
        metadata: Callable[[], Sequence[tuple[str, str]]] = tuple,
    ) -> None:
        self._catalog_version, self._metadata = catalog_version, metadata
        target = target_of(address)
        self._channel = (
            grpc.aio.insecure_channel(target, options=_OPTIONS)
            if tls is None or target.startswith(UNIX)
            else grpc.aio.secure_channel(target, tls.credentials(), options=(*_OPTIONS, *tls.options()))
        )
        self._worker = worker_pb2_grpc.WorkerStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def decode(self, request: DecodeRequest, *, timeout: float) -> tuple[DecodedList, str]:
        """Have a list written; cancelling the task that awaits this cancels the call.

        Args:
            request: what to write.
            timeout: seconds until the deadline; retries of an unavailable worker happen within it.

        Returns:
            The list, and the version of the model that wrote it.

        Raises:
            QueueFullError: the worker's queue is full.
            DeadlineExceededError: the time is over.
            UnavailableError: no worker answers, it is draining, or it serves another catalogue.
            PadrecError: anything else that the worker answers.
        """
        message = request_to_message(request, self._catalog_version)
        try:
            reply = await self._worker.Decode(message, timeout=timeout, metadata=self._metadata())
        except grpc.aio.AioRpcError as status:
            raise error_of(status) from status
        return list_from_message(reply, request.request_id), reply.model_version

    async def decode_stream(
        self, request: DecodeRequest, *, timeout: float
    ) -> AsyncGenerator[DecodedItem | tuple[DecodedList, str], None]:
        """As `decode`, and before its result the items as they are accepted.

        A worker that went away is asked again only while it has told nothing.
        """
        message = request_to_message(request, self._catalog_version)
        call = self._worker.DecodeStream(message, timeout=timeout, metadata=self._metadata())
        try:
            async for update in call:
                if update.WhichOneof("update") == "items":
                    for item in items_from_messages(update.items.items):
                        yield item
                else:
                    yield list_from_message(update.done, request.request_id), update.done.model_version
        except grpc.aio.AioRpcError as status:
            raise error_of(status) from status
        finally:
            call.cancel()

    async def ready(self) -> bool:
        """Whether the worker takes requests now; False too when it does not say so within a second."""
        request = health_pb2.HealthCheckRequest(service="")
        try:
            reply = await self._health.Check(request, timeout=READY_TIMEOUT)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def describe(self, *, timeout: float = READY_TIMEOUT) -> WorkerDescription:
        """What the worker serves and how busy it is; raises what `decode` raises."""
        try:
            reply = await self._worker.Describe(worker_pb2.DescribeRequest(), timeout=timeout)
        except grpc.aio.AioRpcError as status:
            raise error_of(status) from status
        return description_from_message(reply)

    async def close(self) -> None:
        """Close the connection; calls that still run are cancelled."""
        await self._channel.close()
