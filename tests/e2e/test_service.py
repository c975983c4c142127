"""Over HTTP, through gateway and worker: what a product backend sees."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
import torch

from service.catalog.bundle import Bundle
from service.client import AsyncClient, Client, InvalidRequestError
from service.engine.beam import num_beams_of
from service.engine.reference import find_items, write_list
from service.model.target import load_target
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from service.types import DecodeRequest


def recommend(service, **body) -> dict:
    answer = httpx.post(f"{service.url}/recommend", json={"user_id": "u", **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_a_list_of_ten_distinct_real_items(service) -> None:
    history = ["3", "4", "5"]
    answer = recommend(service, history=history)
    assert len(set(ids(answer))) == 10
    assert set(ids(answer)) <= {str(number) for number in range(60)} - set(history)
    assert [item["rank"] for item in answer["items"]] == list(range(1, 11))
    assert all(0 < item["score"] <= 1 for item in answer["items"])
    assert answer["fallback"] is None
    assert not answer["exhausted"]
    assert answer["timings"]["total_ms"] >= answer["timings"]["decode_ms"] > 0


def test_grpc_answers_as_rest_does(service) -> None:
    history, options = ["3", "4", "5"], {"num_items": 7, "temperature": 0.8, "seed": 5}
    with grpc.insecure_channel(service.grpc) as channel:
        stub = recommender_pb2_grpc.RecommenderStub(channel)
        asked = pb.RecommendRequest(user_id="u", history=pb.ItemIds(item_ids=history), **options)
        answer = stub.Recommend(asked, timeout=60)
        batch = stub.BatchRecommend(pb.BatchRecommendRequest(requests=[asked] * 3), timeout=60)
    served = recommend(service, history=history, **options)
    assert [(one.item.item_id, one.item.title, one.score) for one in answer.items] == [
        (one["item_id"], one["title"], pytest.approx(one["score"])) for one in served["items"]
    ]
    assert answer.speculation.rounds > 0
    assert [list(map(_item_id, result.response.items)) for result in batch.results] == [ids(served)] * 3


def test_a_stream_tells_items_before_the_list_is_written(service) -> None:
    asked = {"user_id": "u", "history": ["3", "4", "5"], "num_items": 30, "explain": True}
    with httpx.stream("POST", f"{service.url}/recommend/stream", json=asked, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    told = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == ["item"] * 30 + ["done"]
    assert told[:-1] == told[-1]["items"]
    assert ids({"items": told[:-1]}) == ids(recommend(service, history=["3", "4", "5"], num_items=30))
    rounds = told[-1]["explanation"]["rounds"]
    assert len(rounds) == 1 + told[-1]["speculation"]["rounds"]
    completed = [token["item_id"] for one in rounds for token in one["tokens"] if token["accepted"]]
    assert [item_id for item_id in completed if item_id is not None] == ids(told[-1])
    with grpc.insecure_channel(service.grpc) as channel:
        stub = recommender_pb2_grpc.RecommenderStub(channel)
        message = pb.RecommendRequest(
            user_id="u", num_items=30, history=pb.ItemIds(item_ids=asked["history"])
        )
        *updates, last = stub.RecommendStream(message, timeout=60)
    assert [_item_id(update.item) for update in updates] == ids(told[-1])
    assert list(map(_item_id, last.done.items)) == ids(told[-1])


def _item_id(item: pb.RecommendedItem) -> str:
    return item.item.item_id


def test_what_is_served_is_what_the_reference_writes(service, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    catalogue = opened.read_catalogue()
    model = load_target(opened.target_path, device=torch.device("cpu"), dtype=torch.float32)
    for body in ({}, {"temperature": 0.8, "top_p": 0.9, "seed": 11}, {"num_items": 50}):
        rows = tuple(catalogue.row_of(item) for item in ("7", "8", "9"))
        request = DecodeRequest(
            "r",
            rows,
            body.get("num_items", 10),
            rows,
            body.get("temperature", 0.0),
            body.get("top_p", 1.0),
            body.get("seed", 0),
        )
        reference = write_list(model, catalogue.codes, opened.layout, request)
        served = recommend(service, history=["7", "8", "9"], **body)
        assert ids(served) == [catalogue.item_ids[item.row] for item in reference.items]


def test_beam_decoding_is_served_as_the_reference_finds(service, padrec, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    catalogue = opened.read_catalogue()
    model = load_target(opened.target_path, device=torch.device("cpu"), dtype=torch.float32)
    rows = tuple(catalogue.row_of(item) for item in ("7", "8", "9"))
    for num_items in (10, 30):
        request = DecodeRequest("r", rows, num_items, rows, decoding="beam")
        reference = find_items(model, catalogue.codes, opened.layout, request, num_beams_of(request))
        expected = [catalogue.item_ids[item.row] for item in reference.items]
        served = recommend(service, history=["7", "8", "9"], num_items=num_items, decoding="beam")
        assert ids(served) == expected
        assert served["speculation"] is None
        assert served["timings"]["prefill_ms"] > 0
    options = "--history", "7,8,9", "--num-items", 30, "--decoding", "beam", "--url", service.url
    done = padrec("recommend", "u", *options)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[1:31]] == expected


def test_speculation_is_told_and_counted_and_can_be_turned_off(serve, bundle: Path, tmp_path: Path) -> None:
    """The same list either way; with the draft the worker's counters move, without it they stay."""
    lists = []
    for speculation in ("on", "off"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {"PADREC_WORKER__SPECULATION": speculation, "PADREC_WORKER__METRICS_PORT": str(port)}
        with serve(bundle, tmp_path / f"{speculation}.sqlite3", **settings) as running:
            recommend(running, history=["3", "4"])
            answer = recommend(running, history=["3", "4", "5"])
            metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        lists.append(ids(answer))
        told = answer["speculation"]
        assert told["rounds"] > 0
        assert told["accepted_length"] >= told["accepted_length_without_forced"] >= 1
        drafts = re.search(r"^padrec_spec_decode_num_drafts_total (\S+)$", metrics, flags=re.M)
        assert drafts is not None
        assert (float(drafts[1]) > 0) == (speculation == "on")
        assert "padrec_prefix_cache_hits_total 1.0" in metrics
    assert lists[0] == lists[1]


def test_events_become_the_history(service) -> None:
    events = [{"user_id": "eve", "item_id": str(item), "timestamp": item} for item in (11, 12, 13)]
    assert httpx.post(f"{service.url}/events", json={"events": events}).json()["accepted"] == 3
    assert httpx.get(f"{service.url}/users/eve/history").json()["item_ids"] == ["11", "12", "13"]
    stored, inline = (
        recommend(service, user_id="eve"),
        recommend(service, user_id="x", history=["11", "12", "13"]),
    )
    assert ids(stored) == ids(inline)


def test_a_batch_of_callers_gets_what_each_would_alone(service) -> None:
    histories = [[str(item % 60) for item in range(start, start + 1 + start % 7)] for start in range(40)]
    alone = [ids(recommend(service, history=history)) for history in histories[:8]]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda history: ids(recommend(service, history=history)), histories))
    assert together[:8] == alone


