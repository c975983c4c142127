"""Bundles are swapped and items withdrawn under load: no request fails, and no answer is of two versions."""

import json
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest

from service.catalog.bundle import ITEMS, POPULAR, TARGET, Bundle, seal
from service.catalog.items import Catalogue
from service.files import write_json
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from tests.callers import calling

_PAUSE = 0.02  # seconds between two calls, so that a small machine has time for what they are to disturb


def remade(bundle: Path, folder: Path, prefix: str = "", **target: object) -> Path:
    """A bundle whose items have other IDs, and whose target has another version, but the same weights.

    Args:
        bundle: what it is made of.
        folder: where.
        prefix: of the IDs.
        target: what its configuration says otherwise.
    """
    shutil.copytree(bundle, folder)
    opened = Bundle.open(bundle)
    old = opened.read_catalogue()
    ids = [prefix + item_id for item_id in old.item_ids]
    Catalogue.build(ids, old.codes, ids).write(folder / ITEMS)
    write_json(folder / POPULAR, [prefix + item_id for item_id in opened.read_popular()])
    config = json.loads((folder / TARGET / "config.json").read_text())
    write_json(folder / TARGET / "config.json", {**config, "made_for": str(folder), **target})
    seal(folder, num_items=len(old), layout=opened.layout, decoding=opened.manifest.decoding, training={})
    return folder


