"""REST: translates HTTP to the recommender and back, and nothing more."""

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.responses import StreamingResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor

from service.errors import PadrecError
from service.gateway.access import METRICS_PATH, Authenticated, allowed, charge_batch
from service.gateway.admin import admin_router, only_from_this_machine
from service.gateway.answer import EventsAccepted, ItemAnswer, Recommendation, UserHistory
from service.gateway.batch import BatchResult, RecommendationBatch
from service.gateway.console import console_router
from service.gateway.disconnect import while_connected
from service.gateway.health import health_router
from service.gateway.keys import KeyRing
from service.gateway.middleware import BodyLimit, Measured, Traced
from service.gateway.openapi import problems, with_keys, with_problems
from service.gateway.problems import add_handlers, problem_of
from service.gateway.query import MAX_ID_LENGTH, EventBatch, RecommendBatch, RecommendQuery
from service.gateway.recommender import Recommender
from service.gateway.server_sent import EVENT_STREAM, NOT_KEPT, described_events, events, first_of
from service.gateway.swap import Swaps
from service.telemetry.tracing import Tracing


class _AnyText(Convertor[str]):
    """As `path`, which ends at a line break: IDs are any text."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_text", _AnyText())

IdInPath = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]


def create_app(
    recommender: Recommender, swaps: Swaps, keys: KeyRing | None = None, tracing: Tracing | None = None
) -> FastAPI:
    """The HTTP application of a recommender; without keys everybody may call everything.

    But for what operators do, which is then for this machine alone.
    """
    app = FastAPIOffline(
        title="padrec",
        summary="Which items should this user see next? A language model writes the list.",
        description="Every answer has an `X-Request-ID`: the request's own, of at most 128 printable ASCII characters, "
        "or a new one. Logs name it.",
        version=version("padrec"),
        redoc_url=None,
        dependencies=None if keys is None else [Depends(allowed)],
    )
    app.include_router(_router(recommender))
    app.include_router(health_router(recommender))
    app.include_router(console_router(recommender.settings.example_users))
    # Whoever has a key of their scope may make these calls from anywhere.
    here = [Depends(only_from_this_machine)] if keys is None else []
    app.include_router(admin_router(recommender, swaps), dependencies=here)
    add_handlers(app)
    app.openapi = with_problems(app.openapi)  # type: ignore[method-assign]
    # The last one added sees a request first.
    app.add_middleware(BodyLimit, max_bytes=recommender.settings.max_body_bytes)
    if tracing is not None:
        # Strangers are refused before it: they cannot ask for traces.
        app.add_middleware(Traced, tracing=tracing)
    if keys is not None:
        app.openapi = with_keys(app.openapi)  # type: ignore[method-assign]
        app.add_middleware(Authenticated, keys=keys, open_metrics=not recommender.settings.metrics_need_key)
    app.add_middleware(Measured, metrics=recommender.metrics)
    return app


def _router(recommender: Recommender) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/recommend",
        response_model=Recommendation,
        responses=problems(404, 413, 422, 429, 500, 503, 504),
        tags=["lists"],
    )
    async def recommend(query: RecommendQuery, request: Request) -> Response:
        """The items that a user should see next, best first."""
        return _json(await while_connected(request, recommender.recommend(query)))

    @router.post(
        "/recommend/stream",
        response_class=StreamingResponse,
        responses=problems(404, 413, 422, 429, 500, 503, 504) | described_events(),
        tags=["lists"],
    )
    async def recommend_stream(query: RecommendQuery, request: Request) -> Response:
        """As `/recommend`, each item the moment it is certain, as server-sent events."""
        updates = recommender.recommend_stream(query)
        # What is wrong with the request is told by the status, for which it is too early yet.
        first = await while_connected(request, first_of(updates))
        return StreamingResponse(events(first, updates), media_type=EVENT_STREAM, headers=NOT_KEPT)

    @router.post(
        "/recommend/batch",
        response_model=RecommendationBatch,
        responses=problems(413, 422, 500),
        tags=["lists"],
    )
    async def recommend_batch(batch: RecommendBatch, request: Request) -> Response:
        """Lists for many users at once; each is answered or refused by itself."""
        charge_batch(len(batch.requests))
        answers = await while_connected(request, recommender.recommend_batch(batch.requests))
        return _json(RecommendationBatch(results=tuple(map(_result, answers))))

    @router.post(
        "/events", response_model=EventsAccepted, responses=problems(413, 422, 500, 503), tags=["histories"]
    )
    async def record_events(batch: EventBatch) -> Response:
        """Record that users met items; once answered, the events are durable."""
        return _json(await recommender.record_events(batch.events))

    @router.get(
        "/users/{user_id:any_text}/history",
        response_model=UserHistory,
        responses=problems(422, 500, 503),
        tags=["histories"],
    )
    async def get_history(user_id: IdInPath) -> Response:
        """The stored history of a user; empty for an unknown one."""
        item_ids = await recommender.get_history(user_id)
        return _json(UserHistory(user_id=user_id, item_ids=tuple(item_ids)))

    @router.delete(
        "/users/{user_id:any_text}/history",
        responses=problems(422, 500, 503),
        tags=["histories"],
        status_code=204,
    )
    async def delete_history(user_id: IdInPath) -> None:
        """Forget a user's history, and the lists that are remembered of it."""
        await recommender.delete_history(user_id)

    @router.get("/items/{item_id:any_text}", responses=problems(404, 422, 500), tags=["items"])
    async def get_item(item_id: IdInPath) -> ItemAnswer:
        """An item of the catalogue."""
        return recommender.get_item(item_id)

    @router.get(METRICS_PATH, include_in_schema=False)
    async def metrics() -> Response:
        await recommender.tell_state()
        return Response(generate_latest(recommender.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _json(answer: BaseModel) -> Response:
    """Written to JSON once; the framework would validate it again and write it by a longer way."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _result(answer: Recommendation | PadrecError) -> BatchResult:
    if isinstance(answer, PadrecError):
        return BatchResult(error=problem_of(answer))
    return BatchResult(recommendation=answer)