def test_everything_excluded_is_a_short_list(service) -> None:
    excluded = [str(item) for item in range(57)]
    answer = recommend(service, history=["1"], exclude_item_ids=excluded)
    assert sorted(ids(answer)) == ["57", "58", "59"]
    assert answer["exhausted"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"num_items": 0}, 422, "num_items"),
        ({"num_items": 51}, 422, "num_items"),
        ({"history": ["1"] * 10_000}, 422, "history"),
        ({"user_id": ""}, 422, "user_id"),
        ({"nonsense": 1}, 422, "nonsense"),
        ({"decoding": "beam", "temperature": 1.0}, 422, "temperature"),
    ],
)
def test_bad_requests_are_problems_that_name_the_field(service, body: dict, status: int, field: str) -> None:
    answer = httpx.post(f"{service.url}/recommend", json={"user_id": "u", **body})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in answer.json()["detail"]


@pytest.mark.parametrize("decoding", ["list", "beam"])
def test_as_many_items_as_there_are_meet_the_filter(service, bundle: Path, decoding: str) -> None:
    catalogue = Bundle.open(bundle).read_catalogue()
    attributes = {item: catalogue.item(row).attributes for row, item in enumerate(catalogue.item_ids)}
    paper = {"attribute": "category", "op": "in", "value": ["paper", "ink"]}
    for dearest in (19, 7, 2, -1):
        cheap = {"attribute": "price", "op": "<=", "value": dearest}
        answer = recommend(service, history=["7", "8"], filter={"all": [paper, cheap]}, decoding=decoding)
        meets = {
            item
            for item, found in attributes.items()
            if found["price"] <= dearest and "paper" in found.get("category", ())
        } - {"7", "8"}
        assert set(ids(answer)) <= meets
        assert len(ids(answer)) == min(10, len(meets))
        assert answer["exhausted"] == (len(meets) < 10)
    cold = recommend(service, history=[], filter=paper)
    assert cold["fallback"] == "cold_start"
    assert all("paper" in item["attributes"]["category"] for item in cold["items"])


