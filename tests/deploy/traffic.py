"""Callers of every kind, so that every metric moves."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import httpx

from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from tests.callers import calling

_PAUSE = 0.05  # seconds between two rounds of calls, so that a small machine has time for Prometheus


class Traffic:
    """Two callers over REST and one over gRPC, who ask for everything there is, and for what there is not.

    Args:
        url: of REST.
        address: of gRPC.
    """

    def __init__(self, url: str, address: str) -> None:
        self._url, self._address = url, address
        self._over = threading.Event()

    @contextmanager
    def calling(self) -> Iterator[None]:
        calls: list[Callable[[], None]] = [self._rest, self._rest, self._grpc]
        with calling(self._over, *calls):
            yield

    def _rest(self) -> None:
        listed = {"user_id": "ann", "history": ["1", "2"]}
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._over.wait(_PAUSE):
                answer = client.post("/recommend", json=listed)
                if answer.status_code == 200:
                    told = answer.json()
                    events = [
                        {
                            "user_id": "ann",
                            "item_id": told["items"][0]["item_id"],
                            "recommendation_id": told["recommendation_id"],
                        }
                    ]
                    client.post("/events", json={"events": events})
                client.post("/recommend", json=listed | {"decoding": "beam"})
                client.post("/recommend/stream", json=listed)
                # More at once than the worker writes and its queue holds.
                client.post("/recommend/batch", json={"requests": [listed] * 6})
                client.post("/recommend", json={"user_id": "nobody", "history": []})
                client.post("/recommend", json={"num_items": "many"})
                client.get("/items/none")
                client.get("/items/1")
                client.get("/users/ann/history")
                client.delete("/users/ann/history")

    def _grpc(self) -> None:
        message = pb.RecommendRequest(user_id="bob", history=pb.ItemIds(item_ids=["3", "4"]))
        event = pb.Event(user_id="bob", item_id="5")
        with grpc.insecure_channel(self._address) as channel:
            stub = recommender_pb2_grpc.RecommenderStub(channel)
            calls: list[Callable[[], object]] = [
                lambda: stub.Recommend(message, timeout=50),
                lambda: list(stub.RecommendStream(message, timeout=50)),
                lambda: stub.BatchRecommend(pb.BatchRecommendRequest(requests=[message] * 2), timeout=50),
                lambda: stub.RecordEvents(pb.RecordEventsRequest(events=[event]), timeout=50),
                lambda: stub.GetHistory(pb.GetHistoryRequest(user_id="bob"), timeout=50),
                lambda: stub.GetItem(pb.GetItemRequest(item_id="none"), timeout=50),
            ]
            while not self._over.wait(_PAUSE):
                for call in calls:
                    try:
                        call()
                    except grpc.RpcError as error:
                        # It is gone for a moment when the gateway stops; statuses are what the metrics count.
                        assert error.code() is not grpc.StatusCode.UNIMPLEMENTED  # noqa: PT017
