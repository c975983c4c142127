"""The gateway's side: a worker of `service.gateway.edition` that is any replica which Serve picks."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from deploy.ray.answers import Refusal
from service.errors import DeadlineExceededError, PadrecError, QueueFullError, UnavailableError
from service.rpc.client import READY_TIMEOUT
from service.rpc.messages import WorkerDescription
from service.rpc.status import CatalogMismatchError
from service.types import DecodedItem, DecodedList, DecodeRequest

# As of `service.rpc.client`, for which gRPC does it: what went away is asked of others so often, and where nobody takes
# a request for about as long as that takes, nobody does.
_MAX_ATTEMPTS = 5
_FIRST_BACKOFF, _LAST_BACKOFF = 0.1, 1.0
_PATIENCE = 2.0

_Call: TypeAlias = DeploymentResponse | DeploymentResponseGenerator


class _NobodyError(UnavailableError):
    """There is no replica, or none has room."""


class ServeWorkers:
    """Calls the replicas of a deployment, from within an event loop.

    Args:
        handle: of the deployment.
        catalog_version: of the bundle whose rows the caller speaks.
        metadata: what goes along with a request for a list.
    """

    def __init__(
        self,
        handle: DeploymentHandle,
        catalog_version: str,
        metadata: Callable[[], Sequence[tuple[str, str]]] = tuple,
    ) -> None:
        self._handle, self._streams = handle, handle.options(stream=True)
        self._catalog_version, self._metadata = catalog_version, metadata

    async def decode(self, request: DecodeRequest, *, timeout: float) -> tuple[DecodedList, str]:
        """Have a list written; cancelling the task that awaits this cancels the call.

        Args:
            request: what to write.
            timeout: seconds until the deadline; a request whose replica died is sent to another within it.

        Returns:
            The list, and the version of the model that wrote it.

        Raises:
            QueueFullError: the replica's queue is full.
            DeadlineExceededError: the time is over.
            UnavailableError: no replica took the request in time, or those that did died, or serve another catalogue.
            PadrecError: anything else that the replica answers.
        """
        written: tuple[DecodedList, str] = await _retried(self._decode, request, time.monotonic() + timeout)
        return written

    async def decode_stream(
        self, request: DecodeRequest, *, timeout: float
    ) -> AsyncGenerator[DecodedItem | tuple[DecodedList, str], None]:
        """As `decode`, and before its result the items as they are accepted.

        A replica that died is asked again only while it has told nothing.
        """
        until = time.monotonic() + timeout
        call, update = await _retried(self._begin_stream, request, until)
        is_over = False
        try:
            while isinstance(update[0], DecodedItem):
                for item in update:
                    yield item
                update = _unless_refused(await _before(until, call, anext(call)))
            is_over = True
            yield update
        finally:
            # One that is over ends by itself, and is not counted as left.
            if not is_over:
                call.cancel()

    async def ready(self) -> bool:
        """Whether a replica takes requests now; False too when none says so within a second."""
        try:
            await self.describe(timeout=READY_TIMEOUT)
        except PadrecError:
            return False
        return True

    async def describe(self, *, timeout: float = READY_TIMEOUT) -> WorkerDescription:
        """What a replica serves and how busy it is; raises what `decode` raises."""
        call = self._handle.describe.remote()
        description: WorkerDescription = await _answer(call, time.monotonic() + timeout)
        return description

    async def close(self) -> None:
        """Nothing: the handle is the deployment's."""

    async def _decode(self, request: DecodeRequest, until: float) -> tuple[DecodedList, str]:
        call = self._handle.decode.remote(request, *self._with_it(until))
        written: tuple[DecodedList, str] = await _answer(call, until)
        return written

    async def _begin_stream(self, request: DecodeRequest, until: float) -> Any:
        """The stream, and its first update."""
        call = self._streams.decode_stream.remote(request, *self._with_it(until))
        await _taken(until, call, call._to_object_ref_gen())
        return call, _unless_refused(await _before(until, call, anext(call)))

    def _with_it(self, until: float) -> tuple[str, float, dict[str, str]]:
        return self._catalog_version, until - time.monotonic(), dict(self._metadata())


async def _retried(
    attempt: Callable[[DecodeRequest, float], Awaitable[Any]], request: DecodeRequest, until: float
) -> Any:
    """What comes of the first attempt whose replica does not go away."""
    attempts = AsyncRetrying(
        retry=retry_if_exception(_went_away),
        stop=stop_after_attempt(_MAX_ATTEMPTS),
        wait=wait_random_exponential(_FIRST_BACKOFF, _LAST_BACKOFF),
        reraise=True,
    )
    return await attempts(attempt, request, until)


def _went_away(error: BaseException) -> bool:
    return isinstance(error, UnavailableError) and not isinstance(error, CatalogMismatchError | _NobodyError)


async def _answer(call: DeploymentResponse, until: float) -> Any:
    """What a replica answers; raises what it refuses with."""
    await _taken(until, call, call._to_object_ref())
    return _unless_refused(await _before(until, call, call))


async def _taken(until: float, call: _Call, taken: Awaitable[Any]) -> None:
    """Wait until a replica has taken a call, or none does for too long."""
    patience = time.monotonic() + _PATIENCE
    try:
        await _before(min(until, patience), call, taken)
    except DeadlineExceededError as error:
        if patience < until:
            raise _NobodyError("no worker takes requests") from error
        raise


async def _before(until: float, call: _Call, part: Awaitable[Any]) -> Any:
    """Await a part of a call, which is cancelled when the time is over, or nobody awaits it any more."""
    try:
        async with asyncio.timeout(until - time.monotonic()):
            return await part
    except TimeoutError as error:
        call.cancel()
        raise DeadlineExceededError("the deadline passed before the list was written") from error
    except asyncio.CancelledError:
        call.cancel()
        raise
    except BackPressureError as error:
        raise QueueFullError(str(error)) from error
    except (RayActorError, DeploymentUnavailableError) as error:
        raise UnavailableError("the worker does not answer") from error


def _unless_refused(answer: Any) -> Any:
    if isinstance(answer, Refusal):
        raise answer.error()
    return answer
