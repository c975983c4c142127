"""How a call becomes a CUDA graph."""

import gc
from collections.abc import Callable
from typing import Protocol

import torch


class Graph(Protocol):
    """What was captured; runs again, on what its memory holds by then."""

    def replay(self) -> None:
        """Start it."""
        ...


# Of a call, which runs nothing. It must have run before, as that makes ready what a capture must not: workspaces,
# kernels, memory; it must read and write memory that stays where it is, and not wait for the device.
Capture = Callable[[Callable[[], None]], Graph]


def capture_on(device: torch.device) -> Capture | None:
    """How to capture on a device; None where there are no graphs.

    Once some were captured and all of them are gone, ask anew: their scratch memory is gone with them.
    """
    if device.type != "cuda":
        return None
    # No two graphs run at a time, so all may use the same scratch memory.
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], None]) -> Graph:
        graph = torch.cuda.CUDAGraph()
        # What is freed while a capture runs breaks it, another engine's graphs that the collector finds among it.
        collects = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                function()
        finally:
            if collects:
                gc.enable()
        return graph

    return capture
