"""Settings of the service, from a TOML file and `PADREC_*` environment variables, built once at start.

The environment wins over the file: `PADREC_GATEWAY__PORT=9000` over `[gateway] port = 8000`.
"""

from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from service.errors import InputError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def _needs(self, given: str, *others: str) -> None:
        """Raise unless, where one setting is given, others are as well."""
        if getattr(self, given):
            for other in others:
                if getattr(self, other) is None:
                    raise ValueError(f"{given} needs {other}")


class GatewaySettings(_Section):
    """The process that speaks items."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="gRPC port on the same host; 0 takes any free port; None: no gRPC"
    )
    worker: str | None = Field(
        None,
        description="gRPC address of the workers: host:port, where calls go in turn to all addresses of the host; "
        "ip:port,ip:port; or unix:PATH, which `padrec serve` fills in with its own",
    )
    default_deadline_ms: int = Field(5_000, ge=1, description="for requests that name none")
    max_deadline_ms: int = Field(60_000, ge=1)
    max_history_items: int = Field(1_000, ge=1, description="longest `history` a request may carry")
    max_excluded_items: int = Field(10_000, ge=0, description="most `exclude_item_ids` of a request")
    max_events: int = Field(1_000, ge=1, description="most events of one POST /events")
    max_batch_requests: int = Field(100, ge=1, description="most lists of one POST /recommend/batch")
    example_users: tuple[str, ...] = Field(
        (), description="users to pick in the console, beside those typed there"
    )
    max_withdrawn_items: int = Field(100_000, ge=1, description="withdrawn at the same time")
    bundle_folder: Path | None = Field(
        None,
        description="only bundles below this folder may be swapped in; None: any that the service can read",
    )
    max_load_seconds: float = Field(
        1_800, gt=0, description="a new worker that is not ready after so long is given up"
    )
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="of an HTTP body, and of a gRPC message")
    keys_file: Path | None = Field(
        None, description="API keys, as `padrec keys` writes them; None: none are asked for"
    )
    metrics_need_key: bool = Field(False, description="whether /metrics needs a key, of scope read")
    tls_certificate: Path | None = Field(
        None, description="PEM, with its chain; None: REST and gRPC without TLS"
    )
    tls_key: Path | None = Field(None, description="PEM, of tls_certificate")
    tls_client_ca: Path | None = Field(
        None, description="PEM; callers need a certificate of it; None: they need none"
    )
    idle_seconds: int = Field(
        75,
        ge=1,
        description="an HTTP connection without requests is closed after so long; callers and load balancers have to "
        "give theirs up before, or a request meets a connection that is being closed",
    )
    drain_delay_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        description="after the signal to stop requests are taken for so long, while readiness and gRPC health say no "
        "already, so that whoever asks for these turns to other gateways first",
    )
    local_socket: Path | None = Field(
        None,
        description="Unix socket with REST over plain HTTP for processes of this user; "
        "`padrec serve` has its own where there is TLS",
    )
    worker_tls_ca: Path | None = Field(
        None, description="PEM, of a worker's certificate at host:port; None: without TLS"
    )
    worker_tls_certificate: Path | None = Field(None, description="PEM, shown to a worker that asks for one")
    worker_tls_key: Path | None = Field(None, description="PEM, of worker_tls_certificate")
    worker_tls_name: str | None = Field(
        None, description="a name that the workers' certificates have; None: the one by which they are called"
    )

    @model_validator(mode="after")
    def _no_halves(self) -> Self:
        self._needs("metrics_need_key", "keys_file")
        self._needs("tls_certificate", "tls_key")
        self._needs("tls_key", "tls_certificate")
        self._needs("tls_client_ca", "tls_certificate")
        self._needs("worker_tls_certificate", "worker_tls_key", "worker_tls_ca")
        self._needs("worker_tls_key", "worker_tls_certificate")
        self._needs("worker_tls_name", "worker_tls_ca")
        return self


class WorkerSettings(_Section):
    """The process that owns the device."""

    listen: str = Field("127.0.0.1:50051", description="gRPC address: host:port or unix:PATH")
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=0, le=65535, description="HTTP port of /metrics; None: none")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    speculation: Literal["off", "auto", "on"] = Field(
        "auto",
        description="auto: guess as much as is fastest at the load there is; on: always all; off: nothing",
    )
    max_batch: int = Field(32, ge=1, description="lists written at the same time")
    kept_prompts: int = Field(
        64, ge=0, description="latest histories whose prompts are kept for users who come back"
    )
    max_queue: int = Field(256, ge=1, description="requests that may wait; one more is refused")
    hang_seconds: float = Field(
        60.0, gt=0, description="a round that takes longer ends the process, for what hangs is the device"
    )
    num_threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads; None: OMP_NUM_THREADS, or one less than torch chooses: others need one",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM, with its chain; None: without TLS, as always on a Unix socket"
    )
    tls_key: Path | None = Field(None, description="PEM, of tls_certificate")
    tls_client_ca: Path | None = Field(
        None, description="PEM; gateways need a certificate of it; None: they need none"
    )

    @model_validator(mode="after")
    def _no_halves(self) -> Self:
        self._needs("tls_certificate", "tls_key")
        self._needs("tls_key", "tls_certificate")
        self._needs("tls_client_ca", "tls_certificate")
        return self


class SupervisionSettings(_Section):
    """What `padrec serve` does with the processes that it starts."""

    hang_seconds: float = Field(
        30.0, ge=5, description="a process that gives no sign of life for so long is started again"
    )


class HistorySettings(_Section):
    """Where users' histories are kept."""

    url: str = Field(
        "sqlite:///padrec-history.sqlite3",
        description="sqlite:///PATH; redis://HOST:PORT/DB, rediss:// with TLS, or unix://PATH; "
        "redis+cluster://HOST:PORT,…; redis+sentinel://HOST:PORT,…/SERVICE",
    )
    max_items_per_user: int = Field(200, ge=1, description="the oldest go first")
    timeout_seconds: float = Field(1.0, gt=0, description="Redis: for each answer")
    expire_days: float | None = Field(
        None, gt=0, description="Redis: a user is forgotten so long after the last event; None: never"
    )
    remember_minutes: float = Field(
        60,
        ge=0,
        allow_inf_nan=False,
        description="a list is known so long by its recommendation_id, to further pages and to events; 0: not at all",
    )


