"""Which topics a Coordinator believes to be there, with a Controller that knows more or less of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from logeion.actors.coordinator import topics as module
from logeion.actors.coordinator.topics import Topics
from logeion.actors.lanes import Lane, LaneListener, introduce, socket_path
from logeion.actors.messages import (
    AnyMessage,
    Committed,
    DescribeQuorum,
    Hello,
    QuorumDescribed,
    Refused,
    Subscribe,
)
from logeion.actors.stream import Frame
from tests.actors.gateway_world import RECORDS


class Controller:
    """It has just started: ``end`` is what it knows, ``committed`` what a leader says once there is one."""

    def __init__(self, folder: Path) -> None:
        introduce(Hello(actor="controller/1", kind="controller", node=1, pid=os.getpid()))
        self.end = 0
        self.committed: int | None = None
        self.asked = 0
        self.lanes: list[Lane] = []
        self.listener = LaneListener(asyncio.get_running_loop(), socket_path(folder, "controller"), self._on_lane)

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message
        self.lanes.append(lane)

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        if isinstance(message, Subscribe):
            known = RECORDS[message.from_offset : self.end]
            lane.reply(
                request,
                Committed(offset=message.from_offset, next_offset=self.end, records=known, known_end=self.end),
            )
        elif isinstance(message, DescribeQuorum):
            self.asked += 1
            if self.committed is None:
                lane.reply(request, Refused(code=41, reason="nobody leads the metadata quorum"))
            else:
                lane.reply(request, QuorumDescribed(leader=2, term=1, committed=self.committed, voters=[]))

    def learn(self, end: int) -> None:
        for lane in self.lanes:
            lane.tell(Committed(offset=self.end, next_offset=end, records=RECORDS[self.end : end]))
        self.end = end


def test_nobody_is_told_of_topics_before_it_is_certain_that_none_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMITTED_AGAIN_S", 0.01)

    async def run() -> None:
        controller = Controller(tmp_path)
        told: list[int] = []
        topics = Topics(asyncio.get_running_loop(), tmp_path, lambda: told.append(len(topics.image.topics)))
        topics.start()
        while controller.asked < 3:
            await asyncio.sleep(0.005)
        assert not topics.known.is_set() and told == []
        controller.committed = len(RECORDS)
        asked = controller.asked
        while controller.asked == asked:
            await asyncio.sleep(0.005)
        controller.learn(len(RECORDS) - 1)
        controller.learn(len(RECORDS))
        await topics.known.wait()
        assert told == [2]
        assert controller.asked == asked + 1
        controller.listener.close()

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_snapshot_that_leads_back_makes_no_topic_disappear(tmp_path: Path) -> None:
    async def run() -> None:
        controller = Controller(tmp_path)
        controller.end = controller.committed = len(RECORDS)
        told: list[int] = []
        topics = Topics(asyncio.get_running_loop(), tmp_path, lambda: told.append(len(topics.image.topics)))
        topics.start()
        await topics.known.wait()
        [lane] = controller.lanes
        lane.tell(Committed(offset=0, next_offset=0, records=[], snapshot=True))
        while len(controller.lanes) < 2:
            await asyncio.sleep(0.005)
        assert set(told) == {2}
        controller.listener.close()

    asyncio.run(asyncio.wait_for(run(), 10))
