"""Every answer, over REST and gRPC, has the ID of its request; logs have it too."""

import json
from typing import Any

import grpc
import httpx
import pytest

from service.config import LogSettings
from service.telemetry.logs import configure_logging
from tests.gateway.grpc_calls import ask, refused

OWN = {"x-request-id": "order 66"}
LIST = {"user_id": "ann", "history": ["item-1"]}
CALLS = [
    ("POST", "/recommend", {"json": LIST}, 200),
    ("POST", "/recommend/stream", {"json": LIST}, 200),
    ("POST", "/recommend", {"json": {}}, 422),
    ("POST", "/events", {"content": b" " * 8_192}, 413),
    ("GET", "/nowhere", {}, 404),
    ("GET", "/health/live", {}, 200),
    ("DELETE", "/users/ann/history", {}, 204),
]


@pytest.mark.parametrize(("method", "path", "sent", "status"), CALLS)
async def test_answers_have_the_requests_id(
    client: httpx.AsyncClient, method: str, path: str, sent: dict[str, Any], status: int
) -> None:
    answer = await client.request(method, path, headers=OWN, **sent)
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (status, ["order 66"])


async def test_without_a_valid_id_there_is_a_new_one(client: httpx.AsyncClient) -> None:
    sent = [{}, {"x-request-id": ""}, {"x-request-id": "x" * 129}, {"x-request-id": b"na\xefve"}]
    found = {(await client.get("/health/live", headers=one)).headers["x-request-id"] for one in sent}
    assert [len(one) for one in found] == [32] * len(sent)


async def test_an_unexpected_failure_has_one(client: httpx.AsyncClient, worker: Any) -> None:
    worker.error = KeyError("a bug")
    answer = await client.post("/recommend", json=LIST, headers=OWN)
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (500, ["order 66"])


async def test_calls_end_with_theirs(stub: Any, worker: Any) -> None:
    for metadata, expected in ((tuple(OWN.items()), "order 66"), ((("x-request-id", "x" * 129),), None)):
        call = stub.Recommend(ask(history=["item-1"]), metadata=metadata)
        await call
        stream = stub.RecommendStream(ask(history=["item-1"]), metadata=metadata)
        assert [one async for one in stream]
        wrong = stub.Recommend(ask(num_items=99), metadata=metadata)
        assert (await refused(wrong))[0] is grpc.StatusCode.INVALID_ARGUMENT
        for one in (call, stream, wrong):
            found = [value for name, value in await one.trailing_metadata() if name == "x-request-id"]
            assert found == [expected] if expected else len(found[0]) == 32


@pytest.mark.usefixtures("unchanged_logging")
async def test_what_a_request_logs_has_its_id(
    degraded_client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogSettings(level="debug", format="json"))
    await degraded_client.post("/recommend", json={"user_id": "ann"}, headers=OWN)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    own = [line for line in lines if line["logger"].startswith("service.")]
    assert {"history store failed", "request"} <= {line["event"] for line in own}
    assert {line["request_id"] for line in own} == {"order 66"}
    assert not any("trace_id" in line for line in own)
