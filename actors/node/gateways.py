"""The gateways of this host: where they listen, and what they are told of the partitions here. Pure."""

from __future__ import annotations

from typing import Protocol

from .. import messages as m
from ..metadata import MetadataImage
from .events import AnyEffect, Bound, Register, ToGateways
from .local import LEADER, Local

Key = tuple[str, int]


class Host(Protocol):
    """What a node's machine is to its gateways."""

    image: MetadataImage
    locals: dict[Key, Local]

    def serving(self, local: Local) -> bool:
        """Whether what should run for it does."""

    def emit(self, effect: AnyEffect) -> None:
        """Have this done."""


class Gateways:
    """``all`` maps each one that is connected to its addresses."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.all: dict[str, list[str]] = {}
        # Those that were told to end: the host is being stopped.
        self.leaving: set[str] = set()

    def bound(self, event: Bound) -> None:
        """One listens: the cluster has to know where."""
        self.all[event.actor] = event.addresses
        self.host.emit(Register())

    def gone(self, gateway: str) -> None:
        """Its lane has closed."""
        self.all.pop(gateway, None)

    def leaves(self, gateway: str) -> None:
        """It says that it ends, as it was told to."""
        if gateway in self.all:
            self.leaving.add(gateway)

    def greeted(self, gateway: str) -> None:
        """One that is new is told who runs, and who is offline."""
        self.all.setdefault(gateway, [])
        self.leaving.discard(gateway)
        for local in self.host.locals.values():
            state = self.host.image.partition(*local.key)
            if state is None or local.role != LEADER:
                continue
            if self.host.serving(local):
                running = m.PartitionRunning(
                    topic_id=local.topic_id, partition=local.partition, epoch=state.leader_epoch
                )
                self.host.emit(ToGateways(message=running, actor=gateway))
            elif local.offline:
                self.host.emit(ToGateways(message=local.stopped(state.leader_epoch), actor=gateway))
