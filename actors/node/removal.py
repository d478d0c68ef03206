"""Whose a partition's directory is, and when one is removed or set aside. Pure.

A topic that is created again under its former name uses the same directory name, and a replica that is assigned again
its former directory: nothing is started there before what was there is out of the way.
"""

from __future__ import annotations

from typing import Protocol

from ..metadata import MetadataImage
from .events import AnyEffect, RemoveDirectory
from .local import OFFLINE_RETRY_S, Local, Process

Key = tuple[str, int]

# What was refused is asked for again after this.
REFUSED_AGAIN_S = 1.0


class Host(Protocol):
    """What a node's machine is to its directories."""

    node: int
    image: MetadataImage
    caught_up: bool
    locals: dict[Key, Local]

    def emit(self, effect: AnyEffect) -> None:
        """Have this done."""


class Directories:
    """The partitions of this host by the names of their directories."""

    def __init__(self, host: Host) -> None:
        self.host = host
        # Whose a name is, until its directory is removed; and who would have it.
        self._owners: dict[str, Key] = {}
        self._named: dict[str, list[Key]] = {}

    def add(self, local: Local) -> Local:
        """A partition that this host has anything to do with."""
        self.host.locals[local.key] = local
        self._named.setdefault(local.directory, []).append(local.key)
        return local

    def drop(self, key: Key) -> list[Key]:
        """Nothing of this partition is left here. Returns who else would have its directory's name."""
        local = self.host.locals.pop(key, None)
        if local is None:
            return []
        named = self._named[local.directory]
        named.remove(key)
        if not named:
            del self._named[local.directory]
        if self._owners.get(local.directory) == key:
            del self._owners[local.directory]
        return list(named)

    def of_name(self, directory: str) -> list[Key]:
        """The partitions that have, had or will have this directory."""
        return list(self._named.get(directory, ()))

    def owned_by(self, local: Local) -> bool:
        """Whether the directory's name is this one's, or free (then it is from now on)."""
        return self._owners.setdefault(local.directory, local.key) == local.key

    def is_being_freed(self, local: Local) -> bool:
        """Whether the name is that of one whose directory is on its way out.

        A Node that starts knows only from the log who had a name, one after the other, and not whose files lie there:
        each of them is removed in its turn.
        """
        owner = self.host.locals.get(self._owners.get(local.directory, local.key))
        return owner is not None and owner is not local and owner.role is None

    def remove(self, local: Local, *, keep: bool = False) -> None:
        """Have the directory put out of the way; nobody holds it any more."""
        local.removing = True
        self.host.emit(
            RemoveDirectory(topic=local.topic, topic_id=local.topic_id, partition=local.partition, keep=keep)
        )

    def remove_unknown(self, process: Process) -> None:
        """A process that a predecessor had started late may have made a deleted topic's directory again.

        Until that is gone, the name is not free for a new topic, even if that one had it in mind already.
        """
        host = self.host
        if not host.caught_up or process.topic_id is None or process.partition is None:
            return
        key = (process.topic_id, process.partition)
        if key in host.locals or host.image.topic_by_id(process.topic_id) is not None:
            return
        topic = process.directory.rpartition("-")[0]
        local = self.add(Local(topic=topic, topic_id=process.topic_id, partition=process.partition))
        self._owners[local.directory] = key
        self.remove(local)

    def set_aside(self, local: Local, now: float) -> bool:
        """A follower's lost log is begun afresh once the committed metadata counts on it no more and others lead.

        Returns whether the controller has to be told (again) that it is lost.
        """
        state = self.host.image.partition(*local.key)
        if state is None or self.host.node in state.isr or self.host.node in state.elr:
            if local.retry_at is not None:
                return False
            local.retry_at = now + REFUSED_AGAIN_S
            return True
        if state.leader >= 0 and now >= local.aside_at:
            local.aside_at = now + OFFLINE_RETRY_S
            self.remove(local, keep=True)
        elif state.leader >= 0 and local.retry_at is None:
            # Lost again so soon: nobody else will remind us.
            local.retry_at = local.aside_at
        return False

    def put_aside(self, local: Local, *, failed: bool, now: float) -> None:
        """It was lost and is begun afresh, or is assigned again after it had been removed."""
        local.removing = False
        if local.lost and failed:
            local.retry_at = now + OFFLINE_RETRY_S
        else:
            local.begin_afresh()
