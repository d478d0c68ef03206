"""Controller: one voter of the metadata quorum, as a process."""

from __future__ import annotations

import logging
import time
import uuid
from pathlib import Path

from logeion.wire.errors import InvalidRequestError

from ..lanes import Lane, LaneListener, socket_path
from ..messages import (
    AllocateProducerIds,
    AlterConfigs,
    AnyMessage,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    GrantEpochs,
    Refused,
    RegisterNode,
    Subscribe,
)
from ..metadata import MetadataImage
from ..runtime import ActorBase, Shell
from ..stream import Frame
from .alone import QuorumOfOne
from .machine import ControllerMachine
from .quorum import Commit
from .subscribers import Subscribers
from .topics import Defaults

log = logging.getLogger(__name__)

_REQUESTS = (
    RegisterNode,
    GrantEpochs,
    CreateTopics,
    DeleteTopics,
    CreatePartitions,
    AlterConfigs,
    AllocateProducerIds,
)


class ControllerShell(Shell):
    """The machine's decisions made durable, answered, and told to everybody who follows.

    Any error of the disk ends the process: a start reads what really is there.
    """

    async def start(self) -> None:
        """Recover the metadata log, found the cluster if there is none, listen."""
        spec = self.spec
        config = self.config
        self.quorum = QuorumOfOne(
            Path(spec.data_dir), now_ms=_now_ms, snapshot_bytes=config.storage.metadata_snapshot_bytes
        )
        image = MetadataImage(config.topic_defaults())
        self.machine = ControllerMachine(
            Defaults(
                partitions=config.topics.partitions,
                replication_factor=config.topics.replication_factor,
                partitions_max=config.limits.partitions,
            ),
            lambda: uuid.uuid4().hex,
            image,
        )
        self.subscribers = Subscribers(image.records)
        for commit in self.quorum.open():
            self._replay(commit)
        founding = self.machine.found(config.cluster.id or uuid.uuid4().hex[:22])
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
        self.listener.close()
        self.quorum.close()

    def _replay(self, commit: Commit) -> None:
        self.subscribers.recovered(commit)
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
        elif isinstance(message, _REQUESTS):
            decision = self.machine.handle(message)
            if decision.records:
                self.quorum.propose(decision.records, self.subscribers.committed)
                assert self.quorum.end_offset == self.machine.next_offset, "the machine and its log disagree"
                self.quorum.compact(self.machine.image.records)
            lane.reply(request, decision.reply)
        else:
            refusal = f"the controller does not answer {type(message).__name__}"
            lane.reply(request, Refused(code=InvalidRequestError.code, reason=refusal))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Controller(ActorBase):
    """The Thespian actor around it."""

    shell = ControllerShell
