"""The ports of a command, chosen before it starts anything, so that a restart of the tree comes back where it was.

A port that was free a moment ago is nobody's until it is served, which may be half a second later: two commands that
start at once, as parallel tests do, or two nodes of one command, could choose the same. So what is chosen is also
marked by a unix socket with an abstract name: the kernel has it in the same network namespace as the port, gives it to
one, and takes it back with the last process that has it open.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import msgspec

from logeion.wire.errors import ConfigError

from .config import Config
from .gateway.listening import bind

# Ports for those who ask for "any" lie below what the kernel gives to outgoing connections: nobody takes them by
# chance while the one who listens there restarts.
PORT_MIN, PORT_TRIES = 15_000, 200


class Ports:
    """What this process has chosen. It is held until the process ends; what it forks does not inherit the marks."""

    def __init__(self) -> None:
        # Descriptors, not sockets: in a fork, where they are closed, a socket's end would close what has its number.
        self._marks: dict[int, int] = {}

    def settle(self, config: Config) -> Config:
        """The configuration with ports that were just now proved free, by an exclusive bind of all addresses.

        Raises ``ConfigError`` that names the address and what to do.
        """
        listeners, http, cluster = config.listeners, config.http, config.cluster
        (kafka,) = self.row(listeners.bind, listeners.port, 1, set(), "--port")
        (admin,) = self.row(http.bind, http.port, 1, {kafka}, "--admin-port")
        if cluster.voters:
            (port,) = self.row([cluster.bind], cluster.port, 1, {kafka, admin}, "cluster.port")
            cluster = msgspec.structs.replace(cluster, port=port)
        return msgspec.structs.replace(
            config,
            listeners=msgspec.structs.replace(listeners, port=kafka),
            http=msgspec.structs.replace(http, port=admin),
            cluster=cluster,
        )

    def one(self, address: str, setting: str) -> int:
        """A free port of this address."""
        return self.row([address], 0, 1, set(), setting)[0]

    def row(self, addresses: list[str], port: int, count: int, but: set[int], setting: str) -> list[int]:
        """So many ports in a row from ``port`` on (0: from anywhere), each free on all addresses and none of ``but``.

        A port that is asked for by its number is taken also where another command marked it: it may be ours.
        Raises ``ConfigError``.
        """
        if port:
            for number in range(port, port + count):
                if number > 65_535 or number in but:
                    raise ConfigError(f"port {number} is meant for two purposes or too high; choose another {setting}")
                _probe(addresses, number)
                self._mark(number)
            return list(range(port, port + count))
        top = _first_ephemeral() - count
        for _ in range(PORT_TRIES):
            first = random.randrange(min(PORT_MIN, top - 1000), top)
            numbers = list(range(first, first + count))
            if but.isdisjoint(numbers) and self._take(addresses, numbers):
                return numbers
        # Either everything is taken, or the addresses are not ours; the ordinary attempt says which.
        _probe(addresses, 0)
        wanted = "port that is" if count == 1 else f"{count} ports in a row that are"
        raise ConfigError(f"found no {wanted} free on all of {', '.join(addresses)}; choose one with {setting}")

    def _take(self, addresses: list[str], numbers: list[int]) -> bool:
        """Mark all of these as ours and prove them free, or none."""
        marked: list[int] = []
        for number in numbers:
            if number in self._marks or not self._mark(number):
                break
            marked.append(number)
            try:
                _probe(addresses, number)
            except ConfigError:
                break
        else:
            return True
        for number in marked:
            os.close(self._marks.pop(number))
        return False

    def _mark(self, number: int) -> bool:
        """Whether it is ours: no other command has it."""
        if number in self._marks:
            return True
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0logeion-port-{number}")
        except OSError:
            mark.close()
            return False
        self._marks[number] = mark.detach()
        return True


def _probe(addresses: list[str], port: int) -> None:
    for sock in bind(addresses, port):
        sock.close()


def _first_ephemeral() -> int:
    """The lowest port that the kernel gives to outgoing connections."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768
