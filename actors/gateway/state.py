"""What a gateway knows: the metadata image, the lanes to the Controller and the partitions of this host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from logeion.log.view import Descriptors, LogView
from logeion.wire.errors import (
    KafkaStorageError,
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
    for_code,
)

from ..cold import ColdReads
from ..config import parse_address
from ..lanes import dial, socket_path
from ..messages import AnyMessage, DescribeLog, FindEpochEnd, FindOffset, Message
from ..metadata import MetadataImage, MetadataRecord, PartitionChanged, Topic, TopicDeleted
from ..suspicion import Suspicion
from .answers import Answers
from .confirming import Confirming
from .groups import Groups
from .links import Key, Link
from .load import Load
from .parking import Parking
from .producer_ids import ProducerIds
from .refusals import AGE_S, Refusals
from .timers import Timers

if TYPE_CHECKING:
    from ..config import Config
    from ..lanes import Lane
    from .fetch import FetchCall
    from .refusals import Producer

log: logging.Logger = logging.getLogger(__name__)

# What a partition that lives answers at once.
PROMPT = (FindOffset, FindEpochEnd, DescribeLog)


class Gateway:
    """One gateway's state; everything here is used only in its asyncio loop."""

    def __init__(self, *, node: int, config: Config, data_dir: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.node = node
        self.config = config
        self.data_dir = data_dir
        self.loop = loop
        self.image: MetadataImage = MetadataImage(self.config.topic_defaults())
        # The offset in the metadata log up to which ``image`` is applied (exclusive).
        self.applied: int = 0
        # The node that leads the metadata quorum, as far as the Controller here knows; -1 for nobody.
        self.quorum_leader = -1
        # Grows with every change of the image or of what runs here: what was made from them at an equal number holds.
        self.changes: int = 0
        self.failover_wait_ms: int = config.gateway.failover_wait_ms
        self.links: dict[Key, Link] = {}
        self.parking: Parking[FetchCall] = Parking()
        self.timers: Timers = Timers(self, loop)
        self.load: Load = Load()
        self.cold: ColdReads = ColdReads(loop)
        self.descriptors: Descriptors = Descriptors()
        self.producer_ids: ProducerIds = ProducerIds()
        self.refusals: Refusals = Refusals()
        self.confirming: Confirming = Confirming(self)
        self._aging: asyncio.TimerHandle | None = None
        self.answers: Answers = Answers()
        self.suspicion: Suspicion = Suspicion(loop)
        self.groups: Groups = Groups(self, data_dir / "run")
        self._controller: Lane | None = None
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """The loop's own clock in milliseconds: it never goes back, and says nothing about the time of day."""
        return int(self.loop.time() * 1000)

    @property
    def controller_id(self) -> int:
        """Whom clients are told to send administrative requests to; any node passes them on, so this one will do."""
        leader = self.quorum_leader
        return leader if leader in self.image.brokers and leader not in self.image.fenced else self.node

    # What others see ------------------------------------------------------------------------------------------------

    async def wait_applied(self, committed: int, timeout_s: float) -> bool:
        """Until the image holds all records below ``committed``; False if that took longer."""
        return await self.wait_until(lambda: self.applied >= committed, timeout_s)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Until ``condition`` holds; it is asked again after each change of the image or of what runs here."""
        if condition():
            return True
        future: asyncio.Future[None] = self.loop.create_future()
        waiter = (condition, future)
        self._waiters.append(waiter)
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return condition()
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return True

    def changed(self) -> None:
        """Something that ``wait_until`` may wait for has changed."""
        self.changes += 1
        for waiter in [one for one in self._waiters if one[0]()]:
            self._waiters.remove(waiter)
            if not waiter[1].done():
                waiter[1].set_result(None)

    async def ask_controller(self, message: Message, timeout_s: float) -> AnyMessage:
        """The Controller's answer; waits while the Controller restarts.

        Raises ``RefusedError`` (code, reason), ``LaneClosed`` and ``LaneTimeout`` (then the request may have been
        carried out all the same), and ``RequestTimedOutError`` if no Controller could be reached in the time.
        """
        deadline = self.loop.time() + timeout_s
        while (lane := self._controller) is None:
            # It may be gone again by the time that this goes on.
            if not await self.wait_until(lambda: self._controller is not None, max(0.0, deadline - self.loop.time())):
                raise RequestTimedOutError("the controller cannot be reached")
        # The answer may take its time (a commit, a reassignment's end), but a Controller that lives answers pings.
        return await self.suspicion.request(lane, message, timeout_s=max(0.05, deadline - self.loop.time()))

    def running(self, topic_id: str, partition: int) -> bool:
        """Whether this host's leader of the partition can be asked now."""
        link = self.links.get((topic_id, partition))
        return link is not None and link.lane is not None

    def offline(self, topic_id: str, partition: int) -> bool:
        """Whether no process will lead this partition here until somebody acts (its disk failed, say)."""
        link = self.links.get((topic_id, partition))
        return link is not None and link.offline is not None

    def leader_code(self, topic_id: str, partition: int) -> int:
        """0 if this host leads the partition, else the Kafka error to answer: 3, 5 or 6."""
        topic = self.image.topic_by_id(topic_id)
        state = topic.partitions.get(partition) if topic is not None else None
        if state is None:
            return UnknownTopicOrPartitionError.code
        if state.leader == self.node:
            return 0
        return LeaderNotAvailableError.code if state.leader < 0 else NotLeaderOrFollowerError.code

    async def ask_partition(
        self, topic_id: str, partition: int, make: Callable[[int], Message], timeout_s: float
    ) -> AnyMessage:
        """The answer of this host's leader to ``make(leader_epoch)``; waits while it restarts.

        Raises ``RefusedError``, ``LaneClosed``, ``LaneTimeout``, or a ``KafkaError``: NotLeaderOrFollower,
        UnknownTopicOrPartition, KafkaStorage, RequestTimedOut.
        """
        deadline = self.loop.time() + timeout_s

        def settled() -> bool:
            return bool(
                self.running(topic_id, partition)
                or self.offline(topic_id, partition)
                or self.leader_code(topic_id, partition)
            )

        while True:
            if not await self.wait_until(settled, max(0.0, deadline - self.loop.time())):
                raise RequestTimedOutError("the partition's leader does not serve yet")
            code = self.leader_code(topic_id, partition)
            if code:
                raise for_code(code)(f"partition {partition} of topic {topic_id}")
            link = self.links.get((topic_id, partition))
            if link is not None and link.offline is not None:
                raise link.offline
            if link is not None and link.lane is not None:
                break  # else it is gone again already
        message, left = make(link.epoch), max(0.05, deadline - self.loop.time())
        if isinstance(message, PROMPT):
            return await self.suspicion.request(link.lane, message, timeout_s=left)
        return await link.lane.request(message, timeout_s=left)

    async def ask_replica(self, topic_id: str, partition: int, message: Message, timeout_s: float) -> AnyMessage:
        """The answer of this host's follower of the partition. Raises ``OSError`` if none runs, or ``LaneError``."""
        lane = await dial(self.loop, socket_path(self.data_dir / "run", f"replica-{topic_id}-{partition}"))
        try:
            return await lane.request(message, timeout_s=max(0.05, timeout_s))
        finally:
            lane.close()

    def advertised(self, local: tuple[str, int]) -> tuple[str, int]:
        """Host and port to tell a client that connected to ``local``: as configured, else just that."""
        advertise = self.config.listeners.advertise
        return parse_address(advertise, local[1]) if advertise else local

    # Partitions -----------------------------------------------------------------------------------------------------

    def link(self, topic: Topic, partition: int) -> Link:
        """This gateway's side of a partition that the image knows."""
        key = (topic.topic_id, partition)
        found = self.links.get(key)
        if found is None:
            view = LogView(self.data_dir / f"{topic.name}-{partition}", descriptors=self.descriptors)
            found = self.links[key] = Link(self, topic.topic_id, partition, view)
        return found

    def partition_offline(self, topic_id: str, partition: int, cause: str, code: int) -> None:
        """Node has given this partition up; ``cause`` says why."""
        topic = self.image.topic_by_id(topic_id)
        if topic is None or partition not in topic.partitions:
            return
        error = for_code(code or KafkaStorageError.code)
        self.link(topic, partition).give_up(error(cause))
        self.changed()

    def _settle(self, link: Link) -> None:
        """The image says something new about this partition."""
        partition = self.image.partition(*link.key)
        if partition is None:
            link.give_up(NotLeaderOrFollowerError("the partition is gone"))
            self.forget(link)
        elif partition.leader == self.node:
            link.come_back()
        else:
            link.leave(partition)

    def forget(self, link: Link) -> None:
        """This link is of no use any more."""
        if self.links.get(link.key) is link:
            del self.links[link.key]
            link.view.close()

    def note_refusal(self, producer: Producer, sequence: int) -> None:
        """This batch was refused: what its producer has sent behind it is refused, too."""
        self.refusals.note(producer, sequence)
        if self._aging is None:
            self._aging = self.loop.call_later(AGE_S, self._age)

    def _age(self) -> None:
        self.refusals.grow_older()
        self._aging = self.loop.call_later(AGE_S, self._age) if len(self.refusals) else None

    # Metadata -------------------------------------------------------------------------------------------------------

    def controller_connected(self, lane: Lane | None) -> None:
        """The lane to the Controller, or None while it is away."""
        self._controller = lane
        self.changed()

    def apply(self, offset: int, next_offset: int, records: list[MetadataRecord], snapshot: bool) -> None:
        """Committed metadata; what is already applied is skipped, a snapshot replaces everything that is older."""
        if snapshot:
            if self.image.goes_back(self.applied, next_offset, records):
                raise ValueError(f"a snapshot of the metadata up to {next_offset}, but {self.applied} is applied")
            # Its versions go on from here: what was encoded before must not look as if it were still right.
            self.image = self.image.restored(())
        elif offset > self.applied:
            raise ValueError(f"metadata from offset {offset} on, but only {self.applied} is applied")
        else:
            records = records[self.applied - offset :]
        touched = set(self.links) if snapshot else set()
        for record in records:
            self.image.apply(record)
            if isinstance(record, TopicDeleted):
                touched.update(key for key in self.links if key[0] == record.topic_id)
            elif isinstance(record, PartitionChanged):
                touched.add((record.topic_id, record.partition))
        self.applied = max(self.applied, next_offset)
        for key in touched:
            link = self.links.get(key)
            if link is not None:
                self._settle(link)
        self.changed()

    def close(self) -> None:
        """End timers and threads, and give all descriptors back."""
        self.timers.close()
        if self._aging is not None:
            self._aging.cancel()
        self.suspicion.close()
        self.confirming.close()
        for link in self.links.values():
            link.close()
        self.groups.close()
        self.cold.close()
        self.descriptors.close()
