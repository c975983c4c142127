"""`padrec swap`: what an operator asks of a running service."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import LOCAL_URL, ApiKey, BundlePath, CaFile, CertificateFile, KeyFile, Url
from service.errors import PadrecError

if TYPE_CHECKING:
    import httpx

_POLL_SECONDS = 0.2
# A gateway that died is there again after this.
_PATIENCE_SECONDS = 30.0
_MAY_BE_TRIED_AGAIN = (429, 503)

_WORDS = {
    "checking": "checking the bundle's files",
    "loading": "loading it beside the one that serves",
    "switching": "switching",
    "draining": "draining the old one",
}


def swap(
    bundle: BundlePath,
    url: Url = LOCAL_URL,
    worker: Annotated[
        str | None,
        typer.Option(help="Of a gateway that was started alone: a worker that serves the bundle already."),
    ] = None,
    api_key: ApiKey = None,
    ca: CaFile = None,
    certificate: CertificateFile = None,
    key: KeyFile = None,
) -> None:
    """Have a running service serve another bundle, without a break."""
    import httpx

    from service.cli.serving import client_tls

    tls = client_tls(ca, certificate, key)
    headers = {} if api_key is None else {b"X-API-Key": api_key.encode()}
    verify = tls.context() if url.startswith("https") else True
    wanted = {"bundle": str(bundle.absolute()), "worker": worker}
    started = time.perf_counter()
    try:
        with httpx.Client(base_url=url.rstrip("/"), headers=headers, verify=verify, timeout=30.0) as client:
            begun = _answer(client.post("/admin/bundle", json=wanted))
            _say(begun)
            serving = _until_over(client, begun)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PadrecError(f"no padrec gateway answers at {url}: {error}") from error
    print(
        f"serving {serving['bundle']}: model {serving['model_version']}, catalogue {serving['catalog_version']} "
        f"({serving['num_items']} items), after {time.perf_counter() - started:.1f} s"
    )


def _until_over(client: "httpx.Client", begun: dict[str, Any]) -> dict[str, Any]:
    """What is served in the end; raises a `PadrecError` when it is not the bundle that was asked for."""
    state = begun["state"]
    while True:
        time.sleep(_POLL_SECONDS)
        told = _patient_get(client)
        serving: dict[str, Any] = told["serving"]
        now = told["swap"]
        if (
            now is None or now["swap_id"] != begun["swap_id"]
        ):  # which a gateway that was started anew does not know
            if serving["bundle"] != begun["bundle"]:
                raise PadrecError(f"the gateway ended during the swap; {serving['bundle']} serves on")
            return serving
        if now["state"] == "failed":
            raise PadrecError(f"{serving['bundle']} serves on: {now['error']}")
        if now["state"] == "done":
            return serving
        if now["state"] != state:
            state = now["state"]
            _say(now)


def _patient_get(client: "httpx.Client") -> dict[str, Any]:
    import httpx

    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            response = client.get("/admin/bundle")
            if response.status_code not in _MAY_BE_TRIED_AGAIN or time.monotonic() > deadline:
                return _answer(response)
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def _answer(response: "httpx.Response") -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise PadrecError(f"what answers at {response.url} is no padrec gateway")
    if response.is_error:
        raise PadrecError(f"{response.status_code} {answer.get('detail', answer.get('title', ''))}")
    return answer


def _say(now: dict[str, Any]) -> None:
    from service.cli.display import say

    say(f"{Path(now['bundle']).name}: {_WORDS[now['state']]} ({now['seconds']:.1f} s)")
