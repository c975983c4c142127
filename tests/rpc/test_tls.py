"""TLS between gateway and worker, with real certificates; and files that are none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from service.config import GatewaySettings, WorkerSettings
from service.errors import InputError, UnavailableError
from service.rpc.client import WorkerClient
from service.rpc.server import WorkerServer
from service.rpc.tls import ClientTls, ServerTls, server_tls, worker_client_tls
from tests.certificates import Certificates
from tests.rpc.test_client_and_server import DECODED, REQUEST, Scripted


@pytest.fixture
def server_side(certificates: Certificates) -> ServerTls:
    settings = WorkerSettings(
        tls_certificate=certificates.server.certificate,
        tls_key=certificates.server.key,
        tls_client_ca=certificates.ca,
    )
    tls = server_tls(settings)
    assert tls is not None
    return tls


@pytest.fixture
def client_side(certificates: Certificates) -> ClientTls:
    settings = GatewaySettings(
        worker_tls_ca=certificates.ca,
        worker_tls_certificate=certificates.client.certificate,
        worker_tls_key=certificates.client.key,
    )
    tls = worker_client_tls(settings)
    assert tls is not None
    return tls


@asynccontextmanager
async def serving(tls: ServerTls | None, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    server = WorkerServer(listen, tls)
    address = await server.start()
    await server.serve(Scripted())
    yield address
    await server.stop(0)


async def decoded(address: str, tls: ClientTls | None) -> bool:
    """Whether a list comes back; False: the worker cannot be reached."""
    client = WorkerClient(address, "c1", tls)
    try:
        async with asyncio.timeout(30):
            return await client.decode(REQUEST, timeout=10) == (DECODED, "m1")
    except UnavailableError:
        assert not await client.ready()
        return False
    finally:
        await client.close()


def test_without_settings_there_is_none() -> None:
    assert server_tls(WorkerSettings()) is server_tls(GatewaySettings()) is None
    assert worker_client_tls(GatewaySettings()) is None


async def test_each_knows_the_other(server_side: ServerTls, client_side: ClientTls) -> None:
    async with serving(server_side) as address:
        assert await decoded(address, client_side)


async def test_who_shows_no_certificate_or_a_strangers_is_not_let_in(
    server_side: ServerTls, client_side: ClientTls, certificates: Certificates
) -> None:
    stranger = certificates.stranger
    async with serving(server_side) as address:
        for tls in (
            None,
            ClientTls(certificates.ca),
            replace(client_side, certificate=stranger.certificate, key=stranger.key),
        ):
            assert not await decoded(address, tls)
        assert await decoded(address, client_side)


async def test_a_gateway_speaks_to_no_stranger(
    server_side: ServerTls, client_side: ClientTls, certificates: Certificates
) -> None:
    stranger = ServerTls(certificates.stranger.certificate, certificates.stranger.key)
    for tls in (None, stranger):
        async with serving(tls) as address:
            assert not await decoded(address, client_side)
    async with serving(replace(server_side, client_ca=None)) as address:
        assert await decoded(address, ClientTls(certificates.ca))
        assert not await decoded(address, ClientTls(certificates.other_ca))


async def test_a_unix_socket_needs_none(
    server_side: ServerTls, client_side: ClientTls, tmp_path: Path
) -> None:
    async with serving(server_side, f"unix:{tmp_path / 'w'}") as address:
        assert await decoded(address, client_side)
        assert await decoded(address, None)


def test_files_that_cannot_be_used_are_named(certificates: Certificates, tmp_path: Path) -> None:
    server, client = certificates.server, certificates.client
    none, text = tmp_path / "none.pem", tmp_path / "text.pem"
    text.write_text("no certificate")
    for tls, said in (
        (ServerTls(none, server.key), r"none\.pem: No such file"),
        (ServerTls(server.certificate, tmp_path), f"{tmp_path}: Is a directory"),
        (ServerTls(server.certificate, client.key), r"server\.pem and .*client\.key are no certificate and its key"),
        (ServerTls(text, server.key), r"text\.pem and .*server\.key are no"),
        (ServerTls(server.certificate, server.key, text), r"text\.pem holds no certificate"),
    ):  # fmt: skip
        for ask in (tls.check, tls.credentials):
            with pytest.raises(InputError, match=said):
                ask()
    for tls, said in (
        (ClientTls(text), r"text\.pem holds no certificate"),
        (ClientTls(certificates.ca, client.certificate, server.key), "are no certificate and its key"),
    ):
        for ask in (tls.context, tls.credentials):
            with pytest.raises(InputError, match=said):
                ask()


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(
    certificates: Certificates, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(certificates.server.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InputError, match=r"encrypted\.key .*not encrypted"):
        ServerTls(certificates.server.certificate, encrypted).check()


async def test_a_worker_that_cannot_use_its_files_does_not_listen(certificates: Certificates) -> None:
    tls = ServerTls(certificates.server.certificate, certificates.client.key)
    with pytest.raises(InputError, match="are no certificate"):
        await WorkerServer("127.0.0.1:0", tls).start()


async def test_the_channel_is_not_in_the_clear(server_side: ServerTls) -> None:
    async with serving(server_side) as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
