"""Rounds and prefills as CUDA graphs: thousands of small kernels, started as one."""

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import torch

Shape = TypeVar("Shape", bound=Hashable)


class Graph(Protocol):
    """What was captured; runs again, on what its memory holds by then."""

    def replay(self) -> None:
        """Start it."""
        ...


Capture = Callable[[Callable[[], None]], Graph]


class Graphs(Generic[Shape]):
    """A function of a shape that runs as a graph from the second time on that it meets a shape.

    The first time does the work as it is, and makes ready what a capture must not: workspaces, kernels, memory. The
    second captures, which runs nothing, and replays. The function must read and write memory that stays where it is
    for as long as this lives, and must not wait for the device.

    Args:
        function: to be captured.
        capture: of a call; None: every call is the function's own.
    """

    def __init__(self, function: Callable[[Shape], None], capture: Capture | None) -> None:
        self._function = function
        self._capture = capture
        self._graphs: dict[Shape, Graph | None] = {}

    def run(self, shape: Shape) -> None:
        """The function, for this shape."""
        if self._capture is None:
            self._function(shape)
            return
        if shape not in self._graphs:
            self._graphs[shape] = None
            self._function(shape)
            return
        graph = self._graphs[shape]
        if graph is None:
            graph = self._graphs[shape] = self._capture(lambda: self._function(shape))
        graph.replay()


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
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            function()
        return graph

    return capture
