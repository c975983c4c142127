"""Where a gateway finds its workers: an address, as operators write it, to a target, as gRPC takes it.

| address | workers |
| --- | --- |
| `unix:PATH` | one, on this machine |
| `host:port` | all addresses of the name, looked up again when one of them goes away |
| `dns:///host:port` | the same |
| `ip:port,ip:port` | these; `ipv4:` or `ipv6:` may stand before them |
"""

from ipaddress import ip_address

from service.errors import InputError
from service.rpc.listen import UNIX, join_host_port, split_host_port

DNS = "dns:///"


def target_of(address: str) -> str:
    """The target of an address.

    Raises:
        InputError: it has none of these forms.
    """
    if address.startswith(UNIX):
        return address
    if "," in address:
        return _target_of_many(address)
    split_host_port(address.removeprefix(DNS))
    return address


def _target_of_many(addresses: str) -> str:
    """Of several; gRPC takes a list of IP addresses of one version, and no list of names."""
    listed = addresses.removeprefix("ipv4:").removeprefix("ipv6:")
    pairs = [split_host_port(address.strip()) for address in listed.split(",")]
    try:
        versions = {ip_address(host).version for host, _ in pairs}
    except ValueError as error:
        raise InputError(
            f"'{addresses}': several workers are given as ip:port,ip:port, or by one name that has the addresses of "
            "all, host:port"
        ) from error
    if len(versions) > 1:
        raise InputError(
            f"'{addresses}': several workers are all given by IPv4 addresses, or all by IPv6 ones"
        )
    return f"ipv{versions.pop()}:" + ",".join(join_host_port(*pair) for pair in pairs)
