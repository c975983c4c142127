"""Many small operators as few kernels: what `torch.compile` makes of the parts of a round."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch

# A part is compiled anew where a size is 1; few of them ever are.
_MOST_VERSIONS = 64

Function = TypeVar("Function", bound=Callable[..., Any])


class Fuse(Protocol):
    """Makes a function of tensors faster, and nothing else of it."""

    def __call__(self, function: Function) -> Function:
        """The same function."""
        ...


def as_it_is(function: Function) -> Function:
    """Each operator stays a kernel of its own."""
    return function


def fuse_with(backend: str) -> Fuse:
    """What a backend of `torch.compile` makes of a part."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _MOST_VERSIONS)
    # Sizes that happen to be equal once are no reason to compile for that case alone.
    torch.fx.experimental._config.use_duck_shape = False

    def fuse(function: Function) -> Function:
        # A part that cannot be compiled whole is an error: it would wait for the device where it breaks.
        compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
        return cast(Function, compiled)

    return fuse
