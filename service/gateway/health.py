"""What an orchestrator asks: is the process alive, started, ready for requests?"""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from service.gateway.answer import Problem
from service.gateway.openapi import problems
from service.gateway.problems import MEDIA_TYPE
from service.gateway.recommender import Recommender


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

    @router.get("/ready", response_model=Readiness, responses=problems(503))
    async def ready() -> Response:
        """The worker takes requests and the history store answers; otherwise 503 says which does not.

        So it is, too, once the gateway is about to end.
        """
        return _readiness(await recommender.checks(), is_draining=recommender.is_draining)

    return router


def _readiness(checks: dict[str, bool], *, is_draining: bool) -> Response:
    failed = [name for name, passed in checks.items() if not passed] + ["draining"] * is_draining
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
