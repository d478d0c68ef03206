"""How a group index reads its partition's log: the files, up to the watermark the leader told.

Nothing is read that is not committed. While nobody asks, the log is followed a few times a second at most, so that a
busy offsets partition does not pay for an index that nobody needs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from logeion.log.view import LogView
from logeion.wire.batch import iter_headers
from logeion.wire.errors import RequestTimedOutError, UnknownServerError
from logeion.wire.records import batch_records

from ..lanes import Lane, LaneTimeout
from ..messages import Advanced, Message, Watch
from ..suspicion import Suspicion

READ_BYTES = 1_048_576
BATCH_BYTES_MAX = 128 * 1024 * 1024
# Between two looks at a log that grows.
FOLLOW_S = 0.25
# A watch is asked again after this long without news.
WATCH_S = 300.0
STATE_S = 10.0


class Tail:
    """``on_record(key, value)`` for every record, in order. Raises ``LaneError`` when the leader is gone."""

    def __init__(
        self,
        lane: Lane,
        *,
        epoch: int,
        directory: Path,
        on_record: Callable[[bytes, bytes | None], None],
        suspicion: Suspicion,
    ) -> None:
        self.read_to: int = 0
        self._lane = lane
        self._epoch = epoch
        self._view = LogView(directory)
        self._on_record = on_record
        self._suspicion = suspicion
        # One reader at a time; whoever waits for it finds most of its own work done.
        self._reading = asyncio.Lock()

    async def catch_up(self) -> Advanced:
        """Read all that the leader knows to be committed at this moment."""
        async with self._reading:
            state = await self._ask(-1, STATE_S)
            await self._read(state)
            return state

    async def complete(self, timeout_s: float) -> None:
        """Read all that anybody was told is committed by this moment; raises ``RequestTimedOutError``.

        A new leader's watermark may lie below what its predecessor has acknowledged, which is never past the offset at
        which its own epoch begins: until it has come there, whoever asks would be answered with an older past.
        """
        state = await self.catch_up()
        if state.high_watermark < state.epoch_start:
            await self.reach(state.epoch_start, timeout_s)

    async def reach(self, end: int, timeout_s: float) -> None:
        """Read up to ``end`` once that is committed; raises ``RequestTimedOutError``."""
        deadline = self._lane.loop.time() + timeout_s
        async with self._reading:
            if self.read_to < end:
                await self._read(await self._ask(-1, STATE_S))
            while self.read_to < end:
                left = deadline - self._lane.loop.time()
                try:
                    # The leader answers when it is committed: no answer is no sign that it is gone.
                    state = await self._ask(end - 1, left) if left > 0 else None
                except LaneTimeout:
                    state = None
                if state is None:
                    raise RequestTimedOutError(f"offset {end} of the offsets partition is not committed in time")
                await self._read(state)

    async def follow(self) -> None:
        """Keep up, for as long as the lane lives."""
        while True:
            try:
                state = await self._ask(self.read_to, WATCH_S)
            except LaneTimeout:
                continue
            async with self._reading:
                await self._read(state)
            await asyncio.sleep(FOLLOW_S)

    async def _ask(self, offset: int, timeout_s: float) -> Advanced:
        message = Watch(epoch=self._epoch, offset=offset)
        reply: Message
        if offset < 0:
            reply = await self._suspicion.request(self._lane, message, timeout_s=timeout_s)
        else:
            reply = await self._lane.request(message, timeout_s=timeout_s)
        if not isinstance(reply, Advanced):
            raise UnknownServerError(f"{type(reply).__name__} came where the partition's state was due")
        return reply

    async def _read(self, state: Advanced) -> None:
        self.read_to = max(self.read_to, state.log_start)
        while self.read_to < state.high_watermark:
            found = self._view.slice(
                self.read_to,
                READ_BYTES,
                end_segment=state.segment,
                end_position=state.position,
                log_start=state.log_start,
            )
            if found is None:
                # Compaction has taken the last records before the watermark.
                self.read_to = state.high_watermark
                return
            try:
                data = os.pread(found.fd, found.size, found.position)
            finally:
                found.release()
            self._take(memoryview(data))
            # The first read of a long log must not keep pings waiting.
            await asyncio.sleep(0)

    def _take(self, data: memoryview) -> None:
        for at, header in iter_headers(data):
            if header.last_offset >= self.read_to and not header.is_control:
                for record in batch_records(data[at : at + header.size], header, max_bytes=BATCH_BYTES_MAX):
                    if record.offset >= self.read_to and record.key is not None:
                        self._on_record(record.key, record.value)
            self.read_to = max(self.read_to, header.next_offset)

    def close(self) -> None:
        """Give the files back."""
        self._view.close()