@pytest.fixture(scope="module")
def other(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remade(bundle, tmp_path_factory.mktemp("other") / "other", "new-")


class Callers:
    """Six who never stop asking: for lists, batches and streams, over REST and gRPC, with histories and without.

    Args:
        service: whom.
        bundles: those that may answer.
    """

    def __init__(self, service, *bundles: Path) -> None:
        self._service = service
        manifests = [Bundle.open(bundle, only=()).manifest for bundle in bundles]
        self.models = {one.catalog_version: one.model_version for one in manifests}
        self.items = {
            one.catalog_version: set(Bundle.open(bundle).read_catalogue().item_ids)
            for one, bundle in zip(manifests, bundles, strict=True)
        }
        self.served: Counter[str] = Counter()  # by catalogue version
        self.faults: list[str] = []
        self._forbidden: frozenset[str] = frozenset()
        self._over = threading.Event()
        self._lock = threading.Lock()

    def forbid(self, item_ids: list[str]) -> None:
        """From now on no list that is asked for may hold these."""
        self._forbidden |= set(item_ids)

    def check(
        self, catalog_version: str, model_version: str, item_ids: list[str], forbidden: frozenset[str]
    ) -> None:
        """One list, and what was forbidden when it was asked for."""
        with self._lock:
            self.served[catalog_version] += 1
            if self.models[catalog_version] != model_version:
                self.faults.append(f"model {model_version} of catalogue {catalog_version}")
            if len(item_ids) != 10 or not self.items[catalog_version].issuperset(item_ids):
                self.faults.append(f"{item_ids} of catalogue {catalog_version}")
            if not forbidden.isdisjoint(item_ids):
                self.faults.append(f"{forbidden.intersection(item_ids)} are withdrawn")

    def _rest(self, body: dict) -> None:
        with httpx.Client(base_url=self._service.url, timeout=60) as client:
            while not self._over.wait(_PAUSE):
                forbidden = self._forbidden
                path = "/recommend/batch" if "requests" in body else "/recommend"
                answer = client.post(path, json=body)
                if answer.status_code != 200:
                    self.faults.append(answer.text)
                    continue
                results = [one["recommendation"] for one in answer.json().get("results", ())]
                for one in results or [answer.json()]:
                    items = [item["item_id"] for item in one["items"]]
                    self.check(one["catalog_version"], one["model_version"], items, forbidden)
                if len({one["catalog_version"] for one in results}) > 1:
                    self.faults.append("a batch of two catalogues")

    def _grpc(self, message: pb.RecommendRequest) -> None:
        with grpc.insecure_channel(self._service.grpc) as channel:
            stub = recommender_pb2_grpc.RecommenderStub(channel)
            while not self._over.wait(_PAUSE):
                forbidden = self._forbidden
                try:
                    answer = stub.Recommend(message, timeout=50)
                except grpc.RpcError as error:
                    self.faults.append(str(error))
                    continue
                items = [one.item.item_id for one in answer.items]
                self.check(answer.catalog_version, answer.model_version, items, forbidden)

    def _stream(self, message: pb.RecommendRequest) -> None:
        with grpc.insecure_channel(self._service.grpc) as channel:
            stub = recommender_pb2_grpc.RecommenderStub(channel)
            while not self._over.wait(_PAUSE):
                forbidden = self._forbidden
                try:
                    *listed, last = stub.RecommendStream(message, timeout=50)
                except grpc.RpcError as error:
                    self.faults.append(str(error))
                    continue
                items = [one.item.item.item_id for one in listed]
                if items != [one.item.item_id for one in last.done.items]:
                    self.faults.append("a stream of another list than its last message's")
                self.check(last.done.catalog_version, last.done.model_version, items, forbidden)

    @contextmanager
    def calling(self) -> Iterator[None]:
        # Of a history of both catalogues each knows a half.
        history = ["1", "new-1", "2", "new-2"]
        body = {"user_id": "u", "history": history, "deadline_ms": 50_000}
        message = pb.RecommendRequest(user_id="u", history=pb.ItemIds(item_ids=history))
        calls: list[tuple[Callable, object]] = [
            (self._rest, body),
            (self._rest, body | {"decoding": "beam"}),
            (self._rest, {"user_id": "nobody", "history": []}),
            (self._rest, {"requests": [body, body | {"exclude_item_ids": ["3", "new-3"]}]}),
            (self._grpc, message),
            (self._stream, message),
        ]
        with calling(self._over, *(partial(call, what) for call, what in calls)):
            yield


def told(service) -> dict:
    return httpx.get(f"{service.url}/admin/bundle", timeout=30).json()


@pytest.fixture(scope="module")
def running(serve, bundle: Path, tmp_path_factory: pytest.TempPathFactory):
    history = tmp_path_factory.mktemp("history") / "history.sqlite3"
    # The rounds of which it measures the cost would take three seconds of each start.
    settings = {"PADREC_GATEWAY__GRPC_PORT": "0", "PADREC_WORKER__SPECULATION": "off"}
    with serve(bundle, history, **settings) as service:
        yield service


def test_swaps_under_load_fail_no_request_and_mix_no_versions(
    running, padrec, bundle: Path, other: Path
) -> None:
    callers = Callers(running, bundle, other)
    versions = {path: Bundle.open(path, only=()).manifest.catalog_version for path in (bundle, other)}
    with callers.calling():
        for wanted in (other, bundle):
            done = padrec("swap", wanted, "--url", running.url)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"serving {wanted}: model ")
            assert [line.split(": ")[1].split(" (")[0] for line in done.stderr.splitlines()][:2] == [
                "checking the bundle's files",
                "loading it beside the one that serves",
            ]
            assert len(running.children("worker")) == 1
            before = callers.served[versions[wanted]]
            running.wait_until(lambda before=before, v=versions[wanted]: callers.served[v] > before + 20)
    assert callers.faults == []


def test_what_cannot_be_served_leaves_the_old_one(running, padrec, bundle: Path, tmp_path: Path) -> None:
    torn = remade(bundle, tmp_path / "torn")
    (torn / POPULAR).write_text("[]")
    unfit = remade(bundle, tmp_path / "unfit", vocab_size=3)
    before = told(running)["serving"], running.children("worker")
    for refused, line in (
        (torn, "popular.json does not match its sha256"),
        (unfit, "the new worker refuses: "),
        (tmp_path / "none", "no such bundle"),
    ):
        done = padrec("swap", refused, "--url", running.url)
        assert done.returncode == 2
        assert line in done.stderr.splitlines()[-1]
        assert done.stdout == ""
        assert (told(running)["serving"], running.children("worker")) == before