class LogSettings(_Section):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal")
    user_ids: bool = Field(False, description="whether the line of a request, at debug, names its users")


class TracingSettings(_Section):
    """Which requests are traced, and where their spans go; the headers that a collector wants are in
    OTEL_EXPORTER_OTLP_HEADERS.
    """

    endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="URL of a collector that takes OTLP over HTTP, as http://HOST:4318/v1/traces; None: no traces",
    )
    sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of requests that are traced, of those whose caller does not say; a `traceparent` does",
    )


class FileSettings(BaseSettings):
    """Settings from a TOML file and the environment, which wins."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order of precedence: environment, then what `read_settings` read from the file."""
        return env_settings, init_settings


Kind = TypeVar("Kind", bound=FileSettings)


class Settings(FileSettings):
    """All settings; frozen."""

    model_config = SettingsConfigDict(
        env_prefix="PADREC_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    gateway: GatewaySettings = GatewaySettings()
    worker: WorkerSettings = WorkerSettings()
    supervision: SupervisionSettings = SupervisionSettings()
    history: HistorySettings = HistorySettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()


def load_settings(file: Path | None = None) -> Settings:
    """Read settings from `file` (TOML) and the environment; raises what `read_settings` raises."""
    return read_settings(Settings, file, "settings file")


def read_settings(kind: type[Kind], file: Path | None, name: str) -> Kind:
    """Read settings of one kind.

    Args:
        kind: of settings.
        file: TOML; None: the environment alone.
        name: what the file is called in words.

    Raises:
        InputError: the file cannot be read, or a setting is unknown or out of range.
    """
    values = {}
    if file is not None:
        if not file.is_file():
            raise InputError(f"no such {name}: {file}")
        try:
            values = TomlConfigSettingsSource(kind, file)()
        except (OSError, ValueError) as error:
            raise InputError(f"{file} is not valid TOML: {error}") from error
    try:
        return kind(**values)
    except SettingsError as error:
        variables = f"{kind.model_config['env_prefix']}*"
        raise InputError(f"environment: a {variables} variable is not valid JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"]) or name
        raise InputError(f"setting '{setting}': {first['msg'].removeprefix('Value error, ')}") from error
