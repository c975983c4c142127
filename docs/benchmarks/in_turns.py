"""Services of one bundle, asked in turns, so that whatever else the machine does meets all alike: NAME=URL …

Callers ask for one list after another, of short histories of their own; a turn is six seconds, and figures are medians
of six turns. What a request takes beside the engine is what the answer says of all its time less queue, prefill and
decoding: the gateway, and the way to the worker and back.
"""

import sys
import threading
import time

import httpx
import numpy as np

TURNS, SECONDS = 6, 6.0
CALLERS = (1, 8)


def call(url: str, items: list[str], caller: int, until: float, taken: list[tuple[float, float]]) -> None:
    """One caller; what each of its requests took, in milliseconds, and what of it beside the engine."""
    rng = np.random.default_rng(caller)
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.perf_counter() < until:
            query = {"user_id": f"user-{caller}", "history": rng.choice(items, 2).tolist()}
            began = time.perf_counter()
            answer = client.post("/recommend", json={**query, "deadline_ms": 50_000}).raise_for_status()
            took = (time.perf_counter() - began) * 1e3
            timings = answer.json()["timings"]
            engine = timings["queue_ms"] + timings["prefill_ms"] + timings["decode_ms"]
            taken.append((took, timings["total_ms"] - engine))


def turn(url: str, items: list[str], callers: int) -> tuple[float, float, float, float]:
    """Lists a second, p50 and p99, and p50 of what is beside the engine."""
    taken: list[tuple[float, float]] = []
    began = time.perf_counter()
    threads = [
        threading.Thread(target=call, args=(url, items, caller, began + SECONDS, taken))
        for caller in range(callers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, beside = np.array(taken).T
    rate = len(took) / (time.perf_counter() - began)
    return rate, float(np.median(took)), float(np.quantile(took, 0.99)), float(np.median(beside))


def main(services: dict[str, str]) -> None:
    """Ask all in turns, and print a row for each."""
    popular = httpx.post(f"{next(iter(services.values()))}/recommend", json={"user_id": "nobody"}).json()
    items = [item["item_id"] for item in popular["items"]]
    for callers in CALLERS:
        rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in services}
        for _ in range(TURNS):
            for name, url in services.items():
                rows[name].append(turn(url, items, callers))
        for name, turns in rows.items():
            rate, p50, p99, beside = np.median(np.array(turns), axis=0)
            figures = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, beside the engine {beside:.1f} ms"
            print(f"{callers} callers, {name}: {rate:.1f} lists/s, {figures}", flush=True)


if __name__ == "__main__":
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
