"""What a REST request takes beside the engine's time, at a steady rate: URL REQUESTS-PER-SECOND SECONDS.

Requests leave when they are due, whatever became of those before; a request's own clock runs from then on. The engine's
time is what the answer says of prefill and decoding; the rest is gateway, worker's queue, sockets and JSON, this client's
share included. What the gateway itself counts, from a query that it has understood to its answer, is told apart.
"""

import asyncio
import sys
import time

import httpx
import numpy as np


async def ask(client: httpx.AsyncClient, user: str, due: float) -> tuple[float, float, float]:
    """Milliseconds from when it was due to the answer, the engine's of them, and the gateway's."""
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    answer = await client.post("/recommend", json={"user_id": user, "num_items": 10})
    answer.raise_for_status()
    timings = answer.json()["timings"]
    engine = timings["prefill_ms"] + timings["decode_ms"]
    return (time.perf_counter() - due) * 1e3, engine, timings["total_ms"]


async def main(url: str, rate: float, seconds: float) -> None:
    """Give users histories, ask for their lists, and print percentiles."""
    rng = np.random.default_rng(0)
    async with httpx.AsyncClient(base_url=url, timeout=30.0) as client:
        found = (await client.post("/recommend", json={"user_id": "nobody"})).json()
        items = [item["item_id"] for item in found["items"]]
        users = [f"user-{number}" for number in range(50)]
        events = [
            {"user_id": user, "item_id": item, "timestamp": place, "event_id": f"{user}/{place}"}
            for user in users
            for place, item in enumerate(rng.choice(items, size=rng.integers(2, 8)).tolist())
        ]
        (await client.post("/events", json={"events": events})).raise_for_status()
        for _ in range(2):  # the first lot warms up
            gaps = rng.exponential(1 / rate, size=max(20, int(rate * seconds)))  # Poisson arrivals
            times = time.perf_counter() + np.cumsum(gaps)
            asked = rng.choice(users, size=len(times)).tolist()
            done = np.array(await asyncio.gather(*map(ask, [client] * len(times), asked, times)))
    request, engine, gateway = done.T
    for name, values in (
        ("request", request),
        ("engine", engine),
        ("over the engine", request - engine),
        ("of which in the gateway and the queue", gateway - engine),
    ):
        print(
            f"{name}: p50 {np.median(values):.2f} ms, p99 {np.quantile(values, 0.99):.2f} ms ({len(values)} requests)"
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
