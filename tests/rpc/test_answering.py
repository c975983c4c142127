import pytest

from service.errors import PadrecError, RequestError, UnavailableError
from service.rpc.answering import Answering, as_told
from service.rpc.messages import WorkerDescription
from service.rpc.status import CatalogMismatchError


class Described:
    """A handler that says what it serves, and is asked no more here."""

    def describe(self) -> WorkerDescription:
        return WorkerDescription("m", "c", 0, 1, 0, 1)


def test_nobody_answers_before_and_after() -> None:
    answering, handler = Answering(), Described()
    with pytest.raises(UnavailableError, match="starting"):
        answering.handler()
    answering.begin(handler)
    assert answering.handler() is handler
    assert answering.handler_of("c") == (handler, handler.describe())
    answering.end()
    with pytest.raises(UnavailableError, match="draining"):
        answering.handler_of("c")


def test_another_catalogue_is_refused() -> None:
    answering = Answering()
    answering.begin(Described())
    with pytest.raises(CatalogMismatchError, match="speaks catalogue 'other', the worker serves 'c'"):
        answering.handler_of("other")


def test_callers_learn_nothing_of_a_bug() -> None:
    ours = RequestError("history", "is empty")
    assert as_told(ours) is ours
    told = as_told(KeyError("a secret"))
    assert type(told) is PadrecError
    assert str(told) == "internal error of the worker"
