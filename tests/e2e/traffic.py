"""Callers that never stop, and what became of each of their calls. No test module."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from service.client import Client
from service.client.errors import CallError
from tests.callers import calling

PAUSE = 0.01  # seconds between two calls, so that a small machine has time for what they are to disturb
DEADLINE = 50.0  # seconds of each call, with all its tries: so long that a slow machine alone fails none
NOBODY, NOTHING = "nobody listens", "nothing"

_NUM_ITEMS = 10
_REFUSALS = {429, 503, 504, NOBODY}
_SAYS_WHEN = {429, 503}
# So few that a list of others can be written for a user who met them all; a call's are kept together or not at all.
_EVENTS_OF_A_USER, _EVENTS_OF_A_CALL = 40, 4


@dataclass(frozen=True)
class Figures:
    """What became of calls.

    Attributes:
        sent: calls that began.
        answered: of them, with a whole list, or with events that were acknowledged.
        refused: those with an error that says what to do (429, 503 or 504), or at whose port nobody listens.
        lost: those with neither within their deadline, and events that were acknowledged and are gone.
        sent_again: tries beyond the first, of calls whose connection broke.
    """

    sent: int
    answered: int
    refused: int
    lost: int
    sent_again: int


class Traffic:
    """Counts calls by their ends; a connection that breaks is none, and its call is sent again within its deadline.

    Args:
        url: of the gateway.
        name: begins the names of users whose events are recorded; one that the history does not know.

    Attributes:
        sent: calls that began.
        lists: calls for lists, by status, or as NOBODY and NOTHING say.
        events: calls that record events, likewise.
        degraded: lists that were.
        is_degraded: whether the last one was.
        sent_again: tries beyond the first.
        acknowledged: item IDs by user.
        faults: what must not happen, in words.
    """

    def __init__(self, url: str, name: str = "traffic") -> None:
        self.url = url
        self.sent = 0
        self.lists: Counter[int | str] = Counter()
        self.events: Counter[int | str] = Counter()
        self.degraded = 0
        self.is_degraded = False
        self.sent_again = 0
        self.acknowledged: dict[str, list[str]] = {}
        self.faults: list[str] = []
        self._asked: list[Counter[int | str]] = []  # filled by `running`
        self._name = name
        self._num_writers = 0
        self._over = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def running(self, *callers: Callable[[], None]) -> Iterator[None]:
        """These call until the block is over."""
        self._asked = [self.events if self.record in callers else self.lists, self.lists]
        with calling(self._over, *callers):
            yield

    def ask(self) -> None:
        """A caller of lists."""
        self._ask({"user_id": "u", "history": ["1", "2"]})

    def ask_of_stored(self) -> None:
        """A caller of lists for the first user whose events are recorded."""
        self._ask({"user_id": self._user(1, 0)})

    def record(self) -> None:
        """A caller that records events, each user's in their order."""
        with self._lock:
            self._num_writers += 1
            writer = self._num_writers
        number = 0
        with httpx.Client(base_url=self.url) as client:
            while not self._over.wait(PAUSE):
                number += self._record(client, writer, number)

    def ask_by_client(self) -> None:
        """A caller of lists by padrec's own client."""
        with Client(self.url, deadline_ms=round(DEADLINE * 1_000), max_tries=1_000) as client:
            while not self._over.wait(PAUSE):
                self._begin()
                try:
                    shown = client.recommend("u", history=["1", "2"])
                except CallError as error:
                    self.faults.append(repr(error))
                    self._end(self.lists, NOTHING)
                else:
                    self._end_list(200, [one.item_id for one in shown.items], shown.degraded)

    def ask_slowly(self) -> None:
        """A caller of lists that sends and reads a little at a time."""
        host, port = self.url.removeprefix("http://").split(":")
        while not self._over.wait(PAUSE):
            self._begin()
            with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
                for byte in request_bytes("/recommend"):
                    connection.sendall(bytes([byte]))
                    time.sleep(0.01)
                answer = b""
                while part := connection.recv(64):
                    answer += part
                    time.sleep(0.01)
            whole = answer.startswith(b"HTTP/1.1 200") and answer.count(b'"item_id"') == _NUM_ITEMS
            self._end(self.lists, 200 if whole else NOTHING)

    @property
    def answered(self) -> int:
        return self.lists[200] + self.events[200]

    def goes_on(self, service, count: int = 10) -> None:
        """Wait until so many more were answered, of each kind that is asked for."""
        for counted in self._asked:
            least = counted[200] + count
            service.wait_until(lambda counted=counted, least=least: counted[200] >= least)

    def histories(self, url: str) -> dict[str, list[str]]:
        """What a service keeps of the users whose events were recorded."""
        with httpx.Client(base_url=url, timeout=DEADLINE) as client:
            return {
                user: client.get(f"/users/{user}/history").raise_for_status().json()["item_ids"]
                for user in self.acknowledged
            }

    def figures(self, url: str) -> Figures:
        """When all is over.

        Args:
            url: of a gateway that knows the history.
        """
        stored = self.histories(url)
        for user, kept in stored.items():
            if len(set(kept)) < len(kept):
                self.faults.append(f"twice in the history of {user}: {kept}")
            if kept != sorted(kept, key=int):
                self.faults.append(f"not in their order in the history of {user}: {kept}")
        gone = sum(len(set(items) - set(stored[user])) for user, items in self.acknowledged.items())
        refused = sum(count for end, count in (self.lists + self.events).items() if end in _REFUSALS)
        return Figures(
            self.sent, self.answered, refused, self.sent - self.answered - refused + gone, self.sent_again
        )

    def _ask(self, body: dict) -> None:
        body = body | {"deadline_ms": round(DEADLINE * 1_000)}
        with httpx.Client(base_url=self.url) as client:
            while not self._over.wait(PAUSE):
                self._begin()
                end = self._call(client, "/recommend", body)
                if not isinstance(end, httpx.Response) or end.status_code != 200:
                    self._end_unanswered(self.lists, end)
                    continue
                told = end.json()
                self._end_list(200, [one["item_id"] for one in told["items"]], told["degraded"])

    def _record(self, client: httpx.Client, writer: int, number: int) -> int:
        """How many events were recorded, each number's once whatever becomes of a try."""
        user = self._user(writer, number)
        items = [str(number % _EVENTS_OF_A_USER + i) for i in range(_EVENTS_OF_A_CALL)]
        events = [
            {"user_id": user, "item_id": item, "event_id": f"{user}-{item}", "timestamp": float(item)}
            for item in items
        ]
        self._begin()
        end = self._call(client, "/events", {"events": events})
        if not isinstance(end, httpx.Response) or end.status_code != 200:
            self._end_unanswered(self.events, end)
            return 0
        with self._lock:
            self.acknowledged.setdefault(user, []).extend(items)
        self._end(self.events, 200)
        return _EVENTS_OF_A_CALL

    def _user(self, writer: int, number: int) -> str:
        return f"{self._name}-{writer}-{number // _EVENTS_OF_A_USER}"

    def _call(self, client: httpx.Client, path: str, body: dict) -> httpx.Response | str:
        """The answer, or why there is none."""
        until = time.monotonic() + DEADLINE
        while (left := until - time.monotonic()) > 0:
            try:
                return client.post(path, json=body, timeout=left)
            except httpx.TimeoutException:
                return NOTHING
            except httpx.ConnectError:
                return NOBODY
            except httpx.TransportError:
                with self._lock:
                    self.sent_again += 1
        return NOTHING

    def _begin(self) -> None:
        with self._lock:
            self.sent += 1

    def _end(self, counted: Counter[int | str], end: int | str) -> None:
        with self._lock:
            counted[end] += 1

    def _end_list(self, status: int, item_ids: list[str], is_degraded: bool) -> None:
        if len(set(item_ids)) != _NUM_ITEMS:
            self.faults.append(f"not a list of {_NUM_ITEMS}: {item_ids}")
        with self._lock:
            self.lists[status] += 1
            self.degraded += is_degraded
            self.is_degraded = is_degraded

    def _end_unanswered(self, counted: Counter[int | str], end: httpx.Response | str) -> None:
        if isinstance(end, str):
            self._end(counted, end)
        else:
            self._end(counted, end.status_code)
            if end.headers.get("content-type") != "application/problem+json":
                self.faults.append(end.text)
            if end.status_code in _SAYS_WHEN and "retry-after" not in end.headers:
                self.faults.append(f"says not when to come back: {end.text}")
        time.sleep(0.1)


def request_bytes(path: str) -> bytes:
    """A whole request for a list, on a connection of its own."""
    body = b'{"user_id": "u", "history": ["1", "2"], "deadline_ms": 50000}'
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
