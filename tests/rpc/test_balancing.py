"""One client of several workers: all get their share, and none is missed when it goes."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.errors import InputError, UnavailableError
from service.rpc.client import WorkerClient
from service.rpc.server import WorkerServer
from service.rpc.target import target_of
from service.rpc.tls import ClientTls, ServerTls
from tests.certificates import Certificates
from tests.rpc.test_client_and_server import DECODED, REQUEST, Scripted

SCRIPT = Path(__file__).with_name("worker_process.py")
LONG = 60.0
NUM_CALLERS, NUM_CALLS = 8, 60


class Two:
    """Two servers in this process.

    Attributes:
        address: of both.
    """

    def __init__(self, tls: ServerTls | None = None) -> None:
        self.handlers = [Scripted(), Scripted()]
        self.servers = [WorkerServer("127.0.0.1:0", tls) for _ in self.handlers]
        self.address = ""

    async def start(self) -> None:
        self.address = ",".join([await server.start() for server in self.servers])
        for server, handler in zip(self.servers, self.handlers, strict=True):
            await server.serve(handler)

    @property
    def counts(self) -> list[int]:
        return [len(handler.requests) for handler in self.handlers]

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop(0)


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    two = Two()
    await two.start()
    yield two
    await two.stop()


@pytest.fixture
async def client(two: Two) -> AsyncIterator[WorkerClient]:
    client = WorkerClient(two.address, "c1")
    yield client
    await client.close()


async def until_each_was_asked(client: WorkerClient, two: Two) -> None:
    async with asyncio.timeout(LONG):
        while not all(two.counts):
            await client.decode(REQUEST, timeout=LONG)


async def test_calls_go_to_each_in_turn(two: Two, client: WorkerClient) -> None:
    await until_each_was_asked(client, two)
    before = two.counts
    for _ in range(10):
        await client.decode(REQUEST, timeout=LONG)
    assert [now - then for now, then in zip(two.counts, before, strict=True)] == [5, 5]


async def test_one_that_drains_is_asked_no_more_and_its_calls_are_answered(
    two: Two, client: WorkerClient
) -> None:
    await until_each_was_asked(client, two)
    leaves, stays = two.handlers
    leaves.outcomes = stays.outcomes = [None]
    leaves.entered.clear()
    calls = [asyncio.create_task(client.decode(REQUEST, timeout=LONG)) for _ in range(2)]
    await asyncio.wait_for(leaves.entered.wait(), LONG)
    await two.servers[0].drain()
    asked = two.counts[0]
    for _ in range(10):
        assert await client.decode(REQUEST, timeout=LONG) == (DECODED, "m1")
    assert two.counts[0] == asked
    leaves.release.set()
    stays.release.set()
    assert await asyncio.gather(*calls) == [(DECODED, "m1")] * 2
    # Whoever serves again is asked again.
    await two.servers[0].serve(leaves)
    async with asyncio.timeout(LONG):
        while two.counts[0] == asked:
            await client.decode(REQUEST, timeout=LONG)


async def test_one_that_starts_is_not_asked_yet(two: Two) -> None:
    starting = WorkerServer("127.0.0.1:0")
    serving = two.address.split(",")[0]
    client = WorkerClient(f"{await starting.start()},{serving}", "c1")
    for _ in range(10):
        assert await client.decode(REQUEST, timeout=LONG) == (DECODED, "m1")
    await client.close()
    await starting.stop(0)


async def test_none_that_serves(two: Two, client: WorkerClient) -> None:
    await until_each_was_asked(client, two)
    for server in two.servers:
        await server.drain()
    with pytest.raises(UnavailableError):
        await client.decode(REQUEST, timeout=LONG)
    assert not await client.ready()


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    """Two workers as processes, each of which said where it listens."""
    made = [
        subprocess.Popen([sys.executable, str(SCRIPT), name], stdout=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    yield made
    for process in made:
        process.kill()
        process.communicate()


async def test_no_call_is_lost_when_one_is_killed(processes: list["subprocess.Popen[str]"]) -> None:
    addresses = []
    for process in processes:
        assert process.stdout is not None
        addresses.append(await asyncio.to_thread(process.stdout.readline))
    client = WorkerClient("ipv4:" + ",".join(map(str.strip, addresses)), "c1")
    async with asyncio.timeout(LONG):
        while len({(await client.decode(REQUEST, timeout=LONG))[1] for _ in range(4)}) < 2:
            pass
    wrote: Counter[str] = Counter()
    killed = asyncio.Event()

    async def call() -> None:
        for number in range(NUM_CALLS):
            _, name = await client.decode(REQUEST, timeout=LONG)
            wrote[name] += 1
            if number == NUM_CALLS // 3 and not killed.is_set():
                killed.set()
                processes[0].kill()

    await asyncio.gather(*(call() for _ in range(NUM_CALLERS)))
    assert wrote["first"] + wrote["second"] == NUM_CALLERS * NUM_CALLS
    assert 0 < wrote["first"] < wrote["second"]
    await client.close()


async def test_certificates_of_several_have_one_name(certificates: Certificates) -> None:
    two = Two(ServerTls(certificates.server.certificate, certificates.server.key))
    await two.start()
    for name in ("localhost", "127.0.0.1"):
        client = WorkerClient(two.address, "c1", ClientTls(certificates.ca, server_name=name))
        await until_each_was_asked(client, two)
        await client.close()
    client = WorkerClient(two.address, "c1", ClientTls(certificates.ca, server_name="elsewhere"))
    with pytest.raises(UnavailableError):
        await client.decode(REQUEST, timeout=LONG)
    await client.close()
    await two.stop()


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("unix:/run/w", "unix:/run/w"),
        ("workers:50051", "workers:50051"),
        ("dns:///workers:50051", "dns:///workers:50051"),
        ("[::1]:50051", "[::1]:50051"),
        ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("ipv4:10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_targets(address: str, target: str) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("workers", "'workers' is no address: expected host:port"),
        ("dns:///workers", "'workers' is no address"),
        ("10.0.0.1:1,", "'' is no address"),
        ("one:1,two:2", "'one:1,two:2': several workers are given as ip:port,ip:port, or by one name"),
        ("10.0.0.1:1,[::1]:2", "all given by IPv4 addresses, or all by IPv6"),
    ],
)
async def test_addresses_that_are_none(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        WorkerClient(address, "c1")
