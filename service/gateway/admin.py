"""What operators do to a running service, over REST alone: swap its bundle, withdraw items.

They open files by a name that the caller gives. So without keys they are answered to this machine alone.
"""

import ipaddress
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.errors import PermissionDeniedError
from service.gateway.openapi import problems
from service.gateway.query import ItemId
from service.gateway.recommender import Recommender
from service.gateway.swap import Serving, Swap, Swaps

_LONGEST_PATH = 4_096
_LONGEST_ADDRESS = 512
_MOST_ITEMS = 10_000
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class SwapQuery(BaseModel):
    """Serve another bundle."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": [{"bundle": "/srv/bundles/2026-12-01"}]}
    )

    bundle: Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_PATH)] = Field(
        description="Its folder, as an absolute path on the service's machine."
    )
    worker: Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_ADDRESS)] | None = Field(
        None,
        description="Where a worker listens that serves it already, host:port or unix:PATH, for a gateway that was "
        "started alone; null under padrec serve, which starts the worker itself.",
    )


class BundleAnswer(BaseModel):
    """What is served, and what is about to be."""

    model_config = ConfigDict(frozen=True)

    serving: Serving
    swap: Swap | None = Field(
        description="The swap that is under way, or the last that was; null where there was none since the gateway "
        "started."
    )


class ItemsQuery(BaseModel):
    """Items that are withdrawn, or listed again; all of them or none."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": [{"item_ids": ["item-7", "item-19"]}]}
    )

    item_ids: tuple[ItemId, ...] = Field(min_length=1, max_length=_MOST_ITEMS)


class ItemsAnswer(BaseModel):
    """It is done, and durable."""

    model_config = ConfigDict(frozen=True)

    num_withdrawn: int = Field(description="Items that are withdrawn now.")
    unknown_item_ids: tuple[str, ...] = Field(
        description="Of those that were sent, the ones that the catalogue does not hold: kept, as a later one may."
    )


class WithdrawnAnswer(BaseModel):
    """What is withdrawn now."""

    model_config = ConfigDict(frozen=True)

    item_ids: tuple[str, ...] = Field(description="In the order of their IDs.")
    unknown_item_ids: tuple[str, ...] = Field(description="Those of them that the catalogue does not hold.")


def admin_router(recommender: Recommender, swaps: Swaps) -> APIRouter:
    """All calls under `/admin`."""
    router = APIRouter(prefix="/admin", tags=["operation"])

    @router.post(
        "/bundle",
        response_model=Swap,
        responses=problems(403, 409, 413, 422, 500),
        status_code=202,
    )
    async def swap_bundle(query: SwapQuery) -> Response:
        """Begin to serve another bundle, without a break; `GET /admin/bundle` tells how far it is."""
        swap = await swaps.begin(Path(query.bundle), query.worker)
        return Response(swap.model_dump_json(), status_code=202, media_type="application/json")

    @router.get("/bundle", response_model=BundleAnswer, responses=problems(403, 500))
    async def get_bundle() -> BundleAnswer:
        """What is served, and how the latest swap stands."""
        return BundleAnswer(serving=swaps.serving, swap=swaps.latest)

    @router.post("/items/withdraw", responses=problems(403, 413, 422, 500, 503))
    async def withdraw_items(query: ItemsQuery) -> ItemsAnswer:
        """Have items in no list, from the next request on, until they are restored; in histories they still count.

        Gateways that share the history store follow within a second.
        """
        return answered(await recommender.withdraw(query.item_ids))

    @router.post("/items/restore", responses=problems(403, 413, 422, 500, 503))
    async def restore_items(query: ItemsQuery) -> ItemsAnswer:
        """List items again; those that are not withdrawn are no error."""
        return answered(await recommender.restore(query.item_ids))

    @router.get("/items/withdrawn", responses=problems(403, 500))
    async def get_withdrawn() -> WithdrawnAnswer:
        """What is withdrawn, as far as this gateway knows: while the history store is down, what it said last."""
        item_ids = sorted(recommender.withdrawals.now.item_ids)
        unknown = recommender.edition.known(item_ids)[1]
        return WithdrawnAnswer(item_ids=tuple(item_ids), unknown_item_ids=tuple(unknown))

    def answered(unknown: tuple[str, ...]) -> ItemsAnswer:
        return ItemsAnswer(num_withdrawn=len(recommender.withdrawals.now.item_ids), unknown_item_ids=unknown)

    return router


def only_from_this_machine(request: Request) -> None:
    """Raise a `PermissionDeniedError` for callers elsewhere, and where a proxy or a browser here speaks for others."""
    caller = "" if request.client is None else request.client.host
    is_forwarded = any(name in request.headers for name in _FORWARDED)
    # A page from elsewhere can have its own name mean this machine.
    if is_forwarded or not (_is_local(caller) and request.url.hostname in _LOCAL_NAMES):
        raise PermissionDeniedError(
            "without keys only callers on this machine, at a local address and without a proxy, may do this"
        )


def _is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
