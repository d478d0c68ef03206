"""The shell of a group membership: asks the coordinator what ``Membership`` decides, and moves partitions."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import cast

from logeion.wire.apis import (
    HeartbeatResponse,
    JoinGroupResponse,
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    SyncGroupResponse,
)
from logeion.wire.errors import KafkaError, LogeionError, OffsetOutOfRangeError, RebalanceInProgressError, for_code
from logeion.wire.fields import Struct

from .cluster import Cluster
from .consumer import EARLIEST, LATEST, Consumer
from .groups import Groups
from .membership import Change, Membership
from .positions import TopicPartition
from .retries import advise, backoff_s

OFFSET_COMMIT, JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 8, 11, 12, 13, 14
METADATA_AGE_S = 30.0
CLOSE_S = 5.0
Callback = Callable[[list[TopicPartition]], object]


class GroupMember:
    """One task joins, sends heartbeats, commits and moves partitions in and out of a ``Consumer``.

    Partitions are given up only while the program's loop is ``back`` for more, so that nothing is taken from under a
    record in hand; a loop that stays away longer than the rebalance timeout loses them.
    """

    def __init__(
        self,
        cluster: Cluster,
        membership: Membership,
        consumer: Consumer,
        *,
        heartbeat_s: float,
        commit_s: float,
        auto_commit: bool,
        reset: str,
        callbacks: tuple[Callback | None, Callback | None, Callback | None],
    ) -> None:
        self._cluster = cluster
        self._purpose = cluster.own_purpose("member")
        self._groups = Groups(cluster)
        self._membership = membership
        self._consumer = consumer
        consumer.endless = True
        self._heartbeat_s = heartbeat_s
        self._commit_s = commit_s
        self._auto_commit = auto_commit
        self._reset = reset
        self._on_assigned, self._on_revoked, self._on_lost = callbacks
        self._coordinator: int | None = None
        self._counts: dict[str, int] = {}
        self._finished: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._unwanted = asyncio.Event()
        self._unwanted.set()
        self.wanted_back = False
        self.back = asyncio.Event()
        self.last_back = time.monotonic()

    def start(self) -> None:
        """Joins the group, in the background."""
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._consumer.fail(LogeionError(f"the group membership stopped: {task.exception()!r}"))

    def finished(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The program is done with everything before these offsets. From any thread."""
        self._finished.update(offsets)

    async def not_wanted(self) -> None:
        """Until partitions that are to be given up are gone."""
        await self._unwanted.wait()

    async def commit(self) -> None:
        """Commits what is finished and not committed. Raises KafkaError."""
        mine = set(self._membership.owned)
        news = {
            tp: offset
            for tp, offset in dict(self._finished).items()
            if tp in mine and self._committed.get(tp) != offset
        }
        if not news:
            return
        topics: dict[str, list[OffsetCommitRequestPartition]] = {}
        for tp, offset in news.items():
            entry = OffsetCommitRequestPartition(partition_index=tp.partition, committed_offset=offset)
            topics.setdefault(tp.topic, []).append(entry)
        request = OffsetCommitRequest(
            group_id=self._membership.group,
            generation_id_or_member_epoch=self._membership.generation,
            member_id=self._membership.member_id,
            group_instance_id=self._membership.instance_id,
            topics=[OffsetCommitRequestTopic(name=name, partitions=rows) for name, rows in topics.items()],
        )

        async def ask() -> None:
            answer = cast(OffsetCommitResponse, await self._ask(OFFSET_COMMIT, request))
            for topic in answer.topics:
                for one in topic.partitions:
                    if one.error_code:
                        error = for_code(one.error_code)(f"commit of {topic.name}[{one.partition_index}]")
                        if self._membership_moved(error):
                            self._coordinator = None
                        raise error

        await self._cluster.retrying(ask, what=f"a commit of group {self._membership.group!r}")
        self._committed.update(news)

    def _membership_moved(self, error: KafkaError) -> bool:
        return error.name in ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE")

    async def close(self) -> None:
        """Commits what is finished and leaves."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        self._unwanted.set()
        # A group that cannot be reached now finds out by itself: the session ends.
        with contextlib.suppress(LogeionError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                try:
                    if self._auto_commit and self._membership.phase == "stable":
                        await self.commit()
                finally:
                    await self._tell(self._on_revoked, list(self._membership.owned))
                    await self._leave()

    async def _leave(self) -> None:
        request = self._membership.leave()
        if request is not None:
            # Not behind a join that the broker may sit on: it answers a connection in order.
            node = self._coordinator
            if node is not None:
                await self._cluster.call(LEAVE_GROUP, request, node=node)

    # The one task

    async def _live(self) -> None:
        tries = 0
        member = self._membership
        while True:
            try:
                await self._give_up(member.to_revoke())
                change = await self._join()
                tries = 0
                await self._give_up(change.revoked)
                await self._take_up(change.added)
                if not change.again:
                    await self._stay()
            except KafkaError as error:
                meaning = member.refused(error)
                if meaning == "fatal":
                    self._consumer.fail(error)
                    return
                if meaning == "lost":
                    await self._lose()
                elif meaning != "rejoin":
                    tries += 1
                    self._coordinator = None
                    await asyncio.sleep(backoff_s(tries))
            except LogeionError as error:
                if not advise(error).retry:
                    self._consumer.fail(error)
                    return
                tries += 1
                self._coordinator = None
                await asyncio.sleep(backoff_s(tries))

    async def _join(self) -> Change:
        member = self._membership
        limit_s = member.rebalance_timeout_ms / 1000 + 5
        while True:
            answer = cast(JoinGroupResponse, await self._ask(JOIN_GROUP, member.join(), limit_s))
            if member.joined(answer):
                break
        counts: dict[str, int] = {}
        for topic in member.topics_of(answer):
            with contextlib.suppress(KafkaError):  # a topic that is not there yet has no partitions to give
                counts[topic] = len((await self._cluster.topic(topic, fresh=True)).partitions)
        self._counts = counts
        return member.synced(cast(SyncGroupResponse, await self._ask(SYNC_GROUP, member.sync(answer, counts), limit_s)))

    async def _stay(self) -> None:
        """Heartbeats and commits, until something is the matter (raises) or the group should be joined again."""
        now = time.monotonic()
        commit_at, look_at = now + self._commit_s, now + METADATA_AGE_S
        while True:
            await asyncio.sleep(min(self._heartbeat_s, max(commit_at - time.monotonic(), 0.01)))
            now = time.monotonic()
            if self._auto_commit and now >= commit_at:
                commit_at = now + self._commit_s
                await self.commit()
            await self._beat()
            if not self.back.is_set() and now - self.last_back > self._membership.rebalance_timeout_ms / 1000:
                await self._stayed_away()
                return
            if self._membership.leader and now >= look_at:
                look_at = now + METADATA_AGE_S
                if await self._grown():
                    return

    async def _beat(self) -> None:
        answer = cast(HeartbeatResponse, await self._ask(HEARTBEAT, self._membership.heartbeat()))
        if answer.error_code:
            raise for_code(answer.error_code)(f"heartbeat in group {self._membership.group!r}")

    async def _grown(self) -> bool:
        for topic, count in self._counts.items():
            with contextlib.suppress(KafkaError):
                if len((await self._cluster.topic(topic, fresh=True)).partitions) != count:
                    return True
        return False

    async def _stayed_away(self) -> None:
        """The loop does not come back: others get its partitions, and it joins anew once it does."""
        await self._leave()
        self._membership.member_id = ""
        self._membership.generation = -1
        await self._lose()
        await self.back.wait()

    # Partitions

    async def _give_up(self, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        self.wanted_back = True
        self._unwanted.clear()
        try:
            until = time.monotonic() + self._membership.rebalance_timeout_ms / 1000
            while not self.back.is_set():
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        await self.back.wait()
                except TimeoutError:
                    if time.monotonic() >= until:
                        await self._stayed_away()
                        return
                    with contextlib.suppress(RebalanceInProgressError):
                        await self._beat()
            if self._auto_commit:
                self._membership.owned = sorted({*self._membership.owned, *partitions})
                with contextlib.suppress(KafkaError):  # refused: whoever reads on repeats what was not committed
                    await self.commit()
            await self._tell(self._on_revoked, partitions)
            self._forget(partitions)
        finally:
            self.wanted_back = False
            self._unwanted.set()

    async def _lose(self) -> None:
        gone = self._consumer.assignment
        self._forget(gone)
        if gone:
            await self._tell(self._on_lost, gone)

    def _forget(self, partitions: list[TopicPartition]) -> None:
        self._membership.released(partitions)
        for tp in partitions:
            self._consumer.drop(tp)
            self._finished.pop(tp, None)
            self._committed.pop(tp, None)

    async def _take_up(self, partitions: list[TopicPartition]) -> None:
        if partitions:
            committed = await self._groups.offsets(self._membership.group)
            missing: dict[str, list[int]] = {}
            for tp in partitions:
                if tp not in committed:
                    missing.setdefault(tp.topic, []).append(tp.partition)
            for topic in {tp.topic for tp in partitions}:
                await self._cluster.topic(topic)
            for topic, indexes in missing.items():
                if self._reset == "none":
                    raise OffsetOutOfRangeError(
                        f"group {self._membership.group!r} has committed nothing in {topic}{indexes}, "
                        "and auto_offset_reset is none"
                    )
                where = EARLIEST if self._reset == "earliest" else LATEST
                for index, offset in (await self._consumer.offsets(topic, indexes, where)).items():
                    committed[TopicPartition(topic, index)] = offset
            for tp in partitions:
                self._consumer.place(tp, committed[tp])
        await self._tell(self._on_assigned, partitions)

    async def _tell(self, callback: Callback | None, partitions: list[TopicPartition]) -> None:
        if callback is not None:
            told = callback(partitions)
            if inspect.isawaitable(told):
                await told

    async def _ask(self, api_key: int, request: Struct, timeout_s: float | None = None) -> Struct:
        if self._coordinator is None:
            self._coordinator = await self._groups.coordinator(self._membership.group)
        return await self._cluster.call(
            api_key, request, node=self._coordinator, timeout_s=timeout_s, purpose=self._purpose
        )