@pytest.mark.parametrize("ask", [{"decoding": "list"}, {"decoding": "beam"}, {"history": []}])
def test_pages_go_through_the_catalogue_once(service, ask: dict) -> None:
    promoted = [{"item_id": "59", "rank": 7}, {"item_id": "7", "rank": 2}]
    asked = {
        "user_id": f"reader-{ask}",
        "history": ["7", "8"],
        "num_items": 25,
        "promotions": promoted,
        **ask,
    }
    pages = [recommend(service, **asked)]
    while not pages[-1]["exhausted"]:
        pages.append(recommend(service, **asked, after_recommendation_id=pages[-1]["recommendation_id"]))
    items = [item for page in pages for item in page["items"]]
    assert len({item["item_id"] for item in items}) == len(items) == (60 if "history" in ask else 59)
    assert [len(page["items"]) for page in pages[:2]] == [25, 25]
    found = {item["item_id"]: item["rank"] for item in items if item["promoted"]}
    assert found == {"7": 2, "59": 7}

    last = pages[1]
    event = {
        "user_id": asked["user_id"],
        "item_id": ids(last)[0],
        "recommendation_id": last["recommendation_id"],
    }
    told = httpx.post(f"{service.url}/events", json={"events": [event, event]}).json()
    assert told["joined"] == 2


def test_unknown_items_and_no_history_are_no_errors(service) -> None:
    known = recommend(service, history=["1", "no-such-item"])
    assert known["ignored_item_ids"] == ["no-such-item"]
    assert known["fallback"] is None
    for cold in (recommend(service, user_id="nobody"), recommend(service, history=[])):
        assert cold["fallback"] == "cold_start"
        assert len(set(ids(cold))) == 10


def test_metrics_and_docs_are_there(service) -> None:
    recommend(service, history=["1"])
    assert "padrec_request_duration_seconds_count" in httpx.get(f"{service.url}/metrics").text
    assert httpx.get(f"{service.url}/docs").status_code == 200


async def test_both_clients_answer_as_rest_does(service) -> None:
    asked = {"history": ["3", "4", "5"], "num_items": 12}
    expected = ids(recommend(service, **asked))
    with Client(service.url) as client:
        assert client.ready()
        *items, whole = client.recommend_stream("u", **asked)
        assert [item.item_id for item in items] == [item.item_id for item in whole.items] == expected
        clicked = {"user_id": "max", "item_id": expected[0], "recommendation_id": whole.recommendation_id}
        assert client.record_events([clicked | {"user_id": "u"}, clicked]).joined == 1
    async with AsyncClient(service.url) as client:
        assert [item.item_id for item in (await client.recommend("u", **asked)).items] == expected
        updates = [update async for update in client.recommend_stream("u", **asked)]
        assert [update.item_id for update in updates[:-1]] == expected
        assert (await client.get_history("max")).item_ids == (expected[0],)
        await client.delete_history("max")
        await client.delete_history("u")
        with pytest.raises(InvalidRequestError, match="num_items"):
            await client.recommend("u", num_items=0)


def test_the_client_command_asks_the_service(service, padrec) -> None:
    done = padrec("recommend", "u", "--history", "3,4,5", "--num-items", 3, "--url", service.url)
    assert done.returncode == 0, done.stderr
    expected = ids(recommend(service, history=["3", "4", "5"], num_items=3))
    assert [line.split()[1] for line in done.stdout.splitlines()[1:4]] == expected
    refused = padrec("recommend", "u", "--num-items", 0, "--url", service.url)
    assert refused.returncode == 2
    assert "num_items" in refused.stderr
    nobody = padrec("recommend", "u", "--url", "http://127.0.0.1:9")
    assert nobody.returncode == 2
    assert nobody.stderr.startswith("padrec: no padrec gateway answers at http://127.0.0.1:9")
