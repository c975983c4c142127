import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODING_UNSPECIFIED: _ClassVar[Decoding]
    DECODING_LIST: _ClassVar[Decoding]
    DECODING_BEAM: _ClassVar[Decoding]

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_UNSPECIFIED: _ClassVar[Fallback]
    FALLBACK_COLD_START: _ClassVar[Fallback]
    FALLBACK_HISTORY_UNAVAILABLE: _ClassVar[Fallback]

class Op(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OP_UNSPECIFIED: _ClassVar[Op]
    OP_EQUAL: _ClassVar[Op]
    OP_NOT_EQUAL: _ClassVar[Op]
    OP_LESS: _ClassVar[Op]
    OP_LESS_OR_EQUAL: _ClassVar[Op]
    OP_GREATER: _ClassVar[Op]
    OP_GREATER_OR_EQUAL: _ClassVar[Op]
    OP_IN: _ClassVar[Op]
    OP_NOT_IN: _ClassVar[Op]
DECODING_UNSPECIFIED: Decoding
DECODING_LIST: Decoding
DECODING_BEAM: Decoding
FALLBACK_UNSPECIFIED: Fallback
FALLBACK_COLD_START: Fallback
FALLBACK_HISTORY_UNAVAILABLE: Fallback
OP_UNSPECIFIED: Op
OP_EQUAL: Op
OP_NOT_EQUAL: Op
OP_LESS: Op
OP_LESS_OR_EQUAL: Op
OP_GREATER: Op
OP_GREATER_OR_EQUAL: Op
OP_IN: Op
OP_NOT_IN: Op

class ItemIds(_message.Message):
    __slots__ = ("item_ids",)
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user_id", "num_items", "history", "exclude_item_ids", "exclude_seen", "priority", "decoding", "temperature", "top_p", "seed", "filter", "explain", "promotions", "after_recommendation_id", "validate_only")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DECODING_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    PROMOTIONS_FIELD_NUMBER: _ClassVar[int]
    AFTER_RECOMMENDATION_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    num_items: int
    history: ItemIds
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_seen: bool
    priority: int
    decoding: Decoding
    temperature: float
    top_p: float
    seed: int
    filter: Filter
    explain: bool
    promotions: _containers.RepeatedCompositeFieldContainer[Promotion]
    after_recommendation_id: str
    validate_only: bool
    def __init__(self, user_id: _Optional[str] = ..., num_items: _Optional[int] = ..., history: _Optional[_Union[ItemIds, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., exclude_seen: _Optional[bool] = ..., priority: _Optional[int] = ..., decoding: _Optional[_Union[Decoding, str]] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., explain: _Optional[bool] = ..., promotions: _Optional[_Iterable[_Union[Promotion, _Mapping]]] = ..., after_recommendation_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class Promotion(_message.Message):
    __slots__ = ("item_id", "rank")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    rank: int
    def __init__(self, item_id: _Optional[str] = ..., rank: _Optional[int] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("all", "any", "none", "condition")
    ALL_FIELD_NUMBER: _ClassVar[int]
    ANY_FIELD_NUMBER: _ClassVar[int]
    NONE_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    all: Filters
    any: Filters
    none: Filters
    condition: Condition
    def __init__(self, all: _Optional[_Union[Filters, _Mapping]] = ..., any: _Optional[_Union[Filters, _Mapping]] = ..., none: _Optional[_Union[Filters, _Mapping]] = ..., condition: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...

class Filters(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("attribute", "op", "value")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    op: Op
    value: _struct_pb2.Value
    def __init__(self, attribute: _Optional[str] = ..., op: _Optional[_Union[Op, str]] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("recommendation_id", "user_id", "items", "model_version", "catalog_version", "fallback", "degraded", "exhausted", "ignored_item_ids", "timings", "speculation", "explanation", "num_allowed_items")
    RECOMMENDATION_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    IGNORED_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    NUM_ALLOWED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    recommendation_id: str
    user_id: str
    items: _containers.RepeatedCompositeFieldContainer[RecommendedItem]
    model_version: str
    catalog_version: str
    fallback: Fallback
    degraded: bool
    exhausted: bool
    ignored_item_ids: _containers.RepeatedScalarFieldContainer[str]
    timings: Timings
    speculation: Speculation
    explanation: Explanation
    num_allowed_items: int
    def __init__(self, recommendation_id: _Optional[str] = ..., user_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[RecommendedItem, _Mapping]]] = ..., model_version: _Optional[str] = ..., catalog_version: _Optional[str] = ..., fallback: _Optional[_Union[Fallback, str]] = ..., degraded: _Optional[bool] = ..., exhausted: _Optional[bool] = ..., ignored_item_ids: _Optional[_Iterable[str]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., speculation: _Optional[_Union[Speculation, _Mapping]] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ..., num_allowed_items: _Optional[int] = ...) -> None: ...

class RecommendUpdate(_message.Message):
    __slots__ = ("item", "done")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    item: RecommendedItem
    done: RecommendResponse
    def __init__(self, item: _Optional[_Union[RecommendedItem, _Mapping]] = ..., done: _Optional[_Union[RecommendResponse, _Mapping]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("item_id", "title", "attributes")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    attributes: _struct_pb2.Struct
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., attributes: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class RecommendedItem(_message.Message):
    __slots__ = ("item", "rank", "score", "promoted")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_FIELD_NUMBER: _ClassVar[int]
    item: Item
    rank: int
    score: float
    promoted: bool
    def __init__(self, item: _Optional[_Union[Item, _Mapping]] = ..., rank: _Optional[int] = ..., score: _Optional[float] = ..., promoted: _Optional[bool] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("history_ms", "queue_ms", "prefill_ms", "decode_ms", "total_ms")
    HISTORY_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    history_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    total_ms: float
    def __init__(self, history_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., prefill_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class Speculation(_message.Message):
    __slots__ = ("rounds", "accepted_length", "accepted_length_without_forced")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_LENGTH_WITHOUT_FORCED_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    accepted_length: float
    accepted_length_without_forced: float
    def __init__(self, rounds: _Optional[int] = ..., accepted_length: _Optional[float] = ..., accepted_length_without_forced: _Optional[float] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("rounds", "accepted_tokens", "rejected_tokens", "forced_tokens", "candidates_per_slot", "accepted_per_slot")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FORCED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_PER_SLOT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_PER_SLOT_FIELD_NUMBER: _ClassVar[int]
    rounds: _containers.RepeatedCompositeFieldContainer[ExplainedRound]
    accepted_tokens: int
    rejected_tokens: int
    forced_tokens: int
    candidates_per_slot: _containers.RepeatedScalarFieldContainer[int]
    accepted_per_slot: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, rounds: _Optional[_Iterable[_Union[ExplainedRound, _Mapping]]] = ..., accepted_tokens: _Optional[int] = ..., rejected_tokens: _Optional[int] = ..., forced_tokens: _Optional[int] = ..., candidates_per_slot: _Optional[_Iterable[int]] = ..., accepted_per_slot: _Optional[_Iterable[int]] = ...) -> None: ...

class ExplainedRound(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[ExplainedToken]
    def __init__(self, tokens: _Optional[_Iterable[_Union[ExplainedToken, _Mapping]]] = ...) -> None: ...

class ExplainedToken(_message.Message):
    __slots__ = ("slot", "code", "parent", "drafted", "forced", "accepted", "item_id", "title")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    code: int
    parent: int
    drafted: bool
    forced: bool
    accepted: bool
    item_id: str
    title: str
    def __init__(self, slot: _Optional[int] = ..., code: _Optional[int] = ..., parent: _Optional[int] = ..., drafted: _Optional[bool] = ..., forced: _Optional[bool] = ..., accepted: _Optional[bool] = ..., item_id: _Optional[str] = ..., title: _Optional[str] = ...) -> None: ...

class BatchRecommendRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RecommendRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RecommendRequest, _Mapping]]] = ...) -> None: ...

class BatchRecommendResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchResult, _Mapping]]] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: RecommendResponse
    error: BatchError
    def __init__(self, response: _Optional[_Union[RecommendResponse, _Mapping]] = ..., error: _Optional[_Union[BatchError, _Mapping]] = ...) -> None: ...

class BatchError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("user_id", "item_id", "timestamp", "event_id", "recommendation_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    item_id: str
    timestamp: _timestamp_pb2.Timestamp
    event_id: str
    recommendation_id: str
    def __init__(self, user_id: _Optional[str] = ..., item_id: _Optional[str] = ..., timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., event_id: _Optional[str] = ..., recommendation_id: _Optional[str] = ...) -> None: ...

class RecordEventsRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class RecordEventsResponse(_message.Message):
    __slots__ = ("accepted", "ignored_item_ids", "joined")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    IGNORED_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    ignored_item_ids: _containers.RepeatedScalarFieldContainer[str]
    joined: int
    def __init__(self, accepted: _Optional[int] = ..., ignored_item_ids: _Optional[_Iterable[str]] = ..., joined: _Optional[int] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class GetHistoryResponse(_message.Message):
    __slots__ = ("user_id", "item_ids")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id: _Optional[str] = ..., item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteHistoryRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class DeleteHistoryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetItemRequest(_message.Message):
    __slots__ = ("item_id",)
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    def __init__(self, item_id: _Optional[str] = ...) -> None: ...
