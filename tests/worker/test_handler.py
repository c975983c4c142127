import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from service.catalog.bundle import Bundle
from service.errors import DeadlineExceededError, PadrecError, QueueFullError, RequestError, UnavailableError
from service.rpc.messages import WorkerDescription
from service.telemetry.metrics import WorkerMetrics
from service.types import DecodedItem, DecodedList, DecodeRequest
from service.worker.handler import DecodeHandler, check_request
from service.worker.loop import EngineLoop
from service.worker.scheduler import Scheduler

REQUEST = DecodeRequest("r", history=(0, 3), num_items=2, excluded=(1,))


def decoded(name: str) -> DecodedList:
    return DecodedList(name, (DecodedItem(2, 0.5),), False, 1, 0, 0.0, 0.0)


@pytest.fixture
def handler(bundle: Bundle) -> DecodeHandler:
    return DecodeHandler(bundle.manifest, Scheduler(2), 4, WorkerMetrics(CollectorRegistry()))


def outcomes(handler: DecodeHandler) -> dict[str, float]:
    [metric] = handler.metrics.requests.collect()
    return {s.labels["outcome"]: s.value for s in metric.samples if s.name.endswith("_total") and s.value}


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_reply_of_the_engines_thread_arrives(handler: DecodeHandler) -> None:
    task = asyncio.create_task(handler.decode(REQUEST, None))
    await wait_until(lambda: handler.scheduler.num_waiting == 1)
    [(admitted, _)] = await asyncio.to_thread(handler.scheduler.admit, 1)
    assert admitted is REQUEST
    await asyncio.to_thread(handler.scheduler.finish, decoded("r"))
    assert (await task).items == (DecodedItem(2, 0.5),)
    assert outcomes(handler) == {"ok": 1}


async def test_errors_of_the_engines_thread_arrive(handler: DecodeHandler) -> None:
    task = asyncio.create_task(handler.decode(REQUEST, None))
    await wait_until(lambda: handler.scheduler.num_waiting == 1)
    handler.scheduler.admit(1)
    await asyncio.to_thread(handler.scheduler.fail_running, PadrecError("broken"))
    with pytest.raises(PadrecError, match="broken"):
        await task
    assert outcomes(handler) == {"error": 1}


async def test_refusals_are_counted(handler: DecodeHandler) -> None:
    with pytest.raises(DeadlineExceededError):
        await handler.decode(REQUEST, time.monotonic() - 1)
    waiting = [
        asyncio.create_task(handler.decode(replace(REQUEST, request_id=name), None)) for name in ("a", "b")
    ]
    await wait_until(lambda: handler.scheduler.num_waiting == 2)
    with pytest.raises(QueueFullError):
        await handler.decode(REQUEST, None)
    with pytest.raises(RequestError):
        await handler.decode(replace(REQUEST, history=()), None)
    handler.scheduler.close()
    for task in waiting:
        with pytest.raises(UnavailableError):
            await task
    assert outcomes(handler) == {"deadline": 1, "queue_full": 1, "invalid": 1, "unavailable": 2}


