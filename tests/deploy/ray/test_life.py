import asyncio

import pytest

from deploy.ray.life import Life


async def test_it_begins_runs_and_ends() -> None:
    begun, stop, ends = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        begun.set()
        await stop.wait()

    life = Life(work(), lambda: ends.append(True))
    await life.has_begun(begun)
    life.check()
    stop.set()
    await life.is_over()
    assert ends == [True]
    with pytest.raises(RuntimeError, match="ended"):
        life.check()


async def test_it_fails_before_it_begins() -> None:
    async def work() -> None:
        raise KeyError("no such device")

    life = Life(work())
    with pytest.raises(KeyError, match="no such device"):
        await life.has_begun(asyncio.Event())
    await life.is_over()
