"""The worker's side of the internal protocol: a shell that translates, around a handler that decides."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service.rpc.answering import Answering, Handler, as_told
from service.rpc.generated.padrec.worker.v1 import worker_pb2, worker_pb2_grpc
from service.rpc.listen import UNIX, add_port, join_host_port, split_host_port
from service.rpc.messages import (
    description_to_message,
    items_to_message,
    list_to_message,
    request_from_message,
)
from service.rpc.status import code_of, metadata_of
from service.rpc.tls import ServerTls
from service.types import DecodedList

_SERVICES = ("", "padrec.worker.v1.Worker")
_OPTIONS = (
    # Otherwise two workers share a port without a word.
    ("grpc.so_reuseport", 0),
    # Lets gateways ask a silent connection every few seconds.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    # A gateway connects anew from time to time, when its calls are answered, and so learns of workers that came since.
    ("grpc.max_connection_age_ms", 60_000),
)


# By the metadata of a call, but for what is binary.
Around = Callable[[Mapping[str, str]], AbstractContextManager[object]]


class WorkerServer:
    """Listens from `start` on, takes requests between `serve` and `drain`.

    Args:
        listen: `host:port` (port 0: any free one) or `unix:PATH` (a socket that nobody serves is replaced).
        tls: None: without TLS, as always on a Unix socket.
        around: what each request for a list is answered in; it is given the metadata that came along.
    """

    def __init__(self, listen: str, tls: ServerTls | None = None, around: Around | None = None) -> None:
        self._listen, self._tls = listen, tls
        self._server = grpc.aio.server(options=_OPTIONS)
        self._answering = Answering()
        self._servicer = _Servicer(self._answering, around or (lambda _metadata: nullcontext()))
        self._health = health.aio.HealthServicer()

    async def start(self) -> str:
        """Listen, as not serving; returns the address to call.

        Raises:
            InputError: the address is malformed or in use, or a file of its TLS cannot be used.
        """
        port = add_port(self._server, self._listen, self._tls)
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        worker_pb2_grpc.add_WorkerServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self._server.start()
        if self._listen.startswith(UNIX):
            return self._listen
        host, _ = split_host_port(self._listen)
        return join_host_port(host, port)

    async def serve(self, handler: Handler) -> None:
        """Take requests from now on."""
        self._answering.begin(handler)
        await self._report(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Take no more requests; those that were taken still get their reply."""
        # Those who watch its health turn to other workers before they are refused.
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._answering.end()

    async def stop(self, grace: float) -> None:
        """Close; calls that are not done after `grace` seconds are cancelled."""
        await self._server.stop(grace)

    async def _report(self, status: int) -> None:
        for service in _SERVICES:
            await self._health.set(service, status)


class _Servicer:
    """The calls of `proto/padrec/worker/v1/worker.proto`."""

    def __init__(self, answering: Answering, around: Around) -> None:
        self._answering, self._around = answering, around

    async def Decode(  # noqa: N802
        self, message: worker_pb2.DecodeRequest, context: Any
    ) -> worker_pb2.DecodeReply:
        try:
            with self._around(_metadata(context)):
                handler, serves = self._answering.handler_of(message.catalog_version)
                decoded = await handler.decode(request_from_message(message), _deadline(context))
        except Exception as error:
            await _abort(context, error)
        return list_to_message(decoded, serves.model_version)

    async def DecodeStream(  # noqa: N802
        self, message: worker_pb2.DecodeRequest, context: Any
    ) -> AsyncIterator[worker_pb2.DecodeUpdate]:
        try:
            with self._around(_metadata(context)):
                handler, serves = self._answering.handler_of(message.catalog_version)
                # Closed at once when the caller goes away, so that the request is dropped.
                async with aclosing(
                    handler.decode_stream(request_from_message(message), _deadline(context))
                ) as updates:
                    async for update in updates:
                        if isinstance(update, DecodedList):
                            yield worker_pb2.DecodeUpdate(done=list_to_message(update, serves.model_version))
                        else:
                            yield worker_pb2.DecodeUpdate(items=items_to_message(update))
        except Exception as error:
            await _abort(context, error)

    async def Describe(  # noqa: N802
        self, message: worker_pb2.DescribeRequest, context: Any
    ) -> worker_pb2.DescribeReply:
        try:
            return description_to_message(self._answering.handler().describe())
        except Exception as error:
            await _abort(context, error)


def _deadline(context: Any) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + float(remaining)


def _metadata(context: Any) -> dict[str, str]:
    return {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}


async def _abort(context: Any, error: Exception) -> NoReturn:
    told = as_told(error)
    await context.abort(code_of(told), str(told), metadata_of(told))
    raise AssertionError("abort raises")
