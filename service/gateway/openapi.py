"""The OpenAPI document says how errors look."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from service.gateway.problems import MEDIA_TYPE, Problem

_REFERENCE = "#/components/schemas/{model}"
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        | ({"headers": _RETRY_AFTER} if status in (429, 503) else {})
        for status in statuses
    }


def with_problems(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """`openapi` with the schemas that `problems` refers to."""
    schema = Problem.model_json_schema(ref_template=_REFERENCE)
    schemas = schema.pop("$defs") | {Problem.__name__: schema}

    def complete() -> dict[str, Any]:
        document = openapi()
        document["components"]["schemas"].update(schemas)
        return document

    return complete
