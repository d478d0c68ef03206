"""A host's Gateway: the product's own, asyncio and all, on a virtual loop, simulated lanes and a simulated disk.

From the bytes of a client's request to the bytes of its answer, and from the metadata log to the lane to a leader,
everything is the real code. Replaced are the event loop, what a socket carries, dialling, and the page cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logeion.actors import messages as m
from logeion.actors.gateway.connection import Connection
from logeion.actors.gateway.following import Following
from logeion.actors.gateway.state import Gateway
from logeion.log.view import Descriptors, Slice
from tests.sim.coordinators import config_of
from tests.sim.hosts import DATA
from tests.sim.lanes import SimSocket
from tests.sim.network import Port
from tests.sim.node_lane import Supervised
from tests.sim.nodes import NodeProcess
from tests.sim.virtual_loop import AsyncProcess

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World


class _Cold:
    """What is not in the page cache takes its time."""

    def __init__(self, process: GatewayProcess) -> None:
        self._process = process

    def warm(self, slices: Sequence[Slice], done: Callable[[], None]) -> bool:
        chance = self._process.engine.random
        if chance.random() < 0.9:
            return True
        self._process.later(chance.uniform(0.0005, 0.02), done)
        return False

    def close(self) -> None:
        """Nothing is under way that could be ended."""


class GatewayProcess(AsyncProcess, Supervised):
    """The shell of ``state.Gateway`` and ``Following``."""

    def __init__(self, world: World, on: Host, actor: str, incarnation: int) -> None:
        hello = m.Hello(actor=actor, kind="gateway", node=on.number, pid=on.number, incarnation=incarnation)
        super().__init__(world, f"{on.number}:{actor}", on=on, hello=hello)
        assert self.files is not None
        config = config_of(world.settings)
        self.gateway = Gateway(node=on.number, config=config, data_dir=Path(DATA), loop=self.loop)
        self.gateway.descriptors = Descriptors(self.files)
        self.gateway.cold = _Cold(self)  # type: ignore[assignment]
        self.gateway.groups.tell_node = self.gateway.suspicion.tell = self._tell_node
        self.following = Following(self.gateway, Path(DATA))
        self.connections: dict[Connection, None] = {}
        self.listens = False
        self.soon(self._begin)

    def _begin(self) -> None:
        self.dial_node()
        self.following.start()
        self._starting = self.loop.create_task(self._start())

    async def _start(self) -> None:
        while not await self.gateway.wait_until(lambda: bool(self.gateway.image.cluster_id), 10.0):
            self.world.note(f"{self.name} waits for the controller")
        self.listens = True
        node = self.on.processes.get("node") if self.on is not None else None
        self.world.gateway_judge.count("starts")
        if isinstance(node, NodeProcess) and node.machine.applied > self.gateway.applied:
            # Nothing promises more: a Controller that has just started may know less than this host's Node has heard.
            self.world.gateway_judge.count("starts behind its Node")
        self.world.note(f"{self.name} listens, the metadata log read to {self.gateway.applied}")
        self.report()

    def stepped(self) -> None:
        self.world.gateway_judge.stepped(self)

    # Node

    def report(self) -> None:
        if self.node is not None:
            self.node.tell(m.StateChanged(state="running" if self.listens else "starting"))
            if self.listens:
                self.node.tell(m.ListenersBound(addresses=[f"host-{self.host}:9092"]))

    def _tell_node(self, message: m.Message) -> None:
        if self.node is not None:
            self.node.tell(message)

    def from_node(self, lane: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        if isinstance(message, m.Ping):
            lane.reply(request, m.Pong())
        elif isinstance(message, m.PartitionRunning | m.PartitionStopped):
            self.following.node_said(message)
        else:
            self.gateway.groups.node_said(message)

    # Clients

    def accepted(self, port: Port) -> None:
        """A client has connected."""
        sock: Any = SimSocket(port)
        connected = Connection(self.gateway, sock, (port.other.name, port.other.host), self._ended)
        self.connections[connected] = None

    def _ended(self, connected: Connection) -> None:
        self.connections.pop(connected, None)
