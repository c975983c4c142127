from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODING_LIST: _ClassVar[Decoding]
    DECODING_BEAM: _ClassVar[Decoding]
DECODING_LIST: Decoding
DECODING_BEAM: Decoding

class DecodeRequest(_message.Message):
    __slots__ = ("request_id", "catalog_version", "history", "excluded", "num_items", "temperature", "top_p", "seed", "priority", "decoding", "allowed", "explain")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DECODING_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    catalog_version: str
    history: _containers.RepeatedScalarFieldContainer[int]
    excluded: _containers.RepeatedScalarFieldContainer[int]
    num_items: int
    temperature: float
    top_p: float
    seed: int
    priority: int
    decoding: Decoding
    allowed: bytes
    explain: bool
    def __init__(self, request_id: _Optional[str] = ..., catalog_version: _Optional[str] = ..., history: _Optional[_Iterable[int]] = ..., excluded: _Optional[_Iterable[int]] = ..., num_items: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., priority: _Optional[int] = ..., decoding: _Optional[_Union[Decoding, str]] = ..., allowed: _Optional[bytes] = ..., explain: _Optional[bool] = ...) -> None: ...

class DecodedItem(_message.Message):
    __slots__ = ("row", "score")
    ROW_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    row: int
    score: float
    def __init__(self, row: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class SpeculationCounts(_message.Message):
    __slots__ = ("num_drafts", "num_draft_tokens", "accepted_per_position", "accepted_per_slot")
    NUM_DRAFTS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_PER_POSITION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_PER_SLOT_FIELD_NUMBER: _ClassVar[int]
    num_drafts: int
    num_draft_tokens: int
    accepted_per_position: _containers.RepeatedScalarFieldContainer[int]
    accepted_per_slot: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, num_drafts: _Optional[int] = ..., num_draft_tokens: _Optional[int] = ..., accepted_per_position: _Optional[_Iterable[int]] = ..., accepted_per_slot: _Optional[_Iterable[int]] = ...) -> None: ...

class DecodeReply(_message.Message):
    __slots__ = ("items", "exhausted", "model_version", "num_rounds", "num_forced_tokens", "queue_seconds", "prefill_seconds", "decode_seconds", "num_round_tokens", "num_round_forced_tokens", "speculation", "rounds")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    NUM_FORCED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUND_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUND_FORCED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DecodedItem]
    exhausted: bool
    model_version: str
    num_rounds: int
    num_forced_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    num_round_tokens: int
    num_round_forced_tokens: int
    speculation: SpeculationCounts
    rounds: _containers.RepeatedCompositeFieldContainer[Round]
    def __init__(self, items: _Optional[_Iterable[_Union[DecodedItem, _Mapping]]] = ..., exhausted: _Optional[bool] = ..., model_version: _Optional[str] = ..., num_rounds: _Optional[int] = ..., num_forced_tokens: _Optional[int] = ..., queue_seconds: _Optional[float] = ..., prefill_seconds: _Optional[float] = ..., decode_seconds: _Optional[float] = ..., num_round_tokens: _Optional[int] = ..., num_round_forced_tokens: _Optional[int] = ..., speculation: _Optional[_Union[SpeculationCounts, _Mapping]] = ..., rounds: _Optional[_Iterable[_Union[Round, _Mapping]]] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[TracedToken]
    def __init__(self, tokens: _Optional[_Iterable[_Union[TracedToken, _Mapping]]] = ...) -> None: ...

class TracedToken(_message.Message):
    __slots__ = ("slot", "code", "parent", "is_drafted", "is_forced", "is_accepted", "row")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    IS_DRAFTED_FIELD_NUMBER: _ClassVar[int]
    IS_FORCED_FIELD_NUMBER: _ClassVar[int]
    IS_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    slot: int
    code: int
    parent: int
    is_drafted: bool
    is_forced: bool
    is_accepted: bool
    row: int
    def __init__(self, slot: _Optional[int] = ..., code: _Optional[int] = ..., parent: _Optional[int] = ..., is_drafted: _Optional[bool] = ..., is_forced: _Optional[bool] = ..., is_accepted: _Optional[bool] = ..., row: _Optional[int] = ...) -> None: ...

class DecodeUpdate(_message.Message):
    __slots__ = ("items", "done")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    items: DecodedItems
    done: DecodeReply
    def __init__(self, items: _Optional[_Union[DecodedItems, _Mapping]] = ..., done: _Optional[_Union[DecodeReply, _Mapping]] = ...) -> None: ...

class DecodedItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DecodedItem]
    def __init__(self, items: _Optional[_Iterable[_Union[DecodedItem, _Mapping]]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("model_version", "catalog_version", "num_running", "max_batch", "num_waiting", "max_queue")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    catalog_version: str
    num_running: int
    max_batch: int
    num_waiting: int
    max_queue: int
    def __init__(self, model_version: _Optional[str] = ..., catalog_version: _Optional[str] = ..., num_running: _Optional[int] = ..., max_batch: _Optional[int] = ..., num_waiting: _Optional[int] = ..., max_queue: _Optional[int] = ...) -> None: ...
