"""What callers ask and are told, as messages of `proto/padrec/v1/recommender.proto`."""

from typing import Any

from google.protobuf.struct_pb2 import Value

from service.gateway.answer import FallbackReason, ItemAnswer, Recommendation, RecommendedItem
from service.gateway.query import EventBatch, RecommendBatch, RecommendQuery
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb

_DECODINGS = {pb.DECODING_LIST: "list", pb.DECODING_BEAM: "beam"}
_FALLBACKS: dict[FallbackReason | None, Any] = {
    None: pb.FALLBACK_UNSPECIFIED,
    "cold_start": pb.FALLBACK_COLD_START,
    "history_unavailable": pb.FALLBACK_HISTORY_UNAVAILABLE,
}
_OPS = {
    pb.OP_EQUAL: "==",
    pb.OP_NOT_EQUAL: "!=",
    pb.OP_LESS: "<",
    pb.OP_LESS_OR_EQUAL: "<=",
    pb.OP_GREATER: ">",
    pb.OP_GREATER_OR_EQUAL: ">=",
    pb.OP_IN: "in",
    pb.OP_NOT_IN: "not in",
}
_NANO = 1e-9


def query_from_message(
    message: pb.RecommendRequest, remaining: float | None, max_deadline_ms: int
) -> RecommendQuery:
    """A query.

    Args:
        message: what was asked.
        remaining: seconds until the call's deadline; None: it has none.
        max_deadline_ms: the longest that the service works on a list.

    Raises:
        ValidationError: a field is out of range.
    """
    return RecommendQuery.model_validate(_query_values(message, remaining, max_deadline_ms))


def batch_from_message(
    message: pb.BatchRecommendRequest, remaining: float | None, max_deadline_ms: int
) -> RecommendBatch:
    """Queries; arguments and errors as `query_from_message`."""
    requests = [_query_values(request, remaining, max_deadline_ms) for request in message.requests]
    return RecommendBatch.model_validate({"requests": requests})


def _query_values(
    message: pb.RecommendRequest, remaining: float | None, max_deadline_ms: int
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "user_id": message.user_id,
        "exclude_item_ids": tuple(message.exclude_item_ids),
        "priority": message.priority,
        "temperature": message.temperature,
        "explain": message.explain,
        "promotions": tuple({"item_id": one.item_id, "rank": one.rank} for one in message.promotions),
        "validate_only": message.validate_only,
    }
    if message.HasField("filter"):
        values["filter"] = _filter_values(message.filter)
    if message.HasField("history"):
        values["history"] = tuple(message.history.item_ids)
    for name in ("num_items", "exclude_seen", "top_p", "seed", "after_recommendation_id"):
        if message.HasField(name):
            values[name] = getattr(message, name)
    if message.decoding != pb.DECODING_UNSPECIFIED:
        values["decoding"] = _DECODINGS.get(message.decoding, str(message.decoding))
    if remaining is not None:
        # A call may be as patient as it likes; the service is not.
        values["deadline_ms"] = min(max(1, int(1000 * remaining)), max_deadline_ms)
    return values


def _filter_values(message: pb.Filter) -> dict[str, Any]:
    kind = message.WhichOneof("kind")
    if kind is None:
        return {}
    if kind != "condition":
        return {kind: tuple(map(_filter_values, getattr(message, kind).filters))}
    condition = message.condition
    return {
        "attribute": condition.attribute,
        "op": _OPS.get(condition.op, str(condition.op)),
        "value": _plain(condition.value),
    }


def _plain(value: Value) -> Any:
    """What a value holds; unlike protobuf's own JSON also what JSON cannot say, for the query to refuse."""
    match value.WhichOneof("kind"):
        case "list_value":
            return tuple(map(_plain, value.list_value.values))
        case "struct_value":
            return dict.fromkeys(value.struct_value.fields)
        case "number_value" | "string_value" | "bool_value" as kind:
            return getattr(value, kind)
    return None


def events_from_message(message: pb.RecordEventsRequest) -> EventBatch:
    """Events; errors as `query_from_message`."""
    return EventBatch.model_validate({"events": [_event_values(event) for event in message.events]})


def _event_values(event: pb.Event) -> dict[str, Any]:
    values: dict[str, Any] = {"user_id": event.user_id, "item_id": event.item_id}
    if event.HasField("timestamp"):
        values["timestamp"] = event.timestamp.seconds + _NANO * event.timestamp.nanos
    for name in ("event_id", "recommendation_id"):
        if event.HasField(name):
            values[name] = getattr(event, name)
    return values


def recommendation_to_message(answer: Recommendation) -> pb.RecommendResponse:
    """A list."""
    message = pb.RecommendResponse(
        recommendation_id=answer.recommendation_id,
        user_id=answer.user_id,
        items=map(recommended_to_message, answer.items),
        model_version=answer.model_version,
        catalog_version=answer.catalog_version,
        fallback=_FALLBACKS[answer.fallback],
        degraded=answer.degraded,
        exhausted=answer.exhausted,
        ignored_item_ids=answer.ignored_item_ids,
        timings=pb.Timings(**answer.timings.model_dump()),
        num_allowed_items=answer.num_allowed_items,
    )
    if answer.speculation is not None:
        message.speculation.CopyFrom(pb.Speculation(**answer.speculation.model_dump()))
    if answer.explanation is not None:
        message.explanation.CopyFrom(pb.Explanation(**answer.explanation.model_dump()))
    return message


def recommended_to_message(item: RecommendedItem) -> pb.RecommendedItem:
    """An item of a list."""
    return pb.RecommendedItem(
        item=item_to_message(item), rank=item.rank, score=item.score, promoted=item.promoted
    )


def item_to_message(item: ItemAnswer) -> pb.Item:
    """An item of the catalogue."""
    message = pb.Item(item_id=item.item_id, title=item.title)
    message.attributes.update(item.attributes)
    return message
