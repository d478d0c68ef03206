"""What the processes of a host have in common that Node supervises: a lane to it, dialled again whenever it is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.actors import messages as m
from logeion.actors.node.events import Start
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.network import Port

REDIAL_S = 0.02


def hello_of(start: Start, kind: str, node: int, pid: int) -> m.Hello:
    """What the process of this start says of itself."""
    return m.Hello(
        actor=start.actor,
        kind=kind,
        node=node,
        pid=pid,
        incarnation=start.incarnation,
        topic_id=start.topic_id,
        partition=start.partition,
        epoch=start.epoch,
    )


class Supervised(Process):
    """``node`` is the lane, None while there is none."""

    node: Port | None = None

    def dial_node(self) -> None:
        """Look for Node, until it is there."""
        on = self.on
        assert on is not None
        self.world.network.dial(self, lambda: on.processes.get("node"), self._met, self._unmet, on.number)

    def _unmet(self) -> None:
        self.later(REDIAL_S, self.dial_node)

    def _met(self, lane: Port) -> None:
        self.node = lane
        lane.on_message = self.from_node
        lane.on_closed = self._parted
        self.report()

    def _parted(self, lane: Port) -> None:
        self.node = None
        self._unmet()

    def report(self) -> None:
        """Tell Node, if it is there, what this process does."""
        raise NotImplementedError

    def from_node(self, lane: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        """Node says this."""
        raise NotImplementedError
