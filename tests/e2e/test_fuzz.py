"""Whatever callers send is answered as the OpenAPI document and the proto say: nothing is an internal error.

PADREC_FUZZ=2000 asks so many times for each call, in place of a few; -s tells how often that was in all.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest
import schemathesis
from google.protobuf.struct_pb2 import ListValue, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc


def no_fault_but_a_deadline(ctx: object, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """Nothing is the service's fault, but for what has less time than it takes."""
    if response.status_code >= 500:
        assert (response.status_code, b"deadline_ms" in (response.request.body or b"")) == (504, True)


CHECKS = [no_fault_but_a_deadline, status_code_conformance, response_schema_conformance]
EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
THOROUGH = settings(
    max_examples=int(os.environ.get("PADREC_FUZZ", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


asked: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def tell_how_often() -> Iterator[None]:
    yield
    print(f"\nasked {asked.total()} times: {dict(asked)}")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_rest(service, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    for found in document.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.method == "get" and "{" not in operation.path:
            continue  # there is nothing to get wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @THOROUGH
        def is_answered_as_documented(case: schemathesis.Case) -> None:
            asked[mode.name] += 1
            case.call_and_validate(checks=CHECKS, timeout=30)

        is_answered_as_documented()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
items = st.one_of(st.integers(0, 70).map(str), texts)
item_ids = st.lists(items, max_size=30)
values = st.one_of(
    st.none(), st.booleans(), st.floats(), texts, st.lists(st.one_of(st.floats(), texts), max_size=4)
)
conditions = st.builds(
    lambda name, op, value: pb.Filter(condition=pb.Condition(attribute=name, op=op, value=_value(value))),
    st.one_of(st.sampled_from(["price", "category"]), texts),
    st.integers(0, 9),
    values,
)
filters = st.recursive(
    conditions | st.just(pb.Filter()),
    lambda below: st.builds(
        lambda name, parts: pb.Filter(**{name: pb.Filters(filters=parts)}),
        st.sampled_from(["all", "any", "none"]),
        st.lists(below, max_size=3),
    ),
    max_leaves=6,
)


def _value(value: object):
    if isinstance(value, list):
        return Value(list_value=ListValue(values=map(_value, value)))
    if value is None:
        return Value(null_value=0)
    kind = (
        "bool_value"
        if isinstance(value, bool)
        else "number_value"
        if isinstance(value, float)
        else "string_value"
    )
    return Value(**{kind: value})


def some(**fields: st.SearchStrategy) -> st.SearchStrategy:
    """Any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


requests = some(
    user_id=texts,
    num_items=st.integers(0, 2**32 - 1) | st.integers(0, 60),
    history=item_ids.map(lambda ids: pb.ItemIds(item_ids=ids)),
    exclude_item_ids=item_ids,
    exclude_seen=st.booleans(),
    priority=st.integers(-(2**31), 2**31 - 1) | st.integers(-12, 12),
    decoding=st.integers(0, 4),
    temperature=st.floats() | st.floats(0, 2),
    top_p=st.floats() | st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
    filter=filters,
    explain=st.booleans(),
    promotions=st.lists(st.builds(pb.Promotion, item_id=items, rank=st.integers(0, 12)), max_size=11),
    after_recommendation_id=texts,
    validate_only=st.booleans(),
).map(lambda fields: pb.RecommendRequest(**{"user_id": "ann", **fields}))
events = some(
    user_id=texts,
    item_id=items,
    event_id=texts,
    recommendation_id=texts,
    timestamp=st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-5, 5)),
).map(lambda fields: pb.Event(**fields))

CALLS = {
    "Recommend": requests,
    "RecommendStream": requests,
    "BatchRecommend": st.lists(requests, max_size=4).map(
        lambda many: pb.BatchRecommendRequest(requests=many)
    ),
    "RecordEvents": st.lists(events, max_size=4).map(lambda many: pb.RecordEventsRequest(events=many)),
    "GetHistory": texts.map(lambda user: pb.GetHistoryRequest(user_id=user)),
    "DeleteHistory": texts.map(lambda user: pb.DeleteHistoryRequest(user_id=user)),
    "GetItem": items.map(lambda item: pb.GetItemRequest(item_id=item)),
}


@pytest.mark.parametrize("method", CALLS)
def test_grpc(service, method: str) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        call = getattr(recommender_pb2_grpc.RecommenderStub(channel), method)

        @given(message=CALLS[method])
        @THOROUGH
        def is_answered_as_documented(message) -> None:
            asked[method] += 1
            if method == "RecommendStream":
                ended = call(message, timeout=30)
                with suppress(grpc.RpcError):
                    list(ended)
            else:
                ended = call.future(message, timeout=30)  # whose code waits for the end
            assert ended.code().name in EXPECTED, (ended.details(), message)

        is_answered_as_documented()
