"""What a client is made with."""

import asyncio
import ssl
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest
import trustme

from service.client import AsyncClient, CallError, Client
from service.client.deadline import Deadline, Timeouts
from service.client.errors import DeadlineError
from service.client.requests import NewEvent, Promotion, RecommendRequest
from service.errors import InputError
from service.gateway import query
from service.gateway.recommender import Recommender
from service.rpc.tls import ServerTls
from tests.gateway.http_server import served


@pytest.mark.parametrize(
    ("given", "model"),
    [(RecommendRequest, query.RecommendQuery), (NewEvent, query.NewEvent), (Promotion, query.Promotion)],
)
def test_callers_may_give_what_the_service_takes(given: Any, model: Any) -> None:
    assert set(get_type_hints(given)) == set(model.model_fields)
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    assert given.__required_keys__ == required


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "gateway", "", "ftp://gateway", "http://", "http://a:b"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(InputError, match="URL"):
        Client(url)


@pytest.mark.parametrize("api_key", ["", "secret\n", " secret", "sécret"])
def test_an_api_key_that_no_header_may_hold(api_key: str) -> None:
    with pytest.raises(InputError, match="API key"):
        AsyncClient(api_key=api_key)


@pytest.mark.parametrize("url", ["http://gateway/shop", "http://gateway/shop/"])
def test_a_gateway_behind_a_path(url: str) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(204)

    with Client(url, transport=httpx.MockTransport(answer)) as client:
        client.delete_history("a/b")
        client.delete_history("..")
    assert asked == ["http://gateway/shop/users/a%2Fb/history", "http://gateway/shop/users/%2E%2E/history"]


def test_what_is_left_is_what_httpx_waits_for() -> None:
    now = 10.0
    deadline = Deadline(5, lambda: now)
    timeouts = Timeouts(deadline)
    assert dict(timeouts) == dict.fromkeys(("connect", "read", "write", "pool"), 5)
    now = 14.0
    assert (timeouts.get("read"), deadline.rest_ms()) == (1, 1_000)
    assert deadline.allows(0.9)
    assert not deadline.allows(1)
    now = 14.9999
    assert (timeouts["read"], deadline.rest_ms()) == (0.001, 1)
    now = 15.0
    for rest in (deadline.rest, deadline.rest_ms, lambda: timeouts.get("read")):
        with pytest.raises(DeadlineError):
            rest()


class TestTls:
    @pytest.fixture
    def ca(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def files(self, ca: trustme.CA, tmp_path: Path) -> dict[str, Path]:
        files = {name: tmp_path / f"{name}.pem" for name in ("ca", "server", "server-key", "own", "own-key")}
        ca.cert_pem.write_to_path(files["ca"])
        for name, issued in (("server", ca.issue_cert("127.0.0.1")), ("own", ca.issue_cert("caller"))):
            issued.cert_chain_pems[0].write_to_path(files[name])
            issued.private_key_pem.write_to_path(files[f"{name}-key"])
        return files

    @pytest.mark.parametrize("asks", [False, True])
    async def test_the_gateway_is_known_and_may_know_its_caller(
        self, recommender: Recommender, files: dict[str, Path], asks: bool
    ) -> None:
        own = (files["own"], str(files["own-key"]))
        tls = ServerTls(files["server"], files["server-key"], files["ca"] if asks else None)
        async with served(recommender, tls) as (host, port):
            url = f"https://{host}:{port}"

            async def title(**options: Any) -> str:
                def ask() -> str:
                    with Client(url, **options) as client:
                        return client.get_item("item-1").title

                async with AsyncClient(url, **options) as client:
                    answer = (await client.get_item("item-1")).title
                assert await asyncio.to_thread(ask) == answer
                return answer

            context = ssl.create_default_context(cafile=files["ca"])
            for verify in (files["ca"], str(files["ca"]), context, False):
                assert await title(verify=verify, certificate=own) == "Item 1"
                if asks:
                    with pytest.raises(CallError):
                        await title(verify=ssl.create_default_context(cafile=files["ca"]), max_tries=1)
            with pytest.raises(CallError, match="CERTIFICATE_VERIFY_FAILED"):
                await title()

    def test_files_that_cannot_be_used(self, files: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "empty.pem").touch()
        for name in ("no-such.pem", "empty.pem"):
            file = tmp_path / name
            with pytest.raises(InputError, match=f"TLS: .*{name}"):
                Client(verify=file)
            with pytest.raises(InputError, match=f"TLS: .*{name}"):
                AsyncClient(certificate=(file, files["own-key"]))
