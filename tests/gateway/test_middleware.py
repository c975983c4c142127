from collections.abc import AsyncIterator

import httpx
import pytest


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 512):
        yield b" " * 512


@pytest.mark.parametrize("path", ["/recommend", "/events"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long(client: httpx.AsyncClient, path: str, chunked: bool) -> None:
    content = chunks(8_192) if chunked else b" " * 8_192
    answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "the body is longer than 4096 bytes"


async def test_a_body_of_the_longest_size(client: httpx.AsyncClient) -> None:
    content = b'{"user_id": "ann"}'.ljust(4_096)
    answer = await client.post("/recommend", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
