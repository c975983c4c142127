"""A gateway process with TLS: both protocols, with and without certificates of callers."""

import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from service.errors import InputError
from service.gateway.keys import add_key
from service.gateway.server import run_gateway
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from service.rpc.tls import ClientTls
from tests.certificates import Certificates
from tests.gateway.test_server import RUN, settings_of


@dataclass
class Gateway:
    url: str
    grpc: str


@contextmanager
def running(bundle: Path, folder: Path, **settings: Any) -> Iterator[Gateway]:
    made = settings_of(folder, grpc_port=0, **settings)
    command = [sys.executable, "-c", RUN, str(bundle), made.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            first, second = (json.loads(process.stderr.readline()) for _ in range(2))
            yield Gateway(url=second["url"], grpc=first["address"])
        finally:
            process.kill()


@pytest.fixture
def tls(certificates: Certificates) -> dict[str, Any]:
    return {"tls_certificate": certificates.server.certificate, "tls_key": certificates.server.key}


def rest_answers(gateway: Gateway, tls: ClientTls) -> bool:
    try:
        with httpx.Client(base_url=gateway.url, verify=tls.context()) as client:
            return client.post("/recommend", json={"user_id": "ann"}).json()["fallback"] == "cold_start"
    except httpx.TransportError:
        return False


def grpc_answers(gateway: Gateway, credentials: grpc.ChannelCredentials, **call: Any) -> bool:
    with grpc.secure_channel(gateway.grpc, credentials) as channel:
        stub = recommender_pb2_grpc.RecommenderStub(channel)
        try:
            answer = stub.Recommend(pb.RecommendRequest(user_id="ann"), timeout=10, **call)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return answer.fallback == pb.FALLBACK_COLD_START


def test_both_protocols_speak_tls_and_nothing_else(
    tmp_path: Path, make_bundle: Callable[..., Path], certificates: Certificates, tls: dict[str, Any]
) -> None:
    with running(make_bundle(tmp_path), tmp_path, **tls) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")
        ours, theirs = ClientTls(certificates.ca), ClientTls(certificates.other_ca)
        assert rest_answers(gateway, ours)
        assert grpc_answers(gateway, ours.credentials())
        assert not rest_answers(gateway, theirs)
        assert not grpc_answers(gateway, theirs.credentials())
        with pytest.raises(httpx.TransportError):
            httpx.get(gateway.url.replace("https", "http") + "/health/live")


def test_callers_show_a_certificate_where_one_is_asked_for(
    tmp_path: Path, make_bundle: Callable[..., Path], certificates: Certificates, tls: dict[str, Any]
) -> None:
    local = tmp_path / "local"
    asked = {**tls, "tls_client_ca": certificates.ca, "local_socket": local}
    with running(make_bundle(tmp_path), tmp_path, **asked) as gateway:
        client, stranger = certificates.client, certificates.stranger
        known = ClientTls(certificates.ca, client.certificate, client.key)
        assert rest_answers(gateway, known)
        assert grpc_answers(gateway, known.credentials())
        for tls_of in (
            ClientTls(certificates.ca),
            ClientTls(certificates.ca, stranger.certificate, stranger.key),
        ):
            assert not rest_answers(gateway, tls_of)
            assert not grpc_answers(gateway, tls_of.credentials())
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(local)), base_url="http://local") as inside:
            assert inside.get("/health/live").status_code == 200
        assert local.stat().st_mode & 0o777 == 0o600


def test_keys_travel_inside(
    tmp_path: Path, make_bundle: Callable[..., Path], certificates: Certificates, tls: dict[str, Any]
) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "shop", ["read"])
    with running(make_bundle(tmp_path), tmp_path, **tls, keys_file=file) as gateway:
        ours = ClientTls(certificates.ca)
        with httpx.Client(base_url=gateway.url, verify=ours.context()) as client:
            assert client.post("/recommend", json={"user_id": "ann"}).status_code == 401
            answer = client.post("/recommend", json={"user_id": "ann"}, headers={"x-api-key": key})
            assert answer.status_code == 200
        credentials = grpc.composite_channel_credentials(
            ours.credentials(), grpc.access_token_call_credentials(key)
        )
        assert grpc_answers(gateway, credentials)  # as `authorization: Bearer`


def test_old_versions_of_tls_are_refused(
    tmp_path: Path, make_bundle: Callable[..., Path], certificates: Certificates, tls: dict[str, Any]
) -> None:
    context = ClientTls(certificates.ca).context()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        running(make_bundle(tmp_path), tmp_path, **tls) as gateway,
        httpx.Client(base_url=gateway.url, verify=context) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get("/health/live")


@pytest.mark.parametrize("file", ["tls_key", "keys_file", "tls_client_ca", "worker_tls_ca"])
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path,
    make_bundle: Callable[..., Path],
    tls: dict[str, Any],
    file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.gateway.server.configure_logging", lambda _: None)
    settings = settings_of(tmp_path, **{**tls, "worker": "127.0.0.1:1", file: tmp_path / "missing"})
    with pytest.raises(InputError, match=r"missing: No such file") as caught:
        run_gateway(make_bundle(tmp_path), settings)
    assert "\n" not in str(caught.value)
