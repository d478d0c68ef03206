"""The Kafka port: sockets on every configured address, and the limits on who may connect."""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING

from logeion.wire.errors import ConfigError

from ..config import show_address
from .connection import Connection

if TYPE_CHECKING:
    from .state import Gateway

log: logging.Logger = logging.getLogger(__name__)

BACKLOG = 1024

# Connections taken in one turn of the loop, so that a storm of them does not stop the others.
ACCEPTS = 64

# How long nothing is accepted after the process ran out of descriptors.
REST_S = 1.0

# Addresses that a host may lack: listening there is skipped if another address remains.
MISSING = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))


def bind(addresses: list[str], port: int, *, shared: bool = False) -> list[socket.socket]:
    """Listening sockets on all these addresses, with one port; port 0 is any that is free on all of them.

    The bind is exclusive unless ``shared`` (SO_REUSEPORT). Raises ConfigError that names the address and what to do.
    """
    for _attempt in range(20):
        sockets: list[socket.socket] = []
        chosen = port
        try:
            for address in addresses:
                sock = _bind(address, chosen, shared)
                if sock is None:
                    continue
                sockets.append(sock)
                chosen = sock.getsockname()[1]
        except OSError as error:
            for sock in sockets:
                sock.close()
            if error.errno == errno.EADDRINUSE and not port:
                continue
            raise ConfigError(
                f"cannot listen on {show_address(address, chosen)}: {error.strerror}; "
                "end what listens there, or choose another --port or --bind"
            ) from error
        if sockets:
            return sockets
        raise ConfigError(f"this host has none of the addresses {', '.join(addresses)}; choose another --bind")
    raise ConfigError(f"found no port that is free on all of {', '.join(addresses)}; choose one with --port")


def _bind(address: str, port: int, shared: bool) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno in MISSING:
            return None
        raise
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno in MISSING:
            log.info("not listening on %s: %s", show_address(address, port), error.strerror)
            return None
        raise
    return sock


class Port:
    """Accepts connections, counts them, and ends the idle ones."""

    def __init__(self, gateway: Gateway, sockets: list[socket.socket]) -> None:
        self._gateway = gateway
        self._limits = gateway.config.limits
        self._sockets = sockets
        self._addresses: Counter[str] = Counter()
        self.connections: set[Connection] = set()
        for sock in sockets:
            self._listen(sock)
        self._idle_s = self._limits.idle_ms / 1000
        if self._idle_s:
            self._sweeping = gateway.loop.call_later(self._idle_s / 4, self._sweep)

    @property
    def addresses(self) -> list[str]:
        """Where clients can connect, as ``host:port``."""
        return [show_address(*sock.getsockname()[:2]) for sock in self._sockets]

    def _listen(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self._gateway.loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("cannot accept connections for %s s: %s", REST_S, error.strerror)
                self._gateway.loop.remove_reader(listener.fileno())
                self._gateway.loop.call_later(REST_S, self._listen, listener)
                return
            host = str(peer[0])
            if (
                len(self.connections) >= self._limits.connections
                or self._addresses[host] >= self._limits.connections_per_address
            ):
                log.warning(
                    "connection of %s refused: %d are open, %d of them its own",
                    host,
                    len(self.connections),
                    self._addresses[host],
                )
                sock.close()
                continue
            self._addresses[host] += 1
            self.connections.add(Connection(self._gateway, sock, (host, int(peer[1])), self._ended))

    def _ended(self, connection: Connection) -> None:
        self.connections.discard(connection)
        host = connection.peer[0]
        self._addresses[host] -= 1
        if not self._addresses[host]:
            del self._addresses[host]

    def _sweep(self) -> None:
        self._sweeping = self._gateway.loop.call_later(self._idle_s / 4, self._sweep)
        oldest = self._gateway.loop.time() - self._idle_s
        for connection in [one for one in self.connections if one.idle_since < oldest]:
            connection.close(f"idle for {self._idle_s:.0f} s")

    def close(self) -> None:
        """Stop listening and end every connection."""
        for sock in self._sockets:
            self._gateway.loop.remove_reader(sock.fileno())
            sock.close()
        for connection in list(self.connections):
            connection.close("the gateway stops")
        if self._idle_s:
            self._sweeping.cancel()
