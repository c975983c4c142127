"""Messages that are none: the caller's fault, where gRPC itself would call it UNKNOWN and log a traceback."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service.errors import RequestError

# What a call is told that fails with an error: a code, a message, and trailing metadata.
Refusal = Callable[[Exception], tuple[grpc.StatusCode, str, Any]]


class ReadingInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls whose message is no protobuf, or nests deeper than protobuf reads.

    Args:
        refusal: how.
    """

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The handler of a call, or one that asks it only with a message that could be read."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler

        def read(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except DecodeError:
                return None

        asked = handler.unary_stream if handler.response_streaming else handler.unary_unary

        async def answer(message: Any, context: Any) -> Any:
            await self._check(message, context)
            return await asked(message, context)

        async def generate(message: Any, context: Any) -> AsyncIterator[Any]:
            await self._check(message, context)
            async for one in asked(message, context):
                yield one

        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(answer, read, handler.response_serializer)
        # A stream is a generator, or a coroutine that writes to the context.
        stream = generate if inspect.isasyncgenfunction(asked) else answer
        return grpc.unary_stream_rpc_method_handler(stream, read, handler.response_serializer)

    async def _check(self, message: Any, context: Any) -> None:
        if message is None:
            error = RequestError("message", "it is no protobuf message of this call, or nested too deeply")
            await context.abort(*self._refusal(error))
