"""Records to messages of the internal protocol and back."""

from dataclasses import dataclass

from service.errors import RequestError
from service.rpc.generated.padrec.worker.v1 import worker_pb2
from service.types import DecodedItem, DecodedList, DecodeRequest, Decoding, SpeculationCounts

_DECODINGS: dict[Decoding, worker_pb2.Decoding] = {
    "list": worker_pb2.DECODING_LIST,
    "beam": worker_pb2.DECODING_BEAM,
}


@dataclass(frozen=True, slots=True)
class WorkerDescription:
    """What a worker serves and how busy it is.

    Attributes:
        num_running: lists being written now; `max_batch` at most.
        num_waiting: requests in the queue now; `max_queue` at most.
    """

    model_version: str
    catalog_version: str
    num_running: int
    max_batch: int
    num_waiting: int
    max_queue: int


def request_to_message(request: DecodeRequest, catalog_version: str) -> worker_pb2.DecodeRequest:
    """The message of a request; `catalog_version` says what its rows mean."""
    return worker_pb2.DecodeRequest(
        request_id=request.request_id,
        catalog_version=catalog_version,
        history=request.history,
        excluded=request.excluded,
        num_items=request.num_items,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        priority=request.priority,
        decoding=_DECODINGS[request.decoding],
        allowed=request.allowed,
    )


def request_from_message(message: worker_pb2.DecodeRequest) -> DecodeRequest:
    """The request of a message; not yet checked against the catalogue.

    Raises:
        RequestError: it asks for a decoding that there is not.
    """
    decoding = next((name for name, value in _DECODINGS.items() if value == message.decoding), None)
    if decoding is None:
        raise RequestError("decoding", f"there is no decoding {message.decoding}")
    return DecodeRequest(
        request_id=message.request_id,
        history=tuple(message.history),
        num_items=message.num_items,
        excluded=tuple(message.excluded),
        temperature=message.temperature,
        top_p=message.top_p or 1.0,
        seed=message.seed,
        priority=message.priority,
        decoding=decoding,
        allowed=message.allowed if message.HasField("allowed") else None,
    )


def list_to_message(decoded: DecodedList, model_version: str) -> worker_pb2.DecodeReply:
    """The message of a written list."""
    return worker_pb2.DecodeReply(
        items=[worker_pb2.DecodedItem(row=item.row, score=item.score) for item in decoded.items],
        exhausted=decoded.exhausted,
        model_version=model_version,
        num_rounds=decoded.num_rounds,
        num_forced_tokens=decoded.num_forced_tokens,
        queue_seconds=decoded.queue_seconds,
        prefill_seconds=decoded.prefill_seconds,
        decode_seconds=decoded.decode_seconds,
        num_round_tokens=decoded.num_round_tokens,
        num_round_forced_tokens=decoded.num_round_forced_tokens,
        speculation=_speculation_to_message(decoded.speculation),
    )


def list_from_message(message: worker_pb2.DecodeReply, request_id: str) -> DecodedList:
    """The written list of a message, which answers the request `request_id`."""
    return DecodedList(
        request_id=request_id,
        items=tuple(DecodedItem(item.row, item.score) for item in message.items),
        exhausted=message.exhausted,
        num_rounds=message.num_rounds,
        num_forced_tokens=message.num_forced_tokens,
        prefill_seconds=message.prefill_seconds,
        decode_seconds=message.decode_seconds,
        queue_seconds=message.queue_seconds,
        num_round_tokens=message.num_round_tokens,
        num_round_forced_tokens=message.num_round_forced_tokens,
        speculation=_speculation_from_message(message.speculation),
    )


def _speculation_to_message(counts: SpeculationCounts) -> worker_pb2.SpeculationCounts:
    return worker_pb2.SpeculationCounts(
        num_drafts=counts.num_drafts,
        num_draft_tokens=counts.num_draft_tokens,
        accepted_per_position=counts.accepted_per_position,
        accepted_per_slot=counts.accepted_per_slot,
    )


def _speculation_from_message(message: worker_pb2.SpeculationCounts) -> SpeculationCounts:
    return SpeculationCounts(
        num_drafts=message.num_drafts,
        num_draft_tokens=message.num_draft_tokens,
        accepted_per_position=tuple(message.accepted_per_position),
        accepted_per_slot=tuple(message.accepted_per_slot),
    )


def description_to_message(description: WorkerDescription) -> worker_pb2.DescribeReply:
    """The message of a description."""
    return worker_pb2.DescribeReply(
        model_version=description.model_version,
        catalog_version=description.catalog_version,
        num_running=description.num_running,
        max_batch=description.max_batch,
        num_waiting=description.num_waiting,
        max_queue=description.max_queue,
    )


def description_from_message(message: worker_pb2.DescribeReply) -> WorkerDescription:
    """The description of a message."""
    return WorkerDescription(
        model_version=message.model_version,
        catalog_version=message.catalog_version,
        num_running=message.num_running,
        max_batch=message.max_batch,
        num_waiting=message.num_waiting,
        max_queue=message.max_queue,
    )
