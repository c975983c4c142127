"""gRPC: translates `padrec.v1.Recommender` to the recommender and back, and nothing more."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import TypeAdapter, ValidationError

from service.errors import PadrecError, RequestError
from service.gateway.access import KeyInterceptor, charge_batch
from service.gateway.answer import Recommendation
from service.gateway.grpc_messages import (
    batch_from_message,
    events_from_message,
    item_to_message,
    query_from_message,
    recommendation_to_message,
    recommended_to_message,
)
from service.gateway.grpc_reading import ReadingInterceptor
from service.gateway.grpc_request_ids import RequestIdInterceptor, headers_of, id_metadata
from service.gateway.keys import KeyRing
from service.gateway.problems import (
    CLIENT_CLOSED_REQUEST,
    MAY_BE_TRIED_AGAIN,
    field_error_of,
    problem_of_any,
    problem_with_fields,
    seconds_to_retry,
)
from service.gateway.query import ItemId, UserId
from service.gateway.recommender import Recommender
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from service.rpc.listen import add_port
from service.rpc.tls import ServerTls
from service.telemetry.logs import one_request
from service.telemetry.requests import traced
from service.telemetry.tracing import Tracing

T = TypeVar("T")

SERVICE = pb.DESCRIPTOR.services_by_name["Recommender"].full_name
# Where google.rpc.Status travels, by gRPC's convention.
_DETAILS = "grpc-status-details-bin"
_HEALTH_SECONDS = 1.0
_MOST_FIELDS, _LONGEST = 10, 200  # details travel as metadata, which may not be large

# By the status that REST gives.
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CLIENT_CLOSED_REQUEST: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# The service's own, for a trace.
_FAULTS = tuple(code for status, code in _CODES.items() if status >= 500)
_USER_ID: TypeAdapter[str] = TypeAdapter(UserId)
_ITEM_ID: TypeAdapter[str] = TypeAdapter(ItemId)

_log = structlog.get_logger(__name__)


class _InvalidMessageError(PadrecError):
    """Fields of a message are out of range."""

    def __init__(self, error: ValidationError) -> None:
        super().__init__(str(error))
        self.fields = [field_error_of(("body", *one["loc"]), one["msg"]) for one in error.errors()]


class GrpcServer:
    """The gRPC server of a recommender, with health and reflection.

    Args:
        recommender: answers.
        address: `host:port`; port 0 takes any free one.
        keys: who may call; None: everybody.
        tls: None: none.
        tracing: None: none.
    """

    def __init__(
        self,
        recommender: Recommender,
        address: str,
        keys: KeyRing | None = None,
        tls: ServerTls | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._service = RecommenderService(recommender, tracing or Tracing())
        self._recommender, self._address, self._tls = recommender, address, tls
        self._health = health.aio.HealthServicer()
        self._watching: asyncio.Task[None] | None = None
        guards = [] if keys is None else [KeyInterceptor(keys, _refusal_of, recommender.metrics)]
        self._server = grpc.aio.server(
            interceptors=(RequestIdInterceptor(), *guards, ReadingInterceptor(_refusal_of)),
            options=(
                # Otherwise two gateways share a port without a word.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", recommender.settings.max_body_bytes),
                # Callers that are gone without a word are found within a minute; theirs may ask every ten seconds.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
        )

    async def start(self) -> int:
        """Listen, and take calls; returns the port.

        Raises:
            InputError: the address is malformed or in use.
        """
        port = add_port(self._server, self._address, self._tls)
        recommender_pb2_grpc.add_RecommenderServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        await self._report(ready=False)
        await self._server.start()
        self._watching = asyncio.create_task(self._watch())
        return port

    async def drain(self) -> None:
        """Say that it is over; calls are still taken."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Say that it is over, take no more calls, and cancel those that are not done after `grace` seconds."""
        await self.drain()
        await self._server.stop(grace)

    async def _watch(self) -> None:
        """Keep health true: the service is ready when everything that lists depend on answers."""
        while True:
            try:
                ready = all((await self._recommender.checks()).values())
            except Exception as error:
                _log.exception("health cannot be told", exc_info=error)
                ready = False
            await self._report(ready=ready)
            await asyncio.sleep(_HEALTH_SECONDS)

    async def _report(self, *, ready: bool) -> None:
        statuses = health_pb2.HealthCheckResponse
        for service in ("", SERVICE):
            await self._health.set(service, statuses.SERVING if ready else statuses.NOT_SERVING)


