"""Node's lane to the Controller: who does not answer there is suspected like any other actor."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from logeion.actors import messages as m
from logeion.actors import suspicion
from logeion.actors.lanes import Lane, LaneListener, introduce, socket_path
from logeion.actors.node.events import AnyEvent, Beat, Suspected
from logeion.actors.node.following import Following

REGISTRATION = m.RegisterNode(node=1, incarnation="a", directory_id="d", host="localhost", port=9092, admin="")


@pytest.mark.parametrize("answers", [True, False])
def test_a_controller_that_leaves_heartbeats_unanswered_is_suspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(suspicion, "PATIENCE_S", 0.05)

    async def run() -> list[AnyEvent]:
        loop = asyncio.get_running_loop()
        introduce(m.Hello(actor="controller/1", kind="controller", node=1, pid=os.getpid(), incarnation=7))
        beaten: list[int] = []

        def on_lane(lane: Lane) -> None:
            def on_message(lane: Lane, request: int, message: m.AnyMessage, frame: object) -> None:
                if isinstance(message, m.Subscribe):
                    lane.reply(request, m.Committed(offset=0, next_offset=0, records=[], leader=1))
                elif isinstance(message, m.RegisterNode):
                    lane.reply(request, m.NodeRegistered(broker_epoch=1, committed=0))
                elif isinstance(message, m.Heartbeat):
                    beaten.append(request)
                    if answers:
                        lane.reply(request, m.HeartbeatAnswered(fenced=False))

            lane.on_message = on_message

        listener = LaneListener(loop, socket_path(tmp_path, "controller"), on_lane)
        events: list[AnyEvent] = []
        following = Following(
            loop,
            tmp_path,
            step=events.append,
            applied=lambda: 0,
            goes_back=lambda _: False,
            registration=lambda: REGISTRATION,
        )
        while not any(isinstance(event, m.NodeRegistered) for event in events):
            await asyncio.sleep(0.002)
        following.beat(Beat(attempt=1, message=m.Heartbeat(node=1, broker_epoch=1, applied=0), voter=None))
        deadline = loop.time() + 0.3
        while loop.time() < deadline and not any(isinstance(event, Suspected) for event in events):
            await asyncio.sleep(0.002)
        assert len(beaten) == 1
        following.close()
        listener.close()
        return events

    found = [event for event in asyncio.run(run()) if isinstance(event, Suspected)]
    assert found == ([] if answers else [Suspected(actor="controller/1", incarnation=7)])
