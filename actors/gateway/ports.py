"""Which port a gateway takes, so that one that is restarted comes back where its clients look for it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from logeion.wire.errors import ConfigError

from .listening import bind

# How long another gateway waits for the first one to prove the port free.
FIRST_S = 10.0


class PortFile:
    """``<run>/kafka-port``: the port in use, and the Supervisor under which it was taken.

    ``shared``: several gateways listen on it (SO_REUSEPORT). Then only the first one of a Supervisor's life proves by
    an exclusive bind that nobody else has the port; the others, and all restarts, believe the file.
    """

    def __init__(self, path: Path, *, shared: bool) -> None:
        self._path = path
        self._supervisor = os.getppid()
        self.shared = shared

    async def settle(self, addresses: list[str], port: int, *, first: bool) -> int:
        """The port to bind; raises ConfigError if it is taken."""
        kept, supervisor = self._read()
        if kept and supervisor == self._supervisor:
            return kept
        if not first:
            for _ in range(int(FIRST_S * 100)):
                await asyncio.sleep(0.01)
                kept, supervisor = self._read()
                if kept and supervisor == self._supervisor:
                    return kept
            raise ConfigError(f"the first gateway did not take its port within {FIRST_S:.0f} s; see its log")
        if not self.shared:
            return port
        sockets = bind(addresses, port)
        chosen: int = sockets[0].getsockname()[1]
        for sock in sockets:
            sock.close()
        return chosen

    def keep(self, port: int) -> None:
        """This port is bound."""
        new = self._path.with_suffix(f".{os.getpid()}")
        new.write_text(f"{port} {self._supervisor}\n", encoding="ascii")
        new.rename(self._path)

    def _read(self) -> tuple[int, int]:
        try:
            port, supervisor = self._path.read_text(encoding="ascii").split()
            return int(port), int(supervisor)
        except (OSError, ValueError):
            return 0, 0
