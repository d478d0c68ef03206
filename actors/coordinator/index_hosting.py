"""What a group index does all day: it follows its partition's log, answers from it, and asks for upkeep.

It writes nothing. What is due in a group that has no Coordinator (retention, positions in deleted topics, members that
may be dead) is done by that group's own Coordinator, which Node is asked for, a few at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from logeion.wire.errors import InvalidRequestError, KafkaError

from ..lanes import Lane, LaneError
from ..messages import (
    AnyMessage,
    DescribeGroup,
    EnsureCoordinator,
    FetchOffsets,
    GroupRead,
    GroupsListed,
    ListGroups,
    Message,
    ReadGroup,
    Refused,
    TopicsGone,
)
from ..stream import Frame
from .index import GroupIndex
from .machine import OFFSETS_CHECK_MS
from .records import pack
from .step import Now, Settings
from .tailing import Tail
from .topics import Topics

if TYPE_CHECKING:
    from .actor import CoordinatorShell

log: logging.Logger = logging.getLogger(__name__)

REACH_S = 10.0
# Bytes of records in one answer to a Coordinator that loads (a lane's header holds 16 MiB).
CHUNK_BYTES = 8 * 1024 * 1024
# Clients that ride out a restart come back by themselves, and their Coordinators with them; only then look for upkeep.
FIRST_UPKEEP_S = 5.0
# Groups looked at in one turn of the loop, and Coordinators asked for at once.
TOGETHER = 200
UPKEEPS = 4
UPKEEP_S = 20.0


class IndexHosting:
    """One index. ``start`` returns when all that its leader knew to be committed is read."""

    def __init__(self, shell: CoordinatorShell, partition: Lane, settings: Settings, topics: Topics) -> None:
        spec = shell.spec
        assert spec.topic is not None and spec.partition is not None and spec.epoch is not None
        self.index: GroupIndex = GroupIndex(settings)
        self._shell = shell
        self._loop: asyncio.AbstractEventLoop = shell.loop
        self._topics = topics
        self._tail = Tail(
            partition,
            epoch=spec.epoch,
            directory=Path(spec.data_dir) / f"{spec.topic}-{spec.partition}",
            on_record=self._take,
            suspicion=shell.suspicion,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        # Whose Coordinator has read its group here, and is still there.
        self._coordinators: dict[str, Lane] = {}
        self._asked: dict[str, float] = {}
        self._existing: set[str] = set()
        self._look_again = asyncio.Event()

    async def start(self) -> None:
        """Read the log; then keep up, and look after the groups."""
        began = time.monotonic()
        await self._tail.catch_up()
        log.info("%d groups indexed in %.2f s", len(self.index.groups), time.monotonic() - began)
        self._topics.start()
        self._spawn(self._tail.follow())
        self._spawn(self._look_after())

    def _take(self, key: bytes, value: bytes | None) -> None:
        try:
            self.index.apply(key, value)
        except msgspec.DecodeError as error:
            # A later version's, or nobody's: it must not cost the groups that can be read.
            log.warning("a record with key %r is skipped: %s", key[:80], error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except LaneError as error:
                self._shell.lost(str(error))

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._shell.fail(error)

    # Questions

    def on_lane(self, lane: Lane) -> None:
        """A gateway, or a Coordinator that loads."""
        lane.on_message = self._on_message
        lane.on_closed = self._on_closed

    def _on_closed(self, lane: Lane, reason: str) -> None:
        for group in [group for group, one in self._coordinators.items() if one is lane]:
            del self._coordinators[group]

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        self._spawn(self._answer(lane, request, message))

    async def _answer(self, lane: Lane, request: int, message: AnyMessage) -> None:
        try:
            lane.reply(request, await self._reply(lane, message))
        except KafkaError as error:
            lane.reply(request, Refused(code=error.code, reason=str(error)))

    async def _reply(self, lane: Lane, message: AnyMessage) -> Message:
        if isinstance(message, ReadGroup):
            await self._tail.reach(message.end, REACH_S)
            return self._read(lane, message)
        await self._tail.complete(REACH_S)
        match message:
            case ListGroups():
                return GroupsListed(groups=self.index.entries())
            case DescribeGroup(group=group):
                return self.index.machine(group).describe()
            case FetchOffsets(group=group):
                return self.index.machine(group).fetch(message)
            case _:
                raise InvalidRequestError(f"a group index does not answer {type(message).__name__}")

    def _read(self, lane: Lane, message: ReadGroup) -> GroupRead:
        """A part of the group; its Coordinator is its only writer and does not write yet, so nothing moves between."""
        records = self.index.read(message.group)
        at, size = message.at, 0
        while at < len(records) and size < CHUNK_BYTES:
            size += len(records[at][0]) + len(records[at][1])
            at += 1
        more = at < len(records)
        if not more:
            self._coordinators[message.group] = lane
            self._asked.pop(message.group, None)
        gone = [] if more or not self._topics.known.is_set() else self.index.gone(message.group, self._existing)
        return GroupRead(records=pack(records[message.at : at]), next=at if more else -1, gone=gone)

    # Upkeep

    def topics_changed(self) -> None:
        """The metadata log moved on: positions in topics that went have to go."""
        before, self._existing = self._existing, set(self._topics.image.topics)
        gone = sorted(before - self._existing)
        if not gone:
            return
        # The index may be behind its Coordinators, so it does not ask itself whom it concerns.
        for lane in self._coordinators.values():
            lane.tell(TopicsGone(topic_ids=gone))
        self._look_again.set()

    async def _look_after(self) -> None:
        await self._topics.known.wait()
        await asyncio.sleep(FIRST_UPKEEP_S)
        while True:
            self._look_again.clear()
            await self._tail.catch_up()
            groups = list(self.index.groups)
            for at in range(0, len(groups), TOGETHER):
                now = Now(self._loop.time(), time.time_ns() // 1_000_000)
                for group in groups[at : at + TOGETHER]:
                    if group not in self._coordinators and self.index.due(group, self._existing, now):
                        await self._have_upkeep(group)
                await asyncio.sleep(0)
            try:
                await asyncio.wait_for(self._look_again.wait(), OFFSETS_CHECK_MS / 1000)
            except TimeoutError:
                continue

    async def _have_upkeep(self, group: str) -> None:
        """Ask for its Coordinator, once there is room for one more."""
        spec = self._shell.spec
        assert spec.topic_id is not None and spec.partition is not None
        while len(self._asked) >= UPKEEPS:
            now = self._loop.time()
            for late in [one for one, since in self._asked.items() if now - since > UPKEEP_S]:
                del self._asked[late]
            await asyncio.sleep(0.05)
        lane = self._shell.node_lane
        if lane is None or group in self._coordinators:
            return
        self._asked[group] = self._loop.time()
        lane.tell(EnsureCoordinator(group=group, topic_id=spec.topic_id, partition=spec.partition, upkeep=True))
