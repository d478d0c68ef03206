"""How a group index reads its partition's log, beside a leader whose watermark is behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from logeion.actors.coordinator.tailing import Tail
from logeion.actors.lanes import Lane, LaneListener, dial, introduce, socket_path
from logeion.actors.messages import Advanced, AnyMessage, Hello, Watch
from logeion.actors.stream import Frame
from logeion.actors.suspicion import Suspicion
from logeion.log.config import LogConfig
from logeion.log.log import Log
from logeion.wire.batch import read_header
from logeion.wire.errors import RequestTimedOutError
from logeion.wire.records import Record, build_batch

EPOCH = 7


class Leader:
    """Of an epoch that begins where its log ends; ``advance`` moves the watermark."""

    def __init__(self, folder: Path, log: Log) -> None:
        introduce(Hello(actor="partition/offsets-0", kind="partition", node=1, pid=os.getpid(), epoch=EPOCH))
        self.log = log
        self.epoch_start = log.end_offset
        self.watches: list[tuple[Lane, int]] = []
        self.listener = LaneListener(asyncio.get_running_loop(), socket_path(folder, "leader"), self._on_lane)

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        assert isinstance(message, Watch)
        if message.offset < self.log.high_watermark:
            lane.reply(request, self._state())
        else:
            self.watches.append((lane, request))

    def _state(self) -> Advanced:
        segment, position = self.log.watermark_position()
        return Advanced(
            epoch=EPOCH,
            epoch_start=self.epoch_start,
            log_start=0,
            high_watermark=self.log.high_watermark,
            end=self.log.end_offset,
            segment=segment,
            position=position,
        )

    def advance(self, offset: int) -> None:
        self.log.advance_high_watermark(offset)
        watches, self.watches = self.watches, []
        for lane, request in watches:
            lane.reply(request, self._state())


def a_log(folder: Path, *, watermark: int) -> Log:
    """Three records, of which the leader knows that some are committed."""
    log = Log.open(folder, LogConfig(), now_ms=1)
    log.become_leader(EPOCH - 1)
    for number in range(3):
        batch = build_batch([Record(0, 1, b"key", b"%d" % number)])
        log.append(batch, read_header(batch), epoch=EPOCH - 1, now_ms=1)
    log.advance_high_watermark(watermark)
    return log


def test_what_a_former_leader_has_acknowledged_is_waited_for(tmp_path: Path) -> None:
    async def run() -> None:
        leader = Leader(tmp_path, a_log(tmp_path / "offsets-0", watermark=1))
        loop = asyncio.get_running_loop()
        lane = await dial(loop, leader.listener.path)
        read: list[bytes | None] = []
        tail = Tail(
            lane,
            epoch=EPOCH,
            directory=tmp_path / "offsets-0",
            on_record=lambda key, value: read.append(value),
            suspicion=Suspicion(loop),
        )
        await tail.catch_up()
        assert read == [b"0"]
        with pytest.raises(RequestTimedOutError):
            await tail.complete(0.05)
        assert read == [b"0"]
        complete = loop.create_task(tail.complete(5.0))
        while not leader.watches:
            await asyncio.sleep(0.005)
        leader.advance(2)
        while not leader.watches:
            await asyncio.sleep(0.005)
        assert not complete.done()
        leader.advance(3)
        await complete
        assert read == [b"0", b"1", b"2"]
        tail.close()
        lane.close()
        leader.listener.close()
        leader.log.close()

    asyncio.run(asyncio.wait_for(run(), 10))
