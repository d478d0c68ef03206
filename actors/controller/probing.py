"""Whether the host of a lane that broke still runs: that is known long before its heartbeats are missed.

A node whose whole tree is dead refuses connections to its cluster port, on a host that lives. Where a Controller alone
has died the port is served all the same; where the network or the host is gone nothing is refused, and the session
decides as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..lanes import LaneError
from .peers import Dial

# A Node that restarts is away for less; a port must refuse for so long without a break.
GONE_S = 0.25
AGAIN_S = 0.02


class Probing:
    """``on_gone`` is told of a node whose cluster port refuses. One probe a node at a time.

    ``dial`` asks for an actor that is nowhere, so that no lane comes of it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dial: Dial,
        addresses: Callable[[int], list[tuple[str, int]]],
        on_gone: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._dial = dial
        self._addresses = addresses
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
            while await self._refuses(node):
                if self._loop.time() - began >= GONE_S:
                    self._on_gone(node)
                    return
                await asyncio.sleep(AGAIN_S)
        finally:
            del self._tasks[node]

    async def _refuses(self, node: int) -> bool:
        addresses = self._addresses(node)
        for host, port in addresses:
            try:
                lane = await self._dial(host, port)
            except ConnectionRefusedError:
                continue
            except (OSError, LaneError):
                return False
            lane.close("it runs")
            return False
        return bool(addresses)
