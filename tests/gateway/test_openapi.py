import json
from typing import Any

import httpx
import pytest


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/openapi.json")).json()


async def test_every_call_is_there_with_its_answer(document: dict[str, Any]) -> None:
    calls = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert calls == {
        ("/recommend", "post"),
        ("/recommend/batch", "post"),
        ("/recommend/stream", "post"),
        ("/events", "post"),
        ("/users/{user_id}/history", "get"),
        ("/users/{user_id}/history", "delete"),
        ("/items/{item_id}", "get"),
        ("/admin/bundle", "post"),
        ("/admin/bundle", "get"),
        ("/admin/items/withdraw", "post"),
        ("/admin/items/restore", "post"),
        ("/admin/items/withdrawn", "get"),
        ("/health/live", "get"),
        ("/health/startup", "get"),
        ("/health/ready", "get"),
    }
    answer = document["paths"]["/recommend"]["post"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"]["$ref"].endswith("/Recommendation")


async def test_errors_are_declared_as_problem_details(document: dict[str, Any]) -> None:
    responses = document["paths"]["/recommend"]["post"]["responses"]
    assert set(responses) == {"200", "404", "413", "422", "429", "500", "503", "504"}
    for status in set(responses) - {"200"}:
        assert list(responses[status]["content"]) == ["application/problem+json"]
    assert "Retry-After" in responses["429"]["headers"]


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert {"Problem", "FieldError", "RecommendQuery"} <= names
    assert names <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in text


async def test_queries_have_bounds_and_examples(document: dict[str, Any]) -> None:
    query = document["components"]["schemas"]["RecommendQuery"]
    assert query["examples"]
    assert query["additionalProperties"] is False
    num_items = query["properties"]["num_items"]
    assert (num_items["minimum"], num_items["maximum"], num_items["default"]) == (1, 50, 10)
    assert query["properties"]["top_p"]["minimum"] == 0.001
    temperature = query["properties"]["temperature"]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert "from 0.01 on" in temperature["description"]


async def test_what_speculation_says_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert "speculation" in schemas["Recommendation"]["required"]
    properties = schemas["Speculation"]["properties"]
    assert set(properties) == {"rounds", "accepted_length", "accepted_length_without_forced"}
    assert all(field["description"] for field in properties.values())
