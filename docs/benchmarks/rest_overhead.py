"""What a REST request takes beside the engine's time, at a steady rate: URL REQUESTS-PER-SECOND SECONDS.

Requests leave when they are due, whatever became of those before; a request's own clock runs from then on. The
engine's time is what the answer says of prefill and decoding; the rest is gateway, worker's queue, sockets and JSON.
What the gateway itself counts, from a query that it has understood to its answer, is told apart, and so is the queue.
Sockets are written and read by hand, as a client library would take about as long as the gateway does.
"""

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np


class Client:
    """Posts JSON over connections that stay open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, query: dict[str, Any]) -> Any:
        """The answer; an AssertionError with it where it is not 200."""
        self._idle = [pair for pair in self._idle if not pair[0].at_eof()]
        pair = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        reader, writer = pair
        body = json.dumps(query).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in headers if line.startswith(b"content-length"))
        answer = await reader.readexactly(length)
        self._idle.append(pair)
        assert b" 200 " in status, answer
        return json.loads(answer)


async def ask(client: Client, user: str, due: float) -> tuple[float, float, float, float]:
    """Milliseconds from when it was due to the answer, the engine's of them, the gateway's, and the queue's."""
    # The event loop sleeps in whole milliseconds, which would count as the service's.
    await asyncio.sleep(max(0.0, due - time.perf_counter() - 0.002))
    while time.perf_counter() < due:
        await asyncio.sleep(0)
    timings = (await client.post("/recommend", {"user_id": user, "num_items": 10}))["timings"]
    engine = timings["prefill_ms"] + timings["decode_ms"]
    return (time.perf_counter() - due) * 1e3, engine, timings["total_ms"], timings["queue_ms"]


async def main(url: str, rate: float, seconds: float) -> None:
    """Give users histories, ask for their lists, and print percentiles."""
    rng = np.random.default_rng(0)
    client = Client(url)
    items = [item["item_id"] for item in (await client.post("/recommend", {"user_id": "nobody"}))["items"]]
    users = [f"user-{number}" for number in range(50)]
    events = [
        {"user_id": user, "item_id": item, "timestamp": place, "event_id": f"{user}/{place}"}
        for user in users
        for place, item in enumerate(rng.choice(items, size=rng.integers(2, 8)).tolist())
    ]
    await client.post("/events", {"events": events})
    for _ in range(2):  # the first lot warms up
        gaps = rng.exponential(1 / rate, size=max(20, int(rate * seconds)))  # Poisson arrivals
        times = time.perf_counter() + np.cumsum(gaps)
        asked = rng.choice(users, size=len(times)).tolist()
        done = np.array(await asyncio.gather(*map(ask, [client] * len(times), asked, times)))
    request, engine, gateway, waiting = done.T
    for name, values in (
        ("request", request),
        ("engine", engine),
        ("over the engine", request - engine),
        ("of which in the gateway and the queue", gateway - engine),
        ("of which in the queue", waiting),
    ):
        print(
            f"{name}: p50 {np.median(values):.2f} ms, p99 {np.quantile(values, 0.99):.2f} ms ({len(values)} requests)"
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
