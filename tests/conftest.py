"""What tests of several packages need: a real Redis server and small bundles."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from service.catalog.bundle import ITEMS, POPULAR, DecodingDefaults, seal
from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.files import write_json


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis server of this test run alone, on a Unix socket, that keeps nothing on disk."""
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is missing; run tests/ensure_redis.sh")
    with tempfile.TemporaryDirectory(prefix="padrec-redis-") as folder:
        path = f"{folder}/redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait_for_redis(path, server)
            yield f"unix://{path}"
        finally:
            server.terminate()
            server.wait()


def _wait_for_redis(path: str, server: "subprocess.Popen[bytes]") -> None:
    with redis.Redis(unix_socket_path=path) as client:
        for _ in range(500):
            assert server.poll() is None, "redis-server did not start"
            try:
                client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)
    pytest.fail("redis-server does not answer")


MakeBundle = Callable[..., Path]


@pytest.fixture
def make_bundle() -> MakeBundle:
    """Writes a bundle without a target.

    Items are `item-0` ... with titles `Item 0` ..., a price and a brand (missing for every third), codes of a
    mixed base, and the popular list in the order of their numbers.
    """

    def make(folder: Path, num_items: int = 20, levels: tuple[int, ...] = (4, 4, 4), **decoding: int) -> Path:
        bundle = folder / "bundle"
        bundle.mkdir()
        numbers = np.arange(num_items)
        names = [f"item-{number}" for number in numbers]
        attributes = pa.array(
            [
                {"price": float(number), "brand": None if number % 3 == 0 else f"Brand {number % 3}"}
                for number in numbers
            ]
        )
        Catalogue.build(
            names,
            np.stack(np.unravel_index(numbers % np.prod(levels), levels), axis=1),
            [f"Item {number}" for number in numbers],
            attributes,
        ).write(bundle / ITEMS)
        write_json(bundle / POPULAR, names)
        begin = np.cumsum([3, *levels])
        layout = TokenLayout(
            prefix=(0,),
            list_start=(1,),
            separator=2,
            code_tokens=tuple(tuple(range(b, b + n)) for b, n in zip(begin, levels, strict=False)),
        )
        defaults = DecodingDefaults(**{"max_history_items": 8, "max_num_items": 50} | decoding)
        seal(bundle, num_items=num_items, layout=layout, decoding=defaults, training={})
        return bundle

    return make
