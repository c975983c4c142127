"""Records to messages of the internal protocol and back."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.errors import RequestError
from service.rpc.generated.padrec.worker.v1 import worker_pb2
from service.types import (
    DecodedItem,
    DecodedList,
    DecodeRequest,
    Decoding,
    Round,
    SpeculationCounts,
    TracedToken,
)

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
        explain=request.explain,
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
        explain=message.explain,
    )


def list_to_message(decoded: DecodedList, model_version: str) -> worker_pb2.DecodeReply:
    """The message of a written list."""
    return worker_pb2.DecodeReply(
        items=_items_to_messages(decoded.items),
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
        rounds=map(_round_to_message, decoded.rounds),
    )


def list_from_message(message: worker_pb2.DecodeReply, request_id: str) -> DecodedList:
    """The written list of a message, which answers the request `request_id`."""
    return DecodedList(
        request_id=request_id,
        items=items_from_messages(message.items),
        exhausted=message.exhausted,
        num_rounds=message.num_rounds,
        num_forced_tokens=message.num_forced_tokens,
        prefill_seconds=message.prefill_seconds,
        decode_seconds=message.decode_seconds,
        queue_seconds=message.queue_seconds,
        num_round_tokens=message.num_round_tokens,
        num_round_forced_tokens=message.num_round_forced_tokens,
        speculation=_speculation_from_message(message.speculation),
        rounds=tuple(map(_round_from_message, message.rounds)),
    )


def items_to_message(items: Iterable[DecodedItem]) -> worker_pb2.DecodedItems:
    """The message of items that were accepted."""
    return worker_pb2.DecodedItems(items=_items_to_messages(items))


def items_from_messages(messages: Iterable[worker_pb2.DecodedItem]) -> tuple[DecodedItem, ...]:
    """The items of messages."""
    return tuple(DecodedItem(item.row, item.score) for item in messages)


def _items_to_messages(items: Iterable[DecodedItem]) -> list[worker_pb2.DecodedItem]:
    return [worker_pb2.DecodedItem(row=item.row, score=item.score) for item in items]


def _round_to_message(tokens: Round) -> worker_pb2.Round:
    return worker_pb2.Round(
        tokens=[
            worker_pb2.TracedToken(
                slot=token.slot,
                code=token.code,
                parent=token.parent,
                is_drafted=token.is_drafted,
                is_forced=token.is_forced,
                is_accepted=token.is_accepted,
                row=token.row,
            )
            for token in tokens
        ]
    )


def _round_from_message(message: worker_pb2.Round) -> Round:
    return tuple(
        TracedToken(
            slot=token.slot,
            code=token.code if token.HasField("code") else None,
            parent=token.parent,
            is_drafted=token.is_drafted,
            is_forced=token.is_forced,
            is_accepted=token.is_accepted,
            row=token.row if token.HasField("row") else None,
        )
        for token in message.tokens
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
