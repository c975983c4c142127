"""Redis as it is run: a server that can be stopped, a cluster of three, a master that sentinels know."""

import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis


class RedisServer:
    """A redis-server on a port of its own.

    Args:
        folder: of its files.
        options: of its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir()
        self.port = free_port()
        self._command = ["redis-server", *options, "--port", str(self.port), "--dir", str(folder)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if shutil.which("redis-server") is None:
            pytest.fail("redis-server is missing; run tests/ensure_packages.sh")
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(self.answers)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "redis-server did not start"
        try:
            with redis.Redis(port=self.port) as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False
        return True

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """Below those that systems give to connections, as is the one 10,000 above, which a cluster's node takes, too."""
    while True:
        port = random.randint(12_000, 22_000)
        if all(is_free(one) for one in (port, port + 10_000)):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@contextmanager
def running(folder: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One for all tests, on a Unix socket too, that keeps nothing on disk."""
    with tempfile.TemporaryDirectory(prefix="padrec-redis-") as folder:  # a socket's path must be short
        socket_file = f"{folder}/redis.sock"
        options = ("--save", "", "--appendonly", "no", "--unixsocket", socket_file)
        with running(tmp_path_factory.mktemp("redis") / "server", *options):
            yield f"unix://{socket_file}"


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that writes every change to its disk before it answers."""
    with running(
        tmp_path / "redis", "--save", "", "--appendonly", "yes", "--appendfsync", "always"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The ports of three nodes that share all slots."""
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(folder / str(n), *options)) for n in range(3)]
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        create = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"]
        subprocess.run(create, check=True, stdout=subprocess.DEVNULL)

        def is_whole(node: RedisServer) -> bool:
            ask = ["redis-cli", "-p", str(node.port), "cluster", "info"]
            told = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
            return "cluster_state:ok" in told and "cluster_known_nodes:3" in told

        for node in nodes:
            wait_until(lambda node=node: is_whole(node))
        yield [node.port for node in nodes]


@pytest.fixture
def sentinel_port(redis_server: RedisServer, tmp_path: Path) -> Iterator[int]:
    """A sentinel that knows `redis_server` as `shop`."""
    file = tmp_path / "sentinel.conf"
    file.write_text(f"sentinel monitor shop 127.0.0.1 {redis_server.port} 1\n")
    port = free_port()
    command = ["redis-server", str(file), "--sentinel", "--port", str(port)]
    sentinel = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            try:
                with redis.Redis(port=port) as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        wait_until(answers)
        yield port
    finally:
        sentinel.kill()
        sentinel.wait()


@pytest.fixture(params=["sqlite", "redis", "cluster"])
async def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store of each kind, with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/history.sqlite3"
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        async with Redis.from_url(url) as client:
            await client.flushall()
        return url
    ports = request.getfixturevalue("cluster_ports")
    for port in ports:
        async with Redis(port=port) as client:
            await client.flushall()
    return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
