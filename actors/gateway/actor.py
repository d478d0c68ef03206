"""Gateway: the Kafka port, as a process."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from ..messages import AnyMessage, ListenersBound, Message, PartitionRunning, PartitionStopped
from ..runtime import ActorBase, Shell
from . import state
from .following import Following
from .listening import Port, bind
from .ports import PortFile

log: logging.Logger = logging.getLogger(__name__)


class GatewayShell(Shell):
    """Binds, follows the metadata log, and dials the partitions that Node names."""

    async def start(self) -> None:
        """Take the port, and serve once the metadata log was read."""
        spec, config = self.spec, self.config
        # Before anything is waited for: Node says who runs as soon as it is met.
        self.gateway: state.Gateway = state.Gateway(
            node=spec.node, config=config, data_dir=Path(spec.data_dir), loop=self.loop
        )
        self.gateway.groups.tell_node = self.gateway.suspicion.tell = self._tell_node
        self.following: Following = Following(self.gateway, spec.run_dir)
        file = PortFile(spec.run_dir / "kafka-port", shared=config.node.gateways > 1)
        first = "." not in spec.actor.partition("/")[2]
        port = await file.settle(config.listeners.bind, config.listeners.port, first=first)
        sockets = bind(config.listeners.bind, port, shared=file.shared)
        file.keep(sockets[0].getsockname()[1])
        self.following.start()
        # Clients wait in the backlog until there is something true to tell them.
        while not await self.gateway.wait_until(lambda: bool(self.gateway.image.cluster_id), 10.0):
            log.warning("waiting for the controller")
        self.port: Port = Port(self.gateway, sockets)
        log.info("listening on %s", ", ".join(self.port.addresses))
        self.on_node_lane()

    async def stop(self) -> None:
        """Take no more connections, give what is under way a moment, end."""
        self.port.close()
        self.following.close()
        self.gateway.close()
        await asyncio.sleep(0)

    def on_node_lane(self) -> None:
        """Tell (each) Node where clients connect."""
        if self.node_lane is not None and hasattr(self, "port"):
            self.node_lane.tell(ListenersBound(addresses=self.port.addresses))

    def _tell_node(self, message: Message) -> None:
        if self.node_lane is not None:
            self.node_lane.tell(message)

    def on_node(self, request: int, message: AnyMessage) -> None:
        """Which partitions, Coordinators and group indexes run here."""
        if isinstance(message, PartitionRunning | PartitionStopped):
            self.following.node_said(message)
        else:
            self.gateway.groups.node_said(message)


class Gateway(ActorBase):
    """The Thespian actor around it."""

    shell: type[Shell] = GatewayShell