class RecommenderService:
    """The calls of `proto/padrec/v1/recommender.proto`."""

    def __init__(self, recommender: Recommender, tracing: Tracing) -> None:
        self._recommender, self._tracing = recommender, tracing

    async def Recommend(self, message: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:  # noqa: N802
        async def answer() -> pb.RecommendResponse:
            remaining = context.time_remaining()
            query = _read(lambda: query_from_message(message, remaining, self._max_deadline_ms))
            return recommendation_to_message(await self._recommender.recommend(query))

        return await self._answered("recommend", answer, context)

    async def RecommendStream(  # noqa: N802
        self, message: pb.RecommendRequest, context: Any
    ) -> AsyncIterator[pb.RecommendUpdate]:
        async with self._ended("recommend_stream", context):
            remaining = context.time_remaining()
            query = _read(lambda: query_from_message(message, remaining, self._max_deadline_ms))
            # Closed at once when the caller goes away, so that the request is dropped.
            async with aclosing(self._recommender.recommend_stream(query)) as updates:
                async for update in updates:
                    if isinstance(update, Recommendation):
                        yield pb.RecommendUpdate(done=recommendation_to_message(update))
                    else:
                        yield pb.RecommendUpdate(item=recommended_to_message(update))

    async def BatchRecommend(  # noqa: N802
        self, message: pb.BatchRecommendRequest, context: Any
    ) -> pb.BatchRecommendResponse:
        async def answer() -> pb.BatchRecommendResponse:
            remaining = context.time_remaining()
            batch = _read(lambda: batch_from_message(message, remaining, self._max_deadline_ms))
            charge_batch(len(batch.requests))
            answers = await self._recommender.recommend_batch(batch.requests)
            return pb.BatchRecommendResponse(results=list(map(_result, answers)))

        return await self._answered("recommend_batch", answer, context)

    async def RecordEvents(  # noqa: N802
        self, message: pb.RecordEventsRequest, context: Any
    ) -> pb.RecordEventsResponse:
        async def answer() -> pb.RecordEventsResponse:
            events = _read(lambda: events_from_message(message)).events
            accepted = await self._recommender.record_events(events)
            return pb.RecordEventsResponse(**accepted.model_dump())

        return await self._answered("record_events", answer, context)

    async def GetHistory(self, message: pb.GetHistoryRequest, context: Any) -> pb.GetHistoryResponse:  # noqa: N802
        async def answer() -> pb.GetHistoryResponse:
            user_id = _checked(_USER_ID, "user_id", message.user_id)
            item_ids = await self._recommender.get_history(user_id)
            return pb.GetHistoryResponse(user_id=user_id, item_ids=item_ids)

        return await self._answered("get_history", answer, context)

    async def DeleteHistory(  # noqa: N802
        self, message: pb.DeleteHistoryRequest, context: Any
    ) -> pb.DeleteHistoryResponse:
        async def answer() -> pb.DeleteHistoryResponse:
            await self._recommender.delete_history(_checked(_USER_ID, "user_id", message.user_id))
            return pb.DeleteHistoryResponse()

        return await self._answered("delete_history", answer, context)

    async def GetItem(self, message: pb.GetItemRequest, context: Any) -> pb.Item:  # noqa: N802
        async def answer() -> pb.Item:
            item_id = _checked(_ITEM_ID, "item_id", message.item_id)
            return item_to_message(self._recommender.get_item(item_id))

        return await self._answered("get_item", answer, context)

    @property
    def _max_deadline_ms(self) -> int:
        return self._recommender.settings.max_deadline_ms

    async def _answered(self, method: str, answer: Callable[[], Awaitable[T]], context: Any) -> T:
        """What `answer` gives, as the end of its call."""
        async with self._ended(method, context):
            return await answer()

    @asynccontextmanager
    async def _ended(self, method: str, context: Any) -> AsyncIterator[None]:
        """A call from its start to its end; an error ends it with its status. Either way it is counted."""
        start, code = time.perf_counter(), grpc.StatusCode.OK
        headers = headers_of(context.invocation_metadata())
        context.set_trailing_metadata(id_metadata())
        with one_request() as users, traced(self._tracing, method, headers) as span:
            try:
                yield
            except (asyncio.CancelledError, GeneratorExit):
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code, message, details = _refusal_of(error)
                await context.abort(code, message, details)
            finally:
                seconds = time.perf_counter() - start
                self._recommender.metrics.request_duration.labels("grpc", method, code.name).observe(seconds)
                span.set({"rpc.system": "grpc", "rpc.grpc.status_code": code.value[0]})
                if code in _FAULTS:
                    span.fail(code.name)
                _log.debug(
                    "request", method=method, status=code.name, seconds=round(seconds, 6), user_ids=users
                )


def _refusal_of(error: Exception) -> tuple[grpc.StatusCode, str, Any]:
    """What a call is aborted with that fails so: its code, message and trailing metadata."""
    code, status = status_of(error)
    return code, status.message, ((_DETAILS, status.SerializeToString()), *id_metadata())


def status_of(error: Exception) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """How a call ends that fails so, and what its caller is told: what REST tells, in gRPC's words."""
    details: list[Any] = []
    told = (
        problem_with_fields(error.fields)
        if isinstance(error, _InvalidMessageError)
        else problem_of_any(error)
    )
    if told.errors is not None:
        violation = error_details_pb2.BadRequest.FieldViolation
        violations = [
            violation(field=one.field[:_LONGEST], description=one.message[:_LONGEST])
            for one in told.errors[:_MOST_FIELDS]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if told.status in MAY_BE_TRIED_AGAIN and isinstance(error, PadrecError):
        delay = Duration()
        delay.FromNanoseconds(int(1e9 * seconds_to_retry(error)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    code = _CODES[told.status]
    status = status_pb2.Status(code=code.value[0], message=told.detail[:_LONGEST])
    for detail in details:
        status.details.add().Pack(detail)
    return code, status


def _result(answer: Recommendation | PadrecError) -> pb.BatchResult:
    if isinstance(answer, PadrecError):
        code, status = status_of(answer)
        return pb.BatchResult(
            error=pb.BatchError(code=code_pb2.Code.Value(code.name), message=status.message)
        )
    return pb.BatchResult(response=recommendation_to_message(answer))


def _read(message: Callable[[], T]) -> T:
    try:
        return message()
    except ValidationError as error:
        raise _InvalidMessageError(error) from error


def _checked(kind: TypeAdapter[str], field: str, value: str) -> str:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise RequestError(field, error.errors()[0]["msg"]) from error
