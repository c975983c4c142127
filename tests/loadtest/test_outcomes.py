import grpc
import pytest
from google.rpc import code_pb2

from loadtest.outcomes import of_code, of_grpc_batch, of_rest_batch, of_rest_stream, of_rpc_error, of_status
from service.errors import PadrecError, QueueFullError, RequestError
from service.gateway.grpc import status_of


@pytest.mark.parametrize(
    ("status", "says_when", "outcome"),
    [
        (200, False, "ok"),
        (429, True, "refused"),
        (429, False, "refused_without_retry_after"),
        (503, True, "unavailable"),
        (504, False, "deadline"),
        (0, False, "broken"),
        (422, False, "status_422"),
    ],
)
def test_statuses(status: int, says_when: bool, outcome: str) -> None:
    assert of_status(status, says_when) == outcome


@pytest.mark.parametrize(
    ("code", "says_when", "outcome"),
    [
        (code_pb2.OK, False, "ok"),
        (code_pb2.RESOURCE_EXHAUSTED, True, "refused"),
        (code_pb2.RESOURCE_EXHAUSTED, False, "refused_without_retry_after"),
        (code_pb2.UNAVAILABLE, True, "unavailable"),
        (code_pb2.DEADLINE_EXCEEDED, False, "deadline"),
        (code_pb2.INVALID_ARGUMENT, False, "code_invalid_argument"),
    ],
)
def test_codes(code: int, says_when: bool, outcome: str) -> None:
    assert of_code(code, says_when) == outcome


class Failed(grpc.RpcError):
    """As a call fails whose server aborted it with this error."""

    def __init__(self, error: Exception, *, with_details: bool = True) -> None:
        self._code, self._status = status_of(error)
        self._with_details = with_details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._status.message

    def trailing_metadata(self):
        return (("grpc-status-details-bin", self._status.SerializeToString()),) if self._with_details else ()


def test_a_refusal_tells_when_to_come_back() -> None:
    full = QueueFullError("full", 2.0)
    assert of_rpc_error(Failed(full)) == "refused"
    assert of_rpc_error(Failed(full, with_details=False)) == "refused_without_retry_after"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(RequestError("seed", "bad"), "code_invalid_argument"), (PadrecError("broken"), "code_internal")],
)
def test_other_errors_keep_their_name(error: PadrecError, outcome: str) -> None:
    assert of_rpc_error(Failed(error)) == outcome


def test_batches() -> None:
    results = [{"recommendation": {}, "error": None}, {"error": {"status": 429}}, {"error": {"status": 504}}]
    assert of_rest_batch(results) == {"ok": 1, "refused": 1, "deadline": 1}
    assert of_grpc_batch([0, code_pb2.RESOURCE_EXHAUSTED, 0]) == {"ok": 2, "refused": 1}


def test_streams() -> None:
    item, done = 'event: item\ndata: {"rank": 1}\n\n', 'event: done\ndata: {"items": []}\n\n'
    assert of_rest_stream(item + done) == ("ok", {"items": []})
    assert of_rest_stream(item + 'event: error\ndata: {"status": 504}\n\n') == ("deadline", None)
    assert of_rest_stream(item) == ("broken", None)
    assert of_rest_stream("") == ("broken", None)
