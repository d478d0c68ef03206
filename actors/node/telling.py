"""What the actors are told while they run: their topic's configuration, and their slice of the metadata log. Pure.

A leader that hears of an ISR must know the ``min.insync.replicas`` by which it was decided: the configuration is told
before the slice. A fresh Node says nothing before it has applied all that its predecessor can have known: the actors it
has adopted may have heard of more.
"""

from __future__ import annotations

from typing import Protocol

from .. import messages as m
from ..metadata import MetadataImage, MetadataRecord
from ..throttles import NOBODY, Shares, shares
from .adoption import Processes
from .events import AnyEffect, Tell
from .local import Local, Process
from .slices import Dirty, make_slice, same

Key = tuple[str, int]


class Host(Protocol):
    """What a node's machine is to this part of it."""

    node: int
    image: MetadataImage
    applied: int
    broker_epoch: int | None
    caught_up: bool
    locals: dict[Key, Local]
    actors: Processes

    def right(self, process: Process, local: Local) -> bool:
        """Whether this is what the metadata log wants for the partition."""

    def emit(self, effect: AnyEffect) -> None:
        """Have this done."""


class Telling:
    """Nobody is told twice what it knows."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._dirty = Dirty()
        # Who shares the rates of throttled brokers, for which image, and as the actors were told last.
        self._shares: Shares = NOBODY
        self._shares_of: tuple[MetadataImage, int] | None = None
        self._shared: Shares = NOBODY

    def note(self, record: MetadataRecord) -> None:
        """This record has been applied."""
        self._dirty.note(record)

    def note_everything(self) -> None:
        """Anything may have changed."""
        self._dirty.everything = True

    def configure(self, local: Local | None) -> None:
        """Tell the actor its topic's configuration, if it may have another and can be told."""
        process = self._told(local)
        if local is None or process is None:
            return
        configs = self.host.image.topic_configs(local.topic)
        if process.configs != configs:
            process.configs = configs
            message = m.Configure(configs=configs)
            self.host.emit(Tell(actor=process.actor, incarnation=process.incarnation, message=message))

    def slices(self) -> None:
        """Tell the actors what has changed of their partitions, all at once."""
        if self.host.caught_up and self.host.broker_epoch is not None:
            among = self._among()
            # One replica more or less, and each of the others has another part of the rate.
            self._dirty.everything = self._dirty.everything or among != self._shared
            self._shared = among
            for key in self._dirty.take(self.host.locals, self.host.image):
                local = self.host.locals.get(key)
                if local is not None:
                    self.slice(local)

    def _among(self) -> Shares:
        """Counted once for all slices of one image."""
        image = self.host.image
        if self._shares_of != (image, image.version):
            self._shares, self._shares_of = shares(image), (image, image.version)
        return self._shares

    def slice(self, local: Local) -> None:
        """Tell the actor of this one what has changed."""
        process, newest = self._told(local), self.slice_of(local.key)
        if process is not None and newest is not None and not same(process.slice, newest):
            process.slice = newest
            self.host.emit(Tell(actor=process.actor, incarnation=process.incarnation, message=newest))

    def slice_of(self, key: Key) -> m.Slice | None:
        """What the partition's actor is told of it."""
        host = self.host
        state = host.image.partition(*key)
        if state is None or host.broker_epoch is None:
            return None
        return make_slice(host.image, host.node, host.broker_epoch, host.applied, state, self._among())

    def _told(self, local: Local | None) -> Process | None:
        """The process that is right for this partition, if it can be told something."""
        if not self.host.caught_up:
            return None
        process = self.host.actors.all.get(local.actor) if local is not None else None
        if local is None or process is None or not process.connected or process.state == "stopping":
            return None
        return process if self.host.right(process, local) else None
