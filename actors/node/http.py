"""The admin HTTP port. Bound at once, so that its address is known and taken; served from the first connection on.

uvicorn and starlette are imported only then: they cost a tenth of a second, which Kafka clients need not wait for, and
9 MB, which a node that nobody looks at can do without. The first connection waits in the socket's backlog.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from logeion.wire.errors import ConfigError

from ..config import show_address

if TYPE_CHECKING:
    import uvicorn

    from logeion.console.view import View

log: logging.Logger = logging.getLogger(__name__)

_MISSING = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
KEEP_ALIVE_S = 30
CONNECTIONS_MAX = 200


class AdminPort:
    """Sockets on all ``addresses`` with one port; ``port`` 0 is any free one.

    Raises ``ConfigError`` that names the address and what to do.
    """

    def __init__(self, addresses: list[str], port: int) -> None:
        self._sockets: list[socket.socket] = []
        self._server: uvicorn.Server | None = None
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                bound = socket.create_server((address, port), family=family, backlog=128)
            except OSError as error:
                if error.errno in _MISSING and len(addresses) > 1:
                    continue
                self.close()
                raise ConfigError(
                    f"cannot serve the admin HTTP on {show_address(address, port)}: {error.strerror}; "
                    "end what listens there, or choose another --admin-port"
                ) from error
            port = port or bound.getsockname()[1]
            self._sockets.append(bound)

    @property
    def port(self) -> int:
        """The port of all of them."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of each socket."""
        return [show_address(*bound.getsockname()[:2]) for bound in self._sockets]

    def when_asked(self, loop: asyncio.AbstractEventLoop, serve: Callable[[], None]) -> None:
        """Call ``serve`` when somebody connects for the first time."""

        def asked() -> None:
            for bound in self._sockets:
                loop.remove_reader(bound)
            serve()

        for bound in self._sockets:
            loop.add_reader(bound, asked)

    async def serve(self, view: View) -> None:
        """Answer requests from now on, in the running loop."""
        import uvicorn

        from logeion.console.app import console

        config = uvicorn.Config(
            console(view),
            http="h11",
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        server = self._server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Not serve(): its main loop wakes ten times a second for signals and dates, neither of which is wanted here.
        await server.startup(sockets=self._sockets)

    def close(self) -> None:
        """End all connections and give the sockets back."""
        if self._server is not None:
            for server in self._server.servers:
                server.close()
            for connection in list(self._server.server_state.connections):
                connection.shutdown()
        for bound in self._sockets:
            bound.close()
