"""`padrec health`, of gateways over HTTP, TLS and Unix sockets, and of workers over gRPC."""

import asyncio
import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from service.rpc.server import WorkerServer
from service.rpc.tls import ServerTls
from tests.certificates import Certificates
from tests.rpc.test_client_and_server import Scripted


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = self.server.answer
        self.send_response(status if self.path == "/health/ready" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(status: int, body: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        server.answer = status, body
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_a_gateway_that_is_ready(padrec: Callable) -> None:
    with answering(200, b"{}") as port:
        done = padrec("health", "--url", f"http://127.0.0.1:{port}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_gateway_that_is_not(padrec: Callable) -> None:
    problem = json.dumps({"detail": "not ready: worker"}).encode()
    with answering(503, problem) as port:
        done = padrec("health", "--url", f"http://127.0.0.1:{port}/")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "padrec: not ready: worker\n")


def test_something_else_and_nothing(padrec: Callable) -> None:
    with answering(404, b"[]") as port:
        done = padrec("health", "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "answers 404, and is no padrec gateway" in done.stderr
    for options in (("--url", f"http://127.0.0.1:{port}"), ("--grpc", f"127.0.0.1:{port}")):
        done = padrec("health", *options)
        assert done.returncode == 1
        assert done.stderr.startswith("padrec: nothing answers at ")
        assert done.stderr.count("\n") == 1


def test_a_gateway_with_tls(padrec: Callable, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    with answering(200, b"{}", context) as port:
        url = f"https://127.0.0.1:{port}"
        assert padrec("health", "--url", url, "--ca", certificates.ca).returncode == 0
        assert padrec("health", "--url", url, "--ca", certificates.other_ca).returncode == 1


def test_a_gateways_local_socket(padrec: Callable, tmp_path: Path) -> None:
    class Local(socketserver.UnixStreamServer):
        answer = 200, b"{}"

    class LocalAnswers(Answers):
        def setup(self) -> None:
            super().setup()
            self.client_address = ("local", 0)

    path = tmp_path / "gateway"
    with Local(str(path), LocalAnswers) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert padrec("health", "--url", f"unix:{path}").returncode == 0
        thread.join()


@contextmanager
def worker(listen: str, tls: ServerTls | None = None) -> Iterator[tuple[str, Callable[[str], None]]]:
    """A worker on a thread of its own: its address, and what makes it serve or drain."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    async def make() -> WorkerServer:
        return WorkerServer(listen, tls)

    server = do(make())
    address = do(server.start())
    try:
        yield address, lambda what: do(server.serve(Scripted()) if what == "serve" else server.drain())
    finally:
        do(server.stop(0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize("on", ["tcp", "unix"])
def test_a_worker(padrec: Callable, tmp_path: Path, on: str) -> None:
    with worker("127.0.0.1:0" if on == "tcp" else f"unix:{tmp_path}/w") as (address, make):
        starting = padrec("health", "--grpc", address)
        assert (starting.returncode, starting.stderr) == (1, f"padrec: {address} is NOT_SERVING\n")
        make("serve")
        assert padrec("health", "--grpc", address).returncode == 0
        make("drain")
        assert padrec("health", "--grpc", address).returncode == 1


def test_a_worker_with_tls(padrec: Callable, certificates: Certificates) -> None:
    pair = certificates.server
    with worker("127.0.0.1:0", ServerTls(pair.certificate, pair.key, certificates.ca)) as (address, make):
        make("serve")
        ask = (
            "health",
            "--grpc",
            address,
            "--ca",
            certificates.ca,
            "--certificate",
            certificates.client.certificate,
        )
        ask = (*ask, "--key", certificates.client.key)
        assert padrec(*ask).returncode == 0
        assert padrec(*ask, "--server-name", "localhost").returncode == 0
        assert padrec(*ask, "--server-name", "elsewhere").returncode == 1
        assert padrec("health", "--grpc", address).returncode == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--grpc", "worker"), "'worker' is no address"),
        (("--ca", "none.pem", "--url", "https://127.0.0.1:1"), r"none.pem: No such file"),
        (("--certificate", "c.pem"), "give --certificate and --key together"),
    ],
)
def test_options_that_are_wrong(padrec: Callable, options: tuple[str, ...], said: str) -> None:
    done = padrec("health", *options)
    assert done.returncode == 2
    assert said in done.stderr
