"""TLS of servers and clients: PEM files, checked at start, for gRPC says little about those that it cannot use."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from service.config import GatewaySettings, WorkerSettings
from service.errors import InputError


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server shows to callers, and asks of them.

    Attributes:
        certificate: PEM, with its chain.
        key: PEM, of the certificate, not encrypted.
        client_ca: PEM; callers need a certificate of it; None: they need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Raise an `InputError` that names the first file that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load_pair(context, self.certificate, self.key)
        if self.client_ca is not None:
            _load_ca(context, self.client_ca)

    def credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server; raises what `check` raises."""
        self.check()
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=None if self.client_ca is None else self.client_ca.read_bytes(),
            require_client_auth=self.client_ca is not None,
        )


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client knows a server, and what it shows to it.

    Attributes:
        ca: PEM, of the server's certificate; None: those that this machine trusts.
        certificate: PEM, for servers that ask for one; None: none.
        key: PEM, of the certificate, not encrypted.
        server_name: that a gRPC server's certificate has; None: the one by which it is called.
    """

    ca: Path | None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def context(self) -> ssl.SSLContext:
        """For an HTTP client.

        Raises:
            InputError: a file cannot be used.
        """
        context = ssl.create_default_context()
        if self.ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _load_ca(context, self.ca)
        if self.certificate is not None:
            _load_pair(context, self.certificate, self.key or self.certificate)
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC channel; raises what `context` raises."""
        self.context()
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca is None else self.ca.read_bytes(),
            private_key=None if self.key is None else self.key.read_bytes(),
            certificate_chain=None if self.certificate is None else self.certificate.read_bytes(),
        )

    def options(self) -> tuple[tuple[str, str], ...]:
        """What goes with `credentials` as options of the channel."""
        if self.server_name is None:
            return ()
        return (("grpc.ssl_target_name_override", self.server_name),)


def server_tls(settings: GatewaySettings | WorkerSettings) -> ServerTls | None:
    """What a process shows to those who call it; None: it speaks without TLS."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return ServerTls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def worker_client_tls(settings: GatewaySettings) -> ClientTls | None:
    """How a gateway calls its worker; None: without TLS."""
    if settings.worker_tls_ca is None:
        return None
    return ClientTls(
        settings.worker_tls_ca,
        settings.worker_tls_certificate,
        settings.worker_tls_key,
        settings.worker_tls_name,
    )


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for file in (certificate, key):
        _check_readable(file)
    try:
        # Without a password of its own it would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise InputError(
            f"{certificate} and {key} are no certificate and its key, in PEM, not encrypted"
        ) from error


def _load_ca(context: ssl.SSLContext, file: Path) -> None:
    _check_readable(file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise InputError(f"{file} holds no certificate in PEM") from error


def _check_readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
