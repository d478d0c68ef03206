"""Controller: one voter of the metadata quorum, as a process."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
import uuid
from pathlib import Path

from logeion.wire.errors import InvalidRequestError, KafkaStorageError, StorageError

from ..lanes import Lane, LaneListener, socket_path
from ..messages import (
    AnyMessage,
    Message,
    Refused,
    Subscribe,
)
from ..metadata import MetadataImage
from ..runtime import ActorBase, Shell
from ..stream import Frame
from .alone import QuorumOfOne
from .machine import ControllerMachine, Request
from .quorum import Commit, NotWrittenError
from .subscribers import Subscribers
from .topics import Defaults

log = logging.getLogger(__name__)

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
FULL_AGAIN_S = 1.0


class ControllerShell(Shell):
    """The machine's decisions made durable, answered, and told to everybody who follows.

    A disk that fails ends the process: a start reads what really is there. One that is full only refuses.
    """

    listener: LaneListener | None = None

    async def start(self) -> None:
        """Recover the metadata log, found the cluster if there is none, listen."""
        spec = self.spec
        self.machine = self._new_machine()
        self.subscribers = Subscribers(lambda: self.machine.image.records())
        for commit in await self._open():
            self.subscribers.recovered(commit)
            self._replay(commit)
        image = self.machine.image
        founding = self.machine.found(self.config.cluster.id or uuid.uuid4().hex[:22])
        if founding:
            self.quorum.propose(founding, self.subscribers.recovered)
        log.info(
            "controller serves cluster=%s offset=%d topics=%d",
            image.cluster_id,
            self.machine.next_offset,
            len(image.topics),
        )
        self.listener = LaneListener(self.loop, socket_path(spec.run_dir, "controller"), self._on_lane)

    async def stop(self) -> None:
        """Nobody is served any more; the log is closed cleanly."""
        if self.listener is not None:
            self.listener.close()
        self.quorum.close()

    async def _open(self) -> list[Commit]:
        """Recover. A disk that is full is waited for: dying of it again and again would take the whole tree down."""
        while True:
            self.quorum = QuorumOfOne(
                Path(self.spec.data_dir), now_ms=_now_ms, snapshot_bytes=self.config.storage.metadata_snapshot_bytes
            )
            try:
                return self.quorum.open()
            except StorageError as error:
                if getattr(error.__cause__, "errno", None) not in _FULL:
                    raise
                log.error("the controller waits for room on the disk: %s", error)
                self.quorum.close()
            await asyncio.sleep(FULL_AGAIN_S)

    def _new_machine(self) -> ControllerMachine:
        topics = self.config.topics
        return ControllerMachine(
            Defaults(
                partitions=topics.partitions,
                replication_factor=topics.replication_factor,
                partitions_max=self.config.limits.partitions,
            ),
            lambda: uuid.uuid4().hex,
            MetadataImage(self.config.topic_defaults()),
        )

    def _replay(self, commit: Commit) -> None:
        for offset, record in enumerate(commit.records, commit.offset):
            self.machine.replay(offset, record)
        # A snapshot has fewer records than the offsets it stands for.
        self.machine.next_offset = commit.next_offset

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message
        lane.on_closed = self._on_closed

    def _on_closed(self, lane: Lane, reason: str) -> None:
        self.subscribers.gone(lane)

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        if isinstance(message, Subscribe):
            self.subscribers.subscribe(lane, request, message.from_offset)
        elif isinstance(message, Request):
            lane.reply(request, self._decide(message))
        else:
            refusal = f"the controller does not answer {type(message).__name__}"
            lane.reply(request, Refused(code=InvalidRequestError.code, reason=refusal))

    def _decide(self, request: Request) -> Message:
        """The answer to a request, with its records committed."""
        decision = self.machine.handle(request, self.loop.time())
        if not decision.records:
            return decision.reply
        try:
            self.quorum.propose(decision.records, self.subscribers.committed)
        except NotWrittenError as error:
            log.error("%s came to nothing: %s", type(request).__name__, error)
            # The machine has seen the records already: begin again from what is committed.
            self.machine = self._new_machine()
            for commit in self.quorum.read():
                self._replay(commit)
            return Refused(code=KafkaStorageError.code, reason=str(error))
        assert self.quorum.end_offset == self.machine.next_offset, "the machine and its log disagree"
        try:
            self.quorum.compact(self.machine.image.records)
        except StorageError as error:
            log.warning("no snapshot of the metadata log: %s", error)
        return decision.reply


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Controller(ActorBase):
    """The Thespian actor around it."""

    shell = ControllerShell
