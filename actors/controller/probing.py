"""What has become of a Controller whose lane broke: its own host knows long before anything is missed.

Where the Controller alone has died, its Node says so: nobody leads the term that it led, and an election need not wait
for its lease. A node whose whole tree is dead refuses connections to its cluster port, on a host that lives. Where the
network or the host is gone nothing is refused, and lease and session decide as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..lanes import LaneError

# A Node that restarts is away for less; a port must refuse for so long without a break.
GONE_S = 0.25
# A process that dies closes its lanes before its other sockets, or after them.
DYING_S = 0.1
AGAIN_S = 0.02

HasEnded = Callable[[str, int], Awaitable[bool]]
"""Asks the host with this cluster port; raises ``ConnectionRefusedError`` where nobody listens."""


class Probing:
    """``on_gone`` is told of a node whose cluster port refuses, ``on_ended`` of one whose Controller has ended, with
    the term in which it led (``led_by``) before its host was asked. One probe a node at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        has_ended: HasEnded,
        addresses: Callable[[int], list[tuple[str, int]]],
        *,
        led_by: Callable[[int], int | None],
        on_ended: Callable[[int, int], None],
        on_gone: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._has_ended = has_ended
        self._addresses = addresses
        self._led_by = led_by
        self._on_ended = on_ended
        self._on_gone = on_gone
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def broken(self, node: int) -> None:
        """A lane to or from this node's Controller has closed."""
        if node not in self._tasks:
            self._tasks[node] = self._loop.create_task(self._probe(node))

    def close(self) -> None:
        """Ask no more."""
        for task in self._tasks.values():
            task.cancel()

    async def _probe(self, node: int) -> None:
        try:
            began = self._loop.time()
            while True:
                # Taken first: a later life of that Controller may lead by the time its host answers.
                term = self._led_by(node)
                ended = await self._ask(node)
                waited = self._loop.time() - began
                if ended is None:
                    if waited >= GONE_S:
                        self._on_gone(node)
                        return
                elif ended:
                    if term is not None:
                        self._on_ended(node, term)
                    return
                elif term is None or waited >= DYING_S:
                    return
                await asyncio.sleep(AGAIN_S)
        finally:
            del self._tasks[node]

    async def _ask(self, node: int) -> bool | None:
        """Whether its Controller has ended; None: its host refuses connections."""
        ended: bool | None = False
        for host, port in self._addresses(node):
            try:
                return await self._has_ended(host, port)
            except ConnectionRefusedError:
                ended = None
            except (OSError, LaneError):
                return False
        return ended
