"""A worker of a made-up model as a process: `worker_process.py NAME`. No test module.

It prints its address, and writes a list after a moment, as the model `NAME`.
"""

import asyncio
import sys

from service.rpc.messages import WorkerDescription
from service.rpc.server import WorkerServer
from service.types import DecodedItem, DecodedList


class Handler:
    def __init__(self, name):
        self._name = name

    async def decode(self, request, deadline):
        await asyncio.sleep(0.005)
        return DecodedList(request.request_id, (DecodedItem(4, 0.5),), False, 9, 3, 0.1, 0.2)

    def describe(self):
        return WorkerDescription(self._name, "c1", 0, 1, 0, 1)


async def main(name):
    server = WorkerServer("127.0.0.1:0")
    address = await server.start()
    await server.serve(Handler(name))
    print(address, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
