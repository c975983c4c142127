"""Connects to Redis: one server, a cluster, or whoever sentinels say is the master."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

_PORT, _SENTINEL_PORT = 6379, 26379
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")


def connect(url: str, timeout: float) -> "tuple[Redis | RedisCluster, list[Redis]]":
    """A client, and what else is to be closed with it; nothing is connected yet.

    Args:
        url: `redis://`, `rediss://` or `unix://` as redis-py reads them; with `+cluster` or `+sentinel` several
            `host:port` with commas, after sentinels also `/SERVICE` and `/SERVICE/DB`. `USER:PASSWORD@` is of the
            servers that keep data, and `rediss` speaks TLS with all. Certificates are options after a `?`:
            `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname`.
        timeout: seconds for an answer, or for a connection.

    Raises:
        ValueError: the URL is malformed.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # No retries: after a time-out nobody knows whether an append was done; the caller decides.
        "retry": Retry(NoBackoff(), 0),
    }
    scheme, _, topology = url.partition("://")[0].partition("+")
    if not topology:
        client = Redis.from_url(url, **options)
        try:
            # Nothing is connected; options that there are not are found.
            client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        except TypeError as error:
            raise ValueError(str(error)) from error
        return client, []
    if topology not in ("cluster", "sentinel"):
        raise ValueError(f"'{topology}' is neither cluster nor sentinel")
    parts = urlsplit(url)
    if parts.query and scheme != "rediss":
        raise ValueError("options after a ? are of TLS, which rediss speaks")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    tls = {"ssl": True, **_tls_options(parts.query)} if scheme == "rediss" else {}
    options |= {"username": unquote(user) or None, "password": unquote(password) or None} | tls
    if topology == "cluster":
        if parts.path.strip("/"):
            raise ValueError("a cluster has one database, and no name")
        nodes = [ClusterNode(host, port) for host, port in _addresses(hosts, _PORT)]
        return RedisCluster(startup_nodes=nodes, **options), []
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service or not (database or "0").isdecimal():
        raise ValueError(
            "after the sentinels comes /SERVICE, the name that they know the master by, or /SERVICE/DB"
        )
    to_sentinels = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **tls}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _addresses(hosts, _SENTINEL_PORT), sentinel_kwargs=to_sentinels
    )
    return sentinel.master_for(service, db=int(database or 0), **options), list(sentinel.sentinels)


def _addresses(hosts: str, default_port: int) -> list[tuple[str, int]]:
    addresses = []
    for address in hosts.split(","):
        one = urlsplit(f"//{address}")
        if not one.hostname:
            raise ValueError(f"'{address}' is not host:port")
        addresses.append((one.hostname, one.port or default_port))
    return addresses


def _tls_options(query: str) -> Mapping[str, Any]:
    options = dict(parse_qsl(query, strict_parsing=bool(query)))
    unknown = sorted(set(options) - set(_TLS_OPTIONS))
    if unknown:
        raise ValueError(f"'{unknown[0]}' is not one of {', '.join(_TLS_OPTIONS)}")
    switch = options.get("ssl_check_hostname")
    return options | (
        {} if switch is None else {"ssl_check_hostname": switch.lower() in ("1", "true", "yes")}
    )
