import pytest
import structlog

from service.telemetry.requests import REQUEST_ID, received, request_id, sent_along


@pytest.mark.parametrize("given", ["a", "Root=1-67891233-abcdef", "x" * 128, "two words"])
def test_a_callers_id_is_kept(given: str) -> None:
    assert received({REQUEST_ID: given}) == given
    assert request_id() == given
    assert sent_along() == ((REQUEST_ID, given),)


@pytest.mark.parametrize("given", ["", "x" * 129, "naïve", "a\tb", "a\x1b[31mb", "a\x7f"])
def test_what_is_no_id_is_replaced(given: str) -> None:
    made = received({REQUEST_ID: given})
    assert len(made) == 32
    assert made != received({})


def test_nothing_of_the_request_before_remains() -> None:
    structlog.contextvars.bind_contextvars(key="shop", trace_id="1")
    received({REQUEST_ID: "b"})
    assert structlog.contextvars.get_contextvars() == {"request_id": "b"}
