"""Ports of replicas, several of which may share a machine: the first free one, from that of the settings on."""

import socket

from service.errors import InputError
from service.rpc.listen import listen_tcp

# More than the processes of one kind that a machine has.
_NUM_PORTS = 64


def listen_from(host: str, port: int) -> socket.socket:
    """A listening TCP socket on the first free port from this one on; port 0 takes any free one.

    Raises:
        InputError: none of them is free, or the host is not this machine's.
    """
    last = port if port == 0 else min(port + _NUM_PORTS, 65_535)
    while True:
        try:
            return listen_tcp(host, port)
        except InputError:
            if port == last:
                raise
            port += 1
