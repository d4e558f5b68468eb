"""Free ports for the roles of one machine."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from shoal.errors import FailedPreconditionError

__all__ = ["Ports", "held", "is_free"]

# Below the ports that the kernel hands out to outgoing connections (from 32768 on Linux): one of
# those could sit on a role's port just when the role is to be started again.
_FIRST: Final = 20_000
_LAST: Final = 32_000
_ATTEMPTS: Final = 200

_CLAIMED_AT: Final = "127.0.0.1"


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


class Ports:
    """Finds free ports for one cluster, and keeps them for its roles.

    Between the moment when a port is found and that in which its role listens there, seconds may
    pass, and again when a role is started anew. No socket can keep a TCP port for another process
    that does not ask to share it. But clusters that look for ports at the same time are what is
    to be feared, and they can agree: each holds the UDP port of the same number, on the loopback,
    until its end, however that comes.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._claims: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ports. Idempotent."""
        for claim in self._claims:
            claim.close()

    def take(self, host: str, port: int) -> bool:
        """Take the port that somebody asked for, which other clusters are not asked about.

        Returns:
            Whether it is free.
        """
        if port in self._taken or not is_free(host, port):
            return False
        self._taken.add(port)
        return True

    def find(self, host: str, *, preferred: int = 0) -> int:
        """Find a free port, and keep it from other clusters.

        Args:
            host: Where it is to be free.
            preferred: This one, if it is free; 0 for none.

        Raises:
            FailedPreconditionError: None was found.
        """
        if preferred and self._claim(host, preferred):
            return preferred
        for _ in range(_ATTEMPTS):
            port = random.randrange(_FIRST, _LAST)
            if self._claim(host, port):
                return port
        raise FailedPreconditionError(f"no free port from {_FIRST} to {_LAST} on {host}")

    def _claim(self, host: str, port: int) -> bool:
        if port in self._taken:
            return False
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            # Before the look at the TCP port, which nobody else is to find taken by that look.
            claim.bind((_CLAIMED_AT, port))
        except OSError:
            claim.close()
            return False
        if not is_free(host, port):
            claim.close()
            return False
        self._claims.append(claim)
        self._taken.add(port)
        return True
