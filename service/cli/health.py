"""`padrec health`: for probes of containers, which have neither curl nor grpcurl, but padrec."""

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import LOCAL_URL, CaFile, CertificateFile, KeyFile
from service.errors import InputError

if TYPE_CHECKING:
    from service.rpc.tls import ClientTls

_TIMEOUT = 3.0
_UNIX = "unix:"
_EXIT_NOT_READY = 1


def health(
    url: Annotated[
        str,
        typer.Option(help="Where the gateway listens, or unix:PATH, its local socket."),
    ] = LOCAL_URL,
    grpc: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="In place of --url: gRPC of a worker or gateway, host:port or unix:PATH."
        ),
    ] = None,
    ca: CaFile = None,
    certificate: CertificateFile = None,
    key: KeyFile = None,
    server_name: Annotated[
        str | None,
        typer.Option(help="With --grpc and --ca: a name that the certificate has, if not the address's."),
    ] = None,
) -> None:
    """Ask a running gateway or worker whether it is ready: exits 0 if it is, and 1, with a line, if not."""
    from dataclasses import replace

    from service.cli.serving import client_tls

    tls = replace(client_tls(ca, certificate, key), server_name=server_name)
    complaint = (
        _http_complaint(url, tls) if grpc is None else _grpc_complaint(grpc, None if ca is None else tls)
    )
    if complaint is not None:
        typer.echo(f"padrec: {complaint}", err=True)
        raise typer.Exit(_EXIT_NOT_READY)


def _http_complaint(url: str, tls: "ClientTls") -> str | None:
    """What keeps a gateway from being ready; None: nothing."""
    import httpx

    transport, base_url = None, url.rstrip("/")
    if url.startswith(_UNIX):
        transport, base_url = httpx.HTTPTransport(uds=url.removeprefix(_UNIX)), "http://localhost"
    verify = tls.context() if base_url.startswith("https") else True
    try:
        # Past any proxy: what is asked for is near.
        with httpx.Client(transport=transport, verify=verify, timeout=_TIMEOUT, trust_env=False) as client:
            answer = client.get(f"{base_url}/health/ready")
    except httpx.InvalidURL as error:
        raise InputError(f"--url {url}: {error}") from error
    except httpx.HTTPError as error:
        return f"nothing answers at {url}: {error}"
    if answer.is_success:
        return None
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{url} answers {answer.status_code}, and is no padrec gateway"


def _grpc_complaint(address: str, tls: "ClientTls | None") -> str | None:
    """The same, of who speaks gRPC."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from service.rpc.listen import split_host_port

    if not address.startswith(_UNIX):
        split_host_port(address)
    options = (("grpc.enable_http_proxy", 0), *(() if tls is None else tls.options()))
    with (
        grpc.insecure_channel(address, options=options)
        if tls is None
        else grpc.secure_channel(address, tls.credentials(), options=options)
    ) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            told = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            return f"nothing answers at {address}: {error.details()}"
    if told.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{address} is {health_pb2.HealthCheckResponse.ServingStatus.Name(told.status)}"
