"""Which topics there are, from the metadata log: for groups whose partitions the server assigns, and for an index.

A topic that is not there was deleted, and positions in it are removed: so nobody must be told before it is certain that
the image is not just old. The Controller of this host may have started a moment ago, and know only what its snapshot
says until it reaches a leader; that one says how far the log is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from ..lanes import Lane, LaneError, dial, socket_path
from ..messages import AnyMessage, Committed, DescribeQuorum, QuorumDescribed, Subscribe
from ..metadata import MetadataImage
from ..stream import Frame

log: logging.Logger = logging.getLogger(__name__)

# Between two attempts to dial the Controller: there may be hundreds of groups on a host.
FIRST_RETRY_S, LAST_RETRY_S = 0.01, 0.2
SUBSCRIBE_S = 30.0
# How long the leader of the quorum may take to say how far the log is committed, and when it is asked again.
COMMITTED_S, COMMITTED_AGAIN_S = 10.0, 0.2


class Topics:
    """Follows the Controller from ``start`` on; ``on_change`` after every change."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_dir: Path, on_change: Callable[[], None]) -> None:
        self.image: MetadataImage = MetadataImage()
        self.known: asyncio.Event = asyncio.Event()
        """Set once the image is that of some moment, not short for want of news."""
        self._applied = 0
        self._known_end = 0
        # Up to where the log was committed when the quorum's leader was first asked; None until it has said so.
        self._committed: int | None = None
        self._loop = loop
        self._path = socket_path(run_dir, "controller")
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    def start(self) -> None:
        """Begin to follow; the second time does nothing."""
        if self._task is None:
            self._task = self._loop.create_task(self._follow())

    @property
    def partitions(self) -> dict[str, tuple[str, int]]:
        """Name to (id, number of partitions) of every topic that is not internal."""
        return {
            topic.name: (topic.topic_id, len(topic.partitions))
            for topic in self.image.topics.values()
            if not topic.internal
        }

    async def _follow(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                self._gone.clear()
                lane = await dial(self._loop, self._path, on_message=self._on_message, on_closed=self._on_closed)
                self._subscribe(lane)
                retry_s = FIRST_RETRY_S
                await self._gone.wait()
            except (OSError, LaneError):
                pass  # the controller restarts
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _subscribe(self, lane: Lane) -> None:
        def on_reply(reply: AnyMessage | LaneError) -> None:
            # A callback, not an await: what follows the answer may come in the same read.
            if isinstance(reply, Committed):
                self._known_end = reply.known_end
                self._apply(lane, reply)
            else:
                lane.close(f"subscribing to the metadata log: {reply}")

        lane.call(Subscribe(from_offset=self._applied), on_reply=on_reply, timeout_s=SUBSCRIBE_S)
        self._ask_committed(lane)

    def _ask_committed(self, lane: Lane) -> None:
        def on_reply(reply: AnyMessage | LaneError) -> None:
            if isinstance(reply, QuorumDescribed):
                self._committed = reply.committed
                self._look()
            elif not lane.closed:
                self._loop.call_later(COMMITTED_AGAIN_S, self._ask_committed, lane)

        if self._committed is None and not lane.closed:
            lane.call(DescribeQuorum(), on_reply=on_reply, timeout_s=COMMITTED_S)

    def _on_closed(self, lane: Lane, reason: str) -> None:
        log.info("the lane to the controller closed: %s", reason)
        self._gone.set()

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        if isinstance(message, Committed):
            self._apply(lane, message)

    def _apply(self, lane: Lane, message: Committed) -> None:
        if message.snapshot and self.image.goes_back(self._applied, message.next_offset, message.records):
            lane.close(f"a snapshot of the metadata up to {message.next_offset}, but {self._applied} is applied")
            return
        if message.snapshot:
            self.image = self.image.restored(message.records)
        elif message.offset > self._applied:
            lane.close(f"metadata from {message.offset} on, but only {self._applied} is applied")
            return
        else:
            self.image.apply_all(message.records[self._applied - message.offset :])
        self._applied = max(self._applied, message.next_offset)
        self._look()

    def _look(self) -> None:
        if self._committed is not None and self._applied >= max(self._known_end, self._committed):
            self.known.set()
            self._on_change()
