"""What became of a list that was asked for, by one word for both protocols."""

import json
from collections import Counter
from typing import Any

import grpc
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

OK = "ok"
# It came, but after its deadline as the caller counts it; only the report can tell.
LATE = "late"
REFUSED = "refused"
# Those below are failures.
REFUSED_BLINDLY = "refused_without_retry_after"
DEADLINE = "deadline"
UNAVAILABLE = "unavailable"
BROKEN = "broken"

# A list of a batch is refused by a problem of its own, which has no room for when to come back.
NO_FAILURES = (OK, LATE, REFUSED)


def of_status(status: int, says_when: bool) -> str:
    """Of an HTTP status; 0: the connection broke.

    Args:
        status: of the answer.
        says_when: it has a `Retry-After`.
    """
    match status:
        case 200:
            return OK
        case 429:
            return REFUSED if says_when else REFUSED_BLINDLY
        case 503:
            return UNAVAILABLE
        case 504:
            return DEADLINE
        case 0:
            return BROKEN
    return f"status_{status}"


def of_rest_batch(results: list[dict[str, Any]]) -> Counter[str]:
    """Of the lists of a batch."""
    return Counter(
        OK if result.get("error") is None else of_status(result["error"]["status"], says_when=True)
        for result in results
    )


def of_rest_stream(content: str) -> tuple[str, dict[str, Any] | None]:
    """Of a stream of server-sent events that began, and the whole answer if it came."""
    name, data = "", ""
    for line in content.splitlines():
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data = line.removeprefix("data:").strip()
    if name == "done":
        return OK, json.loads(data)
    if name == "error":
        return of_status(json.loads(data)["status"], says_when=True), None
    return BROKEN, None


def of_code(code: int, says_when: bool) -> str:
    """Of a `google.rpc.Code`; `says_when`: it came with a RetryInfo."""
    match code:
        case code_pb2.OK:
            return OK
        case code_pb2.RESOURCE_EXHAUSTED:
            return REFUSED if says_when else REFUSED_BLINDLY
        case code_pb2.UNAVAILABLE:
            return UNAVAILABLE
        case code_pb2.DEADLINE_EXCEEDED:
            return DEADLINE
    return f"code_{code_pb2.Code.Name(code).lower()}"


def of_rpc_error(error: grpc.RpcError) -> str:
    """Of a gRPC call that failed."""
    status = rpc_status.from_call(error)
    details = [] if status is None else status.details
    says_when = any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)
    return of_code(error.code().value[0], says_when)


def of_grpc_batch(codes: list[int]) -> Counter[str]:
    """Of the lists of a batch."""
    return Counter(of_code(code, says_when=True) for code in codes)
