import pickle

import pytest

from deploy.ray.answers import Refusal
from service.errors import (
    DeadlineExceededError,
    PadrecError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from service.rpc.status import CatalogMismatchError


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (QueueFullError("why", 2.5), QueueFullError),
        (UnavailableError("why", 0.25), UnavailableError),
        (CatalogMismatchError("why"), CatalogMismatchError),
        (DeadlineExceededError("why"), DeadlineExceededError),
        (RequestError("history", "why"), PadrecError),
        (PadrecError("why"), PadrecError),
    ],
)
def test_a_refusal_travels_as_the_internal_protocol_says_it(
    error: PadrecError, found: type[PadrecError]
) -> None:
    told = pickle.loads(pickle.dumps(Refusal.of(error))).error()
    assert type(told) is found
    assert "why" in str(told)
    assert getattr(told, "retry_after", None) == getattr(error, "retry_after", None)
