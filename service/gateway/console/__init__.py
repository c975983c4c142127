"""`/console`: a page for people, and the files that it is made of; it asks the service what any caller may ask."""

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

_FILES = Path(__file__).with_name("static")
_HEADERS = {
    # Nothing but what comes from here, and nobody may put it into a frame.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Files(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        """With the page's headers: a service that was updated is not shown with yesterday's files."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(_HEADERS)
        return response


def console_router(example_users: tuple[str, ...]) -> APIRouter:
    """`/console`, its files below it, and the users that it offers."""
    router = APIRouter(include_in_schema=False)

    @router.get("/console")
    async def console() -> Response:
        return FileResponse(_FILES / "index.html", headers=_HEADERS)

    @router.get("/console/users")
    async def users() -> dict[str, tuple[str, ...]]:
        return {"user_ids": example_users}

    router.routes.append(Mount("/console", _Files(directory=_FILES), name="console_files"))
    return router