async def test_a_caller_that_goes_away_leaves_the_queue(handler: DecodeHandler) -> None:
    task = asyncio.create_task(handler.decode(REQUEST, None))
    await wait_until(lambda: handler.scheduler.num_waiting == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handler.scheduler.num_waiting == 0
    assert outcomes(handler) == {"cancelled": 1}


async def test_a_caller_that_goes_away_while_its_reply_is_on_the_way(handler: DecodeHandler) -> None:
    task = asyncio.create_task(handler.decode(REQUEST, None))
    await wait_until(lambda: handler.scheduler.num_waiting == 1)
    handler.scheduler.admit(1)
    handler.scheduler.finish(decoded("r"))  # its callback stands in the event loop's queue
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handler.scheduler.drop_unwanted() == set()


async def test_a_stream_tells_items_before_the_list(handler: DecodeHandler) -> None:
    updates = handler.decode_stream(REQUEST, None)
    first = asyncio.create_task(anext(updates))
    await wait_until(lambda: handler.scheduler.num_waiting == 1)
    [(admitted, _)] = handler.scheduler.admit(1)
    assert admitted == replace(REQUEST, stream=True)
    await asyncio.to_thread(handler.scheduler.tell, "r", (DecodedItem(2, 0.5),))
    assert await first == (DecodedItem(2, 0.5),)
    await asyncio.to_thread(handler.scheduler.finish, decoded("r"))
    [done] = [update async for update in updates]
    assert done.items == decoded("r").items
    assert outcomes(handler) == {"ok": 1}


async def test_a_stream_ends_with_the_error_that_ends_its_list(handler: DecodeHandler) -> None:
    updates = handler.decode_stream(REQUEST, None)
    first = asyncio.create_task(anext(updates))
    await wait_until(lambda: handler.scheduler.num_waiting == 1)
    handler.scheduler.admit(1)
    handler.scheduler.tell("r", (DecodedItem(2, 0.5),))
    handler.scheduler.fail_running(PadrecError("broken"))
    assert await first == (DecodedItem(2, 0.5),)
    with pytest.raises(PadrecError, match="broken"):
        await anext(updates)
    with pytest.raises(RequestError):
        await anext(handler.decode_stream(replace(REQUEST, history=()), None))
    assert outcomes(handler) == {"error": 1, "invalid": 1}


async def test_a_stream_that_nobody_reads_any_more_is_dropped(handler: DecodeHandler) -> None:
    updates = handler.decode_stream(REQUEST, None)
    first = asyncio.create_task(anext(updates))
    await wait_until(lambda: handler.scheduler.num_waiting == 1)
    handler.scheduler.admit(1)
    handler.scheduler.tell("r", (DecodedItem(2, 0.5),))
    await first
    await updates.aclose()
    assert handler.scheduler.drop_unwanted() == {"r"}
    assert outcomes(handler) == {"cancelled": 1}


async def test_the_description(handler: DecodeHandler, bundle: Bundle) -> None:
    versions = bundle.manifest.model_version, bundle.manifest.catalog_version
    assert handler.describe() == WorkerDescription(*versions, 0, 4, 0, 2)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"history": ()}, "history"),
        ({"history": (0,) * 6}, "history"),
        ({"history": (0, 4)}, "history"),
        ({"excluded": (4,)}, "excluded"),
        ({"num_items": 0}, "num_items"),
        ({"num_items": 4}, "num_items"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e-39}, "temperature"),
        ({"temperature": 0.0099}, "temperature"),
        ({"temperature": 2.01}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": 0.5, "decoding": "beam"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": 1e-46}, "top_p"),
        ({"top_p": 0.00099}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_what_the_target_cannot_read_is_refused(bundle: Bundle, change: dict, field: str) -> None:
    check_request(REQUEST, bundle.manifest)
    with pytest.raises(RequestError, match=field) as caught:
        check_request(replace(REQUEST, **change), bundle.manifest)
    assert caught.value.field == field


def test_the_ends_of_the_samplings_ranges(bundle: Bundle) -> None:
    for temperature, top_p in ((0.0, 0.001), (0.01, 1.0), (2.0, 0.5)):
        check_request(replace(REQUEST, temperature=temperature, top_p=top_p), bundle.manifest)
    check_request(replace(REQUEST, decoding="beam"), bundle.manifest)


async def test_many_callers_with_the_engines_thread(handler: DecodeHandler, fake_engine) -> None:
    scheduler = Scheduler(max_waiting=64)
    handler = replace(handler, scheduler=scheduler)
    ended = asyncio.Event()
    running = asyncio.get_running_loop()
    loop = EngineLoop(
        lambda: fake_engine(max_batch=4),
        scheduler,
        handler.metrics,
        on_ready=lambda: None,
        on_end=lambda: running.call_soon_threadsafe(ended.set),
    )
    loop.start()
    requests = [replace(REQUEST, request_id=str(i), num_items=1 + i % 3) for i in range(60)]
    tasks = [asyncio.create_task(handler.decode(request, None)) for request in requests]
    for task in tasks[::7]:
        task.cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    scheduler.close()
    await asyncio.wait_for(ended.wait(), 30)
    assert loop.join(30)
    for i, reply in enumerate(replies):
        if i % 7 == 0:
            assert isinstance(reply, asyncio.CancelledError)
        else:
            assert isinstance(reply, DecodedList)
            assert reply.request_id == str(i)
            assert len(reply.items) == 1 + i % 3