def test_a_new_worker_that_is_killed_and_a_second_swap_at_once(running, bundle: Path, other: Path) -> None:
    [old] = running.children("worker")
    swap = {"bundle": str(other)}
    assert httpx.post(f"{running.url}/admin/bundle", json=swap, timeout=30).status_code == 202
    second = httpx.post(f"{running.url}/admin/bundle", json=swap, timeout=30)
    assert second.status_code == 409
    assert "under way" in second.json()["detail"]
    running.wait_until(lambda: len(running.children("worker")) == 2)
    os.kill(running.children("worker")[1], signal.SIGKILL)
    running.wait_until(lambda: told(running)["swap"]["state"] == "failed")
    assert told(running)["swap"]["error"] == "the new worker was ended by SIGKILL"
    assert told(running)["serving"]["bundle"] == str(bundle)
    assert running.children("worker") == [old]


def test_what_starts_again_after_a_swap_is_of_the_new_bundle(running, padrec, other: Path) -> None:
    assert padrec("swap", other, "--url", running.url).returncode == 0
    for victim in ("worker", "gateway"):
        pid = running.child(victim)
        os.kill(pid, signal.SIGKILL)
        running.wait_until(lambda victim=victim, pid=pid: running.children(victim) not in ([], [pid]))
        running.wait_until(running.is_ready)
        answer = httpx.post(
            f"{running.url}/recommend", json={"user_id": "u", "history": ["new-1"]}, timeout=60
        ).json()
        assert answer["catalog_version"] == Bundle.open(other, only=()).manifest.catalog_version
        assert all(item["item_id"].startswith("new-") for item in answer["items"])
        assert told(running)["serving"]["bundle"] == str(other)


def test_withdrawn_items_are_never_listed_once_it_is_acknowledged(
    running, padrec, bundle: Path, other: Path
) -> None:
    """By lists, batches and popular lists that are asked for all the while; nor after a swap or a restart."""
    assert padrec("swap", bundle, "--url", running.url).returncode == 0
    callers = Callers(running, bundle, other)
    sold_out: list[str] = []

    def change(what: str, item_ids: list[str]) -> None:
        answer = httpx.post(f"{running.url}/admin/items/{what}", json={"item_ids": item_ids}, timeout=30)
        assert answer.status_code == 200, answer.text

    with callers.calling():
        for number in range(5, 15):
            item_ids = [str(number), f"new-{number}"]
            change("withdraw", item_ids)
            callers.forbid(item_ids)
            sold_out += item_ids
            before = sum(callers.served.values())
            running.wait_until(lambda before=before: sum(callers.served.values()) > before + 12)
    assert callers.faults == []

    gateway = running.child("gateway")
    os.kill(gateway, signal.SIGKILL)
    running.wait_until(lambda: running.children("gateway") not in ([], [gateway]))
    running.wait_until(running.is_ready)
    told_now = httpx.get(f"{running.url}/admin/items/withdrawn", timeout=30).json()
    assert told_now["item_ids"] == sorted(sold_out)
    assert set(told_now["unknown_item_ids"]) == {one for one in sold_out if one.startswith("new-")}
    assert padrec("swap", other, "--url", running.url).returncode == 0
    body = {"user_id": "u", "history": ["new-1"], "num_items": 50}
    answer = httpx.post(f"{running.url}/recommend", json=body, timeout=60).json()
    everything = {f"new-{number}" for number in range(60)}
    assert {item["item_id"] for item in answer["items"]} == everything - set(sold_out) - {"new-1"}
    change("restore", sold_out)
    assert len(httpx.post(f"{running.url}/recommend", json=body, timeout=60).json()["items"]) == 50
