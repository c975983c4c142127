"""The OpenAPI document says how errors look."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from service.gateway.access import CALLS
from service.gateway.answer import Problem
from service.gateway.problems import MEDIA_TYPE

_REFERENCE = "#/components/schemas/{model}"
_FOR_WHAT = "For scope read: {read}; events: {events}; admin: everything."
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


def with_keys(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """`openapi` of a service that asks for API keys: how to send one, and which calls may refuse it."""
    refusals = {str(status): told for status, told in problems(401, 403, 429).items()}
    names = {
        scope: ", ".join(name for name, _, needs in CALLS if needs == scope) for scope in ("read", "events")
    }
    said = {"description": _FOR_WHAT.format(**names)}
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer", **said},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", **said},
    }
    either: list[dict[str, list[str]]] = [{name: []} for name in schemes]

    def complete() -> dict[str, Any]:
        document = openapi()
        document["components"]["securitySchemes"] = schemes
        for methods in document["paths"].values():
            for operation in methods.values():
                if "health" not in operation.get("tags", ()):
                    operation["security"] = either
                    operation["responses"] |= refusals
        return document

    return complete
