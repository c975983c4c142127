"""docs/security.md, as it stands: only the ports are free ones, and the shop's bundle the tests' own."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from service.config import load_settings
from service.gateway.keys import read_keys
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from service.rpc.tls import ClientTls
from tests.certificates import Certificates
from tests.history.conftest import free_port
from tests.pages import shell

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
COMMANDS, SETTINGS = (re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.S) for kind in ("sh", "toml"))


@pytest.fixture
def folder(bundle: Path, certificates: Certificates, tmp_path: Path) -> Path:
    """Where an operator stands."""
    (tmp_path / "shop-bundle").symlink_to(bundle)
    for name, file in {
        "ca.pem": certificates.ca,
        "clients-ca.pem": certificates.ca,
        "gateway.pem": certificates.server.certificate,
        "gateway.key": certificates.server.key,
        "client.pem": certificates.client.certificate,
        "client.key": certificates.client.key,
    }.items():
        (tmp_path / name).symlink_to(file)
    return tmp_path


def run(commands: str, folder: Path) -> str:
    done = shell(commands, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_keys_and_tls_as_the_page_says(folder: Path, certificates: Certificates) -> None:
    make, revoke, serve, call, vacuum = COMMANDS
    key, *_ = run(make, folder).splitlines()
    run(revoke, folder)
    assert [one.name for one in read_keys(folder / "keys.json")] == ["shop"]

    ports = {"8443": str(free_port()), "8444": str(free_port())}

    def with_ports(text: str) -> str:
        return re.sub("|".join(ports), lambda found: ports[found[0]], text)

    (folder / "padrec.toml").write_text(with_ports(SETTINGS[0]))
    server = subprocess.Popen(
        [sys.executable, "-m", "service.cli", *serve.split()[1:]], cwd=folder, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert server.stderr is not None
        url = next(line.split(" at ")[1].strip() for line in server.stderr if line.startswith("serving "))
        assert url == f"https://127.0.0.1:{ports['8443']}"
        answer, table = run(with_ports(call), folder).split("}rank", 1)
        assert json.loads(answer + "}")["fallback"] == "cold_start"
        assert "fallback: cold_start" in table
        client = certificates.client
        known = ClientTls(certificates.ca, client.certificate, client.key)
        check_callers(url, f"127.0.0.1:{ports['8444']}", key, known, ClientTls(certificates.ca))
    finally:
        server.terminate()
        assert server.wait(timeout=60) == 0
        assert server.stderr is not None
        server.stderr.close()
    run(vacuum, folder)


def check_callers(url: str, address: str, key: str, known: ClientTls, unknown: ClientTls) -> None:
    with httpx.Client(base_url=url, verify=known.context(), headers={"x-api-key": key}, timeout=30) as client:
        event: dict[str, Any] = {"user_id": "eve", "item_id": "3"}
        assert client.post("/events", json={"events": [event]}).json()["accepted"] == 1
        assert client.post("/recommend", json={"user_id": "eve"}).json()["fallback"] is None
    with httpx.Client(base_url=url, verify=known.context()) as client:
        assert client.post("/recommend", json={"user_id": "eve"}).status_code == 401
    with httpx.Client(base_url=url, verify=unknown.context()) as client, pytest.raises(httpx.TransportError):
        client.get("/health/live")
    with grpc.secure_channel(address, known.credentials()) as channel:
        stub = recommender_pb2_grpc.RecommenderStub(channel)
        asked = pb.RecommendRequest(user_id="eve")
        assert len(stub.Recommend(asked, timeout=30, metadata=(("x-api-key", key),)).items) == 10
        with pytest.raises(grpc.RpcError) as caught:
            stub.Recommend(asked, timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_every_setting_on_the_page_exists(folder: Path) -> None:
    for number, text in enumerate(SETTINGS):
        file = folder / f"{number}.toml"
        file.write_text(text)
        load_settings(file)


def test_a_caller_without_its_key_or_certificate_is_told_in_one_line(
    serve, bundle: Path, certificates: Certificates, padrec, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    key = padrec("keys", "new", "app", "--scope", "read", "--file", file).stdout.strip()
    settings = {
        "PADREC_GATEWAY__KEYS_FILE": str(file),
        "PADREC_GATEWAY__TLS_CERTIFICATE": str(certificates.server.certificate),
        "PADREC_GATEWAY__TLS_KEY": str(certificates.server.key),
    }
    with serve(bundle, tmp_path / "history.sqlite3", **settings) as service:
        assert service.url.startswith("https://")
        ask = ("recommend", "u", "--history", "3,4", "--json", "--url", service.url)
        done = padrec(*ask, "--ca", certificates.ca, "--api-key", key)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["items"]) == 10
        for options, said in (
            (("--ca", certificates.ca), "401 give an API key"),
            (("--ca", certificates.ca, "--api-key", "wrong"), "401 there is no such API key"),
            (("--api-key", key), "certificate verify failed"),
            (("--ca", file, "--api-key", key), "keys.json holds no certificate"),
            (("--ca", certificates.ca, "--key", file), "--certificate and --key together"),
        ):
            done = padrec(*ask, *options)
            assert done.returncode == 2
            assert said in done.stderr
            assert len(done.stderr.splitlines()) == 1
