"""How a controller without a vote learns what is committed: it follows a voter, and the next one if that is no use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..lanes import Lane, LaneError
from ..messages import AnyMessage, Committed, Subscribe
from ..stream import Frame
from .peers import Dial

log: logging.Logger = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0
SUBSCRIBE_S = 5.0
# A voter that knows of no leader for so long is cut off from the others, perhaps.
LEADERLESS_S = 3.0


class Observing:
    """``addresses`` are the voters' cluster ports, ``applied`` says from where on to follow."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dial: Dial,
        addresses: Callable[[], list[tuple[str, int]]],
        applied: Callable[[], int],
        on_committed: Callable[[Committed], None],
    ) -> None:
        self._loop = loop
        self._dial = dial
        self._addresses = addresses
        self._applied = applied
        self._on_committed = on_committed
        self._lane: Lane | None = None
        self._leader_known = 0.0
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def want(self, wanted: bool) -> None:
        """Whether to follow a voter now."""
        if wanted and self._task is None:
            self._task = self._loop.create_task(self._follow())
        elif not wanted and self._task is not None:
            self._task.cancel()
            self._task = None
            if self._lane is not None:
                self._lane.close("this node votes itself")

    async def _follow(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            for host, port in self._addresses():
                self._over.clear()
                try:
                    lane = await self._dial(host, port, on_message=self._on_message, on_closed=self._on_closed)
                except (OSError, LaneError):
                    continue
                if lane.closed:
                    continue
                self._lane = lane
                self._leader_known = self._loop.time()
                before = self._applied()
                lane.call(Subscribe(from_offset=before), on_reply=self._on_subscribed, timeout_s=SUBSCRIBE_S)
                await self._until_over(lane)
                if self._applied() > before:
                    retry_s = FIRST_RETRY_S
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _until_over(self, lane: Lane) -> None:
        while not self._over.is_set():
            try:
                async with asyncio.timeout(LEADERLESS_S):
                    await self._over.wait()
            except TimeoutError:
                if self._leader_known + LEADERLESS_S < self._loop.time():
                    lane.close("it knows of no leader of the metadata quorum")

    def _on_subscribed(self, reply: AnyMessage | LaneError) -> None:
        if isinstance(reply, Committed):
            self._heard(reply)
        elif self._lane is not None:
            self._lane.close(f"cannot follow the metadata log: {reply}")

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        if isinstance(message, Committed):
            self._heard(message)

    def _heard(self, committed: Committed) -> None:
        lane = self._lane
        if lane is None or lane.closed:
            return
        self._leader_known = float("inf") if committed.leader >= 0 else min(self._leader_known, self._loop.time())
        if committed.offset > self._applied() and not committed.snapshot:
            lane.close(f"metadata from {committed.offset} on, but only {self._applied()} is applied")
            return
        self._on_committed(committed)

    def _on_closed(self, lane: Lane, reason: str) -> None:
        log.info("the lane to a voter of the metadata quorum closed: %s", reason)
        self._lane = None
        self._over.set()
