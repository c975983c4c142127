"""A gRPC server of a recommender, and calls to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from google.rpc import status_pb2

from service.gateway.grpc import GrpcServer
from service.gateway.recommender import Recommender
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb


@asynccontextmanager
async def serving(
    recommender: Recommender, **options: Any
) -> AsyncIterator[tuple[GrpcServer, grpc.aio.Channel]]:
    server = GrpcServer(recommender, "127.0.0.1:0", **options)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield server, channel
    await server.stop(0)


OPS = {"==": 1, "!=": 2, "<": 3, "<=": 4, ">": 5, ">=": 6, "in": 7, "not in": 8}


def as_message(wanted: dict[str, Any]) -> pb.Filter:
    for name in ("all", "any", "none"):
        if name in wanted:
            return pb.Filter(**{name: pb.Filters(filters=map(as_message, wanted[name]))})
    if not wanted:
        return pb.Filter()
    value = ParseDict(wanted["value"], Value())
    return pb.Filter(condition=pb.Condition(attribute=wanted["attribute"], op=OPS[wanted["op"]], value=value))


def ask(**fields: Any) -> pb.RecommendRequest:
    if "filter" in fields:
        fields["filter"] = as_message(fields["filter"])
    if "promotions" in fields:
        fields["promotions"] = [pb.Promotion(**one) for one in fields["promotions"]]
    if "history" in fields:
        fields["history"] = pb.ItemIds(item_ids=fields["history"])
    return pb.RecommendRequest(**{"user_id": "ann", **fields})


async def refused(call: Any) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """How a call failed: its code, and the details that it came with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    sent = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(sent["grpc-status-details-bin"])
    assert status.message == caught.value.details()
    assert status.code == caught.value.code().value[0]
    return caught.value.code(), status
