"""A consumer that asks each new leader where the epoch of what it read last ends there (KIP-320)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.actors import messages as m
from tests.sim.clients import Consumer
from tests.sim.permitted_loss import UncleanJudge

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Key
    from tests.sim.network import Port
    from tests.sim.world import World

ASK_S = 3.0


class WaryConsumer(Consumer):
    """It never goes back to the leader of an older epoch, and where its own past parts from a leader's log it goes on
    from there."""

    def __init__(self, world: World, number: int, key: Key) -> None:
        super().__init__(world, number, key)
        self.newest = -1

    @property
    def done(self) -> bool:
        truth = self.world.judge.truths.get(self.key)
        newest = truth.newest if truth is not None else None
        return super().done and newest is not None and self.newest >= newest.leader_epoch

    def connected(self, lane: Port) -> None:
        if self.epoch < self.newest:
            self.again()
            return
        self.newest = self.epoch
        if self.last_epoch < 0:
            self._watch(lane)
            return

        def answered(reply: m.Message | None) -> None:
            if self.lane is not lane:
                return
            if isinstance(reply, m.EpochEndFound) and lane.peer.open:
                self._look_back(lane, reply)
                self._watch(lane)
            else:
                self.again()

        lane.call(m.FindEpochEnd(epoch=self.epoch, asked_epoch=self.last_epoch), answered, ASK_S)

    def _look_back(self, lane: Port, found: m.EpochEndFound) -> None:
        judge, host = self.world.judge, lane.other.host
        assert isinstance(judge, UncleanJudge)
        if self.last_epoch == found.leader_epoch and self.position <= found.end_offset:
            judge.goes_on(host, self.key, self.epoch, self.last, self.name)
            return
        # Without an epoch it is told nothing, and begins where the log does.
        to = min(max(found.end_offset, 0), self.position)
        judge.sent_back(host, self.key, self.epoch, self.last, to, self.name)
        self.world.note(f"{self.name} at {self.position} of epoch {self.last_epoch} goes back to {to}")
        judge.resets += 1
        self.position, self.last, self.last_epoch = to, None, found.leader_epoch
