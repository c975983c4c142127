"""The gRPC server around the calls: deadlines, cancellation, bounds, health, draining, reflection."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.errors import InputError
from service.gateway.grpc import SERVICE, GrpcServer
from service.gateway.recommender import Recommender
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from tests.gateway.grpc_calls import ask, refused, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_deadline_is_the_calls_own_within_the_services(stub: Any, worker: Any) -> None:
    for timeout in (None, 3.0, 1_000.0):
        await stub.Recommend(ask(history=["item-1"]), timeout=timeout)
    given, own, longest = worker.timeouts
    assert 4 < given <= 5
    assert 2 < own < 3.5  # gRPC rounds deadlines up
    assert 8 < longest <= 9


async def test_a_call_that_is_given_up_is_given_up_everywhere(stub: Any, worker: Any) -> None:
    worker.release.clear()
    call = stub.Recommend(ask(history=["item-1"]))
    await worker.started.wait()
    call.cancel()
    await asyncio.wait_for(worker.cancelled.wait(), 5)
    worker.started.clear(), worker.cancelled.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Recommend(ask(history=["item-1"]), timeout=1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(worker.cancelled.wait(), 5)


async def test_messages_are_bounded(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Recommend(ask(exclude_item_ids=["i" * 200] * 25))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_that_cannot_be_read_is_the_callers_fault(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(f"/{SERVICE}/Recommend")
    deep = b""  # filters in filters, deeper than a client would write them
    for _ in range(150):
        deep = b"\x0a" + _length(deep) + deep
    deep = pb.RecommendRequest(user_id="ann").SerializeToString() + b"\x5a" + _length(deep) + deep
    for message in (b"\xff", b"\x0a\x02\xff\xfe", deep):
        code, status = await refused(call(message))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert status.message.startswith("message: it is no protobuf message")
    stream = channel.unary_stream(f"/{SERVICE}/RecommendStream")
    code, _ = await refused(aiter(stream(b"\xff")).__anext__())
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def _length(message: bytes) -> bytes:
    return bytes([len(message) % 128 + 128, len(message) // 128])


async def test_health_tells_what_readiness_tells_and_the_end_first(
    recommender: Recommender, worker: Any
) -> None:
    async with serving(recommender) as (server, channel):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))

        async def becomes(status: int) -> None:
            async for found in watch:
                if found.status == status:
                    return

        await asyncio.wait_for(becomes(SERVING), 5)
        assert (await health.Check(health_pb2.HealthCheckRequest(service=""))).status == SERVING
        worker.is_ready = False
        await asyncio.wait_for(becomes(NOT_SERVING), 5)
        worker.is_ready = True
        await asyncio.wait_for(becomes(SERVING), 5)

        # What is in flight is answered, whoever comes later is not.
        worker.release.clear()
        stub = recommender_pb2_grpc.RecommenderStub(channel)
        call = asyncio.ensure_future(stub.Recommend(ask(history=["item-1"])))
        await worker.started.wait()
        stopping = asyncio.create_task(server.stop(10))
        await asyncio.wait_for(becomes(NOT_SERVING), 5)
        worker.release.set()
        assert len((await call).items) == 10
        await stopping
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Recommend(ask())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_reflection_describes_every_call(channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    services, file = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in services.list_services_response.service}
    assert names >= {SERVICE, "grpc.health.v1.Health"}
    assert pb.DESCRIPTOR.serialized_pb in file.file_descriptor_response.file_descriptor_proto


async def test_a_port_that_is_taken(recommender: Recommender) -> None:
    first = GrpcServer(recommender, "127.0.0.1:0")
    port = await first.start()
    with pytest.raises(InputError, match="cannot listen on"):
        await GrpcServer(recommender, f"127.0.0.1:{port}").start()
    await first.stop(0)
