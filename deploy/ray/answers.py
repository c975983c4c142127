"""What a replica answers, as plain data: of an error's class and its fields pickling keeps too little."""

from dataclasses import dataclass
from typing import Self

import grpc

from service.errors import PadrecError, QueueFullError, UnavailableError
from service.rpc.status import code_of, error_from
from service.types import DecodedItem, DecodedList

# Of the model's version.
Written = tuple[DecodedList, str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no list, in the terms of the internal protocol.

    Attributes:
        code: the name of a gRPC status.
        details: one clear line.
        retry_after: seconds after which a retry makes sense, where it does.
    """

    code: str
    details: str
    retry_after: float = 1.0

    @classmethod
    def of(cls, error: PadrecError) -> Self:
        """The refusal that says this error."""
        code, details = code_of(error).name, str(error)
        if isinstance(error, QueueFullError | UnavailableError):
            return cls(code, details, error.retry_after)
        return cls(code, details)

    def error(self) -> PadrecError:
        """The error that a gateway makes of it."""
        return error_from(grpc.StatusCode[self.code], self.details, self.retry_after)


Update = tuple[DecodedItem, ...] | Written | Refusal
