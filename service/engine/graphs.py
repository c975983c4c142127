"""Rounds and prefills as CUDA graphs: thousands of small kernels, started as one."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, Self, TypeVar

from service.model.capture import Capture, Graph

_OFTEN = 32  # times that a shape is met before it gets a graph although another would do
# Of the time since the latest capture, how much that one may be before there is another: where a larger graph would do;
# likewise in service, where not one caller in a hundred is to notice; and in service where none would do.
_SHARE, _SHARE_IN_SERVICE, _SHARE_IF_NEEDED = 0.02, 0.002, 0.1


class Sized(Hashable, Protocol):
    """A shape that may be computed as a larger one."""

    def covers(self, other: Self) -> bool:
        """Whether what has the other shape can be computed in this one, for not much more."""
        ...

    @property
    def cost(self) -> tuple[int, ...]:
        """Rises with what it takes to compute."""
        ...


Shape = TypeVar("Shape", bound=Hashable)
SizedShape = TypeVar("SizedShape", bound=Sized)


class Graphs:
    """Calls that run as graphs from the second time on that they meet a shape.

    The first time does the work as it is, which makes ready what a capture must not: workspaces, kernels, memory. Then
    it captures, which runs nothing. A function must read and write memory that stays where it is for as long as this
    lives, and must not wait for the device.

    A capture takes as long as ten rounds and more, and a larger shape some of a round. So one that is met now and then
    is computed as another that has a graph and room for it; and in service one that fits into none is computed without
    a graph while another was captured just now.

    Args:
        capture: of a call; None: every call is the function's own.
        most: graphs that are kept; of those captured in service the one that was not used for longest goes first, so
            that a service that meets new shapes for weeks does not grow.
        clock: seconds that only rise.
        in_service: see below.

    Attributes:
        num_captured: graphs so far, those that are gone among them.
        in_service: whether callers wait for captures.
    """

    def __init__(
        self,
        capture: Capture | None,
        most: int = 1000,
        clock: Callable[[], float] = time.perf_counter,
        *,
        in_service: bool = False,
    ) -> None:
        self.num_captured, self.in_service = 0, in_service
        self._capture, self._most, self._clock = capture, most, clock
        self._captured_at, self._captured_for = -math.inf, 0.0  # the latest
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._times_met: OrderedDict[Hashable, int] = OrderedDict()  # of those without a graph
        self._of_start: set[Hashable] = set()  # shapes of graphs that stay
        self._fits: dict[Hashable, Any] = {}  # see `_stand_in`; until there is another graph

    @property
    def can_capture(self) -> bool:
        """Whether this device has graphs."""
        return self._capture is not None

    def begin_service(self) -> None:
        """From now on callers wait for captures, so these are rare; what is captured by now stays."""
        self.in_service = True
        self._of_start = set(self._graphs)

    def fitting(self, shape: SizedShape) -> SizedShape:
        """The shape to compute for this one: itself, or one with a graph that covers it while it is met rarely."""
        if self._capture is None or shape in self._graphs:
            return shape
        times = self._times_met.pop(shape, 0) + 1
        stand_in: SizedShape | None = self._stand_in(shape)
        share = _SHARE_IN_SERVICE if self.in_service else _SHARE
        if stand_in is None or (times >= _OFTEN and self._may_take(share)):
            return shape
        self._times_met[shape] = times
        if len(self._times_met) > self._most:
            self._times_met.popitem(last=False)
        return stand_in

    def run(self, function: Callable[[Shape], None], shape: Shape) -> bool:
        """The function, for this shape; each shape has always the same.

        Returns:
            Whether it took no longer than it will from now on.
        """
        if self._capture is None:
            function(shape)
            return True
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
            graph.replay()
            return True
        function(shape)
        if self.in_service and not self._may_take(_SHARE_IF_NEEDED):
            return False
        began = self._clock()
        self._graphs[shape] = self._capture(lambda: function(shape))
        self._captured_at = self._clock()
        self._captured_for = self._captured_at - began
        self.num_captured += 1
        if len(self._graphs) > self._most:
            self._graphs.pop(next(shape for shape in self._graphs if shape not in self._of_start))
        self._fits.clear()
        return False

    def _stand_in(self, shape: SizedShape) -> SizedShape | None:
        """The cheapest that has a graph and room for it."""
        if shape not in self._fits:
            known = [
                other for other in self._graphs if isinstance(other, type(shape)) and other.covers(shape)
            ]
            if len(self._fits) >= self._most:
                self._fits.clear()
            self._fits[shape] = min(known, key=lambda other: other.cost, default=None)
        found: SizedShape | None = self._fits[shape]
        return found

    def _may_take(self, share: float) -> bool:
        """Whether another capture like the latest is no more of the time since."""
        return self._clock() >= self._captured_at + self._captured_for / share
