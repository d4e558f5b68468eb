"""Free ports for the roles of one machine."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Collection, Iterator
from typing import Final

from shoal.errors import FailedPreconditionError

__all__ = ["find", "held", "is_free"]

# Below the ports that the kernel hands out to outgoing connections (from 32768 on Linux): one of
# those could sit on a role's port just when the role is to be started again.
_FIRST: Final = 20_000
_LAST: Final = 32_000
_ATTEMPTS: Final = 200


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a former server that still linger are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


@contextlib.contextmanager
def held(host: str, port: int) -> Iterator[None]:
    """Keep a port that gateways share from anybody else, also while none of them listens.

    Only sockets of one user that all ask for it share a port. `shoal up` does not ask before it
    takes one, so that while this socket is bound another cluster is told that the port is in use.

    Raises:
        FailedPreconditionError: It is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # What lingers of a former run is no hindrance now; from then on this socket is one.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Bound and not listening: no connection comes here.
            holder.bind((host, port))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise FailedPreconditionError(
                f"port {port} on {host} is in use: {error.strerror}", metadata={"port": str(port)}
            ) from None
        yield


def find(host: str, taken: Collection[int], *, preferred: int = 0) -> int:
    """Find a free port.

    Args:
        host: Where it is to be free.
        taken: Not one of these.
        preferred: This one, if it is free; 0 for none.

    Raises:
        FailedPreconditionError: None was found.
    """
    if preferred and preferred not in taken and is_free(host, preferred):
        return preferred
    for _ in range(_ATTEMPTS):
        port = random.randrange(_FIRST, _LAST)
        if port not in taken and is_free(host, port):
            return port
    raise FailedPreconditionError(f"no free port from {_FIRST} to {_LAST} on {host}")
