"""`padrec swap` against a gateway of a few answers; against a real one in `tests/e2e/test_updates.py`."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest


class Gateway(HTTPServer):
    """Answers with what it is given, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, Any, str | None]] = []


class Answers(BaseHTTPRequestHandler):
    server: Gateway

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(
            (f"{self.command} {self.path}", json.loads(body or b"null"), self.headers.get("X-API-Key"))
        )
        status, answer = self.server.answers.pop(0)
        if status == 0:
            return  # as one that dies
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as gateway:
        thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield gateway
        gateway.shutdown()
        thread.join()


def swap(state: str, swap_id: str = "1", **more: object) -> dict[str, Any]:
    return {"swap_id": swap_id, "bundle": "/new", "state": state, "error": None, "seconds": 0.5, **more}


def told(bundle: str, now: dict[str, Any] | None) -> dict[str, Any]:
    serving = {"bundle": bundle, "model_version": "m", "catalog_version": "c", "num_items": 9}
    return {"serving": serving, "swap": now}


def test_every_state_is_a_line(padrec, gateway: Gateway) -> None:
    gateway.answers = [
        (202, swap("checking")),
        (200, told("/old", swap("checking"))),
        (200, told("/old", swap("loading"))),
        (0, None),
        (429, {"detail": "the key is past its rate"}),
        (200, told("/new", swap("draining"))),
        (200, told("/new", swap("done"))),
    ]
    done = padrec("swap", "/new", "--url", gateway.url + "/", "--api-key", "k", "--worker", "h:1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "new: checking the bundle's files (0.5 s)",
        "new: loading it beside the one that serves (0.5 s)",
        "new: draining the old one (0.5 s)",
    ]
    assert done.stdout.startswith("serving /new: model m, catalogue c (9 items), after ")
    body = {"bundle": "/new", "worker": "h:1"}
    assert gateway.asked[0] == ("POST /admin/bundle", body, "k")
    assert gateway.asked[1] == ("GET /admin/bundle", None, "k")


def test_a_relative_folder_is_sent_whole(padrec, gateway: Gateway, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    gateway.answers = [(422, {"detail": "bundle: no such bundle"})]
    done = padrec("swap", "new", "--url", gateway.url)
    assert (done.returncode, done.stderr) == (2, "padrec: 422 bundle: no such bundle\n")
    assert gateway.asked == [("POST /admin/bundle", {"bundle": str(tmp_path / "new"), "worker": None}, None)]


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ([(409, {"detail": "a swap is under way"})], "409 a swap is under way"),
        ([(404, "no JSON")], "what answers at {url}/admin/bundle is no padrec gateway"),
        (
            [(202, swap("checking")), (200, told("/old", swap("failed", error="it is torn")))],
            "/old serves on: it is torn",
        ),
        (
            [(202, swap("checking")), (200, told("/old", None))],
            "the gateway ended during the swap; /old serves on",
        ),
        (
            [(202, swap("checking")), (200, told("/old", swap("done", swap_id="2")))],
            "the gateway ended during the swap; /old serves on",
        ),
    ],
)
def test_what_went_wrong_is_one_line(padrec, gateway: Gateway, answers: list[Any], line: str) -> None:
    gateway.answers = answers
    done = padrec("swap", "/new", "--url", gateway.url)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "padrec: " + line.format(url=gateway.url)


def test_a_gateway_that_was_started_anew_with_the_bundle_serves_it(padrec, gateway: Gateway) -> None:
    gateway.answers = [(202, swap("checking")), (200, told("/new", None))]
    done = padrec("swap", "/new", "--url", gateway.url)
    assert done.returncode == 0
    assert done.stdout.startswith("serving /new: ")


def test_nobody_there_is_one_line(padrec) -> None:
    done = padrec("swap", "/new", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith("padrec: no padrec gateway answers at http://127.0.0.1:9: ")
