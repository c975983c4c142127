"""What an orchestrator asks: is the process alive, started, ready for requests?"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict

from service.gateway.answer import Problem
from service.gateway.openapi import problems
from service.gateway.problems import MEDIA_TYPE
from service.gateway.recommender import Recommender

CheckName = Literal["worker", "history_store"]


class Health(BaseModel):
    """All is well."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ok"] = "ok"


class Readiness(Health):
    """Everything that lists depend on answers."""

    checks: dict[str, bool]


class NotReady(Problem):
    """A problem detail that says what does not answer."""

    checks: dict[str, bool]


def health_router(recommender: Recommender) -> APIRouter:
    """`/health/live`, `/health/startup` and `/health/ready`."""
    router = APIRouter(prefix="/health", tags=["health"])

    @router.get("/live")
    async def live() -> Health:
        """The process answers."""
        return Health()

    @router.get("/startup")
    async def startup() -> Health:
        """The catalogue is loaded."""
        return Health()

    @router.get("/ready", response_model=Readiness, responses=problems(422, 503))
    async def ready(exclude: Annotated[frozenset[CheckName], Query()] = frozenset()) -> Response:
        """The worker takes requests and the history store answers; otherwise 503 says which does not.

        So it does once the gateway is about to end. What `exclude` names may fail: lists are served without the history
        store, as popular ones.
        """
        checks = await recommender.checks()
        failed = [name for name, passed in checks.items() if not passed and name not in exclude]
        if not recommender.withdrawals.is_known and "history_store" not in failed:
            failed.append("withdrawn_items")  # whatever may fail, these are never listed
        if recommender.is_draining:
            failed.append("draining")
        return _readiness(checks, failed)

    return router


def _readiness(checks: dict[str, bool], failed: list[str]) -> Response:
    if not failed:
        return Response(Readiness(checks=checks).model_dump_json(), media_type="application/json")
    answer = NotReady(
        title="Service Unavailable", status=503, detail=f"not ready: {', '.join(failed)}", checks=checks
    )
    return Response(
        answer.model_dump_json(exclude_none=True),
        status_code=503,
        media_type=MEDIA_TYPE,
        headers={"Retry-After": "1"},
    )
