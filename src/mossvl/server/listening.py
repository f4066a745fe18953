"""The address that a server listens on."""

import socket

from mossvl.errors import OptionError

BACKLOG = 2048
HEAD_SECONDS = 30.0
"""Seconds from a connection's begin, or from the end of its last response, to the end of the next request's head."""
LAST_SECONDS = 10
"""Seconds after `shutdown_timeout` in which ended requests send their errors."""


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        OptionError: the address is taken, not allowed, or not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sets TCP_NODELAY only on sockets that name their protocol.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening
    except OSError as error:
        raise OptionError(f"{host}:{port} cannot be listened on ({error}); choose another --port or --host") from error
