import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RequestError
from service.rpc.generated.padrec.worker.v1 import worker_pb2
from service.rpc.messages import (
    WorkerDescription,
    description_from_message,
    description_to_message,
    list_from_message,
    list_to_message,
    request_from_message,
    request_to_message,
)
from service.types import DecodedItem, DecodedList, DecodeRequest, SpeculationCounts, TracedToken

rows = st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)


@given(
    st.builds(
        DecodeRequest,
        request_id=st.text(),
        history=rows,
        num_items=st.integers(0, 50),
        excluded=rows,
        temperature=st.floats(0, 10),
        top_p=st.floats(0, 1, exclude_min=True),
        seed=st.integers(0, 2**64 - 1),
        priority=st.integers(-10, 10),
        decoding=st.sampled_from(["list", "beam"]),
        explain=st.booleans(),
    )
)
def test_a_request_arrives_as_it_was_sent(request: DecodeRequest) -> None:
    sent = request_to_message(request, "c1").SerializeToString()
    message = worker_pb2.DecodeRequest.FromString(sent)
    assert message.catalog_version == "c1"
    assert request_from_message(message) == request


def test_what_is_absent_is_the_default() -> None:
    request = request_from_message(worker_pb2.DecodeRequest(history=[1], num_items=1))
    assert (request.top_p, request.decoding) == (1.0, "list")


def test_a_decoding_of_the_future_is_refused() -> None:
    # As a later version of the protocol would write it.
    message = worker_pb2.DecodeRequest.FromString(bytes([10 << 3, 7]))
    with pytest.raises(RequestError, match="no decoding 7"):
        request_from_message(message)


def test_a_list_arrives_as_it_was_sent() -> None:
    decoded = DecodedList(
        request_id="r",
        items=(DecodedItem(7, 0.1), DecodedItem(0, 1 / 3)),
        exhausted=True,
        num_rounds=9,
        num_forced_tokens=4,
        prefill_seconds=0.011,
        decode_seconds=0.12,
        queue_seconds=0.013,
        num_round_tokens=40,
        num_round_forced_tokens=3,
        speculation=SpeculationCounts(8, 31, accepted_per_position=(7, 5, 0), accepted_per_slot=(2, 10)),
        rounds=(
            (TracedToken(0, 3, -1, True, False, True, None), TracedToken(1, None, 0, False, True, False, 7)),
            (),
        ),
    )
    sent = list_to_message(decoded, "m1").SerializeToString()
    message = worker_pb2.DecodeReply.FromString(sent)
    assert message.model_version == "m1"
    assert list_from_message(message, "r") == decoded


def test_a_list_without_speculation_has_no_counts() -> None:
    decoded = list_from_message(worker_pb2.DecodeReply(num_rounds=2), "r")
    assert decoded.speculation == SpeculationCounts()


def test_a_description_arrives_as_it_was_sent() -> None:
    description = WorkerDescription("m1", "c1", num_running=2, max_batch=32, num_waiting=5, max_queue=256)
    assert description_from_message(description_to_message(description)) == description
