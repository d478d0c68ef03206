"""The shell of a group membership: asks the coordinator what the machine decides, and moves partitions.

What both protocols share is here; ``classic_member`` and ``consumer_member`` join and stay each in its own way.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import cast

from logeion.wire.apis import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from logeion.wire.errors import (
    KafkaError,
    LogeionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
    StaleMemberEpochError,
    for_code,
)
from logeion.wire.fields import Struct

from .cluster import Cluster
from .consumer import EARLIEST, LATEST, Consumer
from .consumer_membership import ConsumerMembership
from .errors import ClientError
from .groups import Groups
from .membership import Membership
from .positions import TopicPartition
from .retries import advise, backoff_s

OFFSET_COMMIT = 8
CLOSE_S = 5.0
# So long the commit of what is given up may take: the others wait for it.
GIVE_UP_S = 5.0
log: logging.Logger = logging.getLogger("logeion.client")
Callback = Callable[[list[TopicPartition]], object]


class GroupMember(abc.ABC):
    """One task joins, sends heartbeats, commits and moves partitions in and out of a ``Consumer``.

    Partitions are given up only while the program's loop is ``back`` for more, so that nothing is taken from under a
    record in hand; a loop that stays away longer than the rebalance timeout loses them.
    """

    def __init__(
        self,
        cluster: Cluster,
        membership: Membership | ConsumerMembership,
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
        self._membership: Membership | ConsumerMembership = membership
        self._consumer = consumer
        consumer.endless = True
        self._heartbeat_s = heartbeat_s
        self._commit_s = commit_s
        self._auto_commit = auto_commit
        self._reset = reset
        self._on_assigned, self._on_revoked, self._on_lost = callbacks
        self._coordinator: int | None = None
        self._tries = 0
        self._commit_at = time.monotonic() + commit_s
        self._task: asyncio.Task[None] | None = None
        self._unwanted = asyncio.Event()
        self._unwanted.set()
        self.wanted_back: bool = False
        self.back: asyncio.Event = asyncio.Event()
        self.last_back: float = time.monotonic()

    def start(self) -> None:
        """Joins the group, in the background."""
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._consumer.fail(LogeionError(f"the group membership stopped: {task.exception()!r}"))

    def keep_uncommitted(self) -> None:
        """``close`` is not to commit."""
        self._auto_commit = False

    @property
    def identity(self) -> tuple[int, str, str | None, str]:
        """Generation (or epoch), member id, instance id, and "<stable>" or "<rebalancing>"."""
        member = self._membership
        state = "<stable>" if member.stable else "<rebalancing>"
        return member.generation, member.member_id, member.instance_id, state

    async def not_wanted(self) -> None:
        """Until partitions that are to be given up are gone."""
        await self._unwanted.wait()

    async def commit(self, deadline_s: float | None = None) -> None:
        """Commits what is finished and not committed. Raises KafkaError.

        What counts is what is still read, so what is about to be given up can be committed from ``on_revoked``, and a
        record that is finished after its partition was lost changes nothing for whoever has it now.
        """
        news = {one: one.done for one in self._consumer.positions if one.done >= 0 and one.done != one.committed}
        if news:
            await self.commit_offsets({one.tp: offset for one, offset in news.items()}, {}, deadline_s)
            for one, offset in news.items():
                one.committed = offset

    async def commit_offsets(
        self,
        news: Mapping[TopicPartition, int],
        metadata: Mapping[TopicPartition, str],
        deadline_s: float | None = None,
    ) -> None:
        """Commits these positions, whatever is finished. Raises KafkaError."""
        topics: dict[str, list[OffsetCommitRequestPartition]] = {}
        for tp, offset in news.items():
            entry = OffsetCommitRequestPartition(
                partition_index=tp.partition, committed_offset=offset, committed_metadata=metadata.get(tp, "")
            )
            topics.setdefault(tp.topic, []).append(entry)

        async def ask() -> None:
            # Made anew for each attempt: the epoch may have moved on.
            request = OffsetCommitRequest(
                group_id=self._membership.group,
                generation_id_or_member_epoch=self._membership.generation,
                member_id=self._membership.member_id,
                group_instance_id=self._membership.instance_id,
                topics=[OffsetCommitRequestTopic(name=name, partitions=rows) for name, rows in topics.items()],
            )
            answer = cast(OffsetCommitResponse, await self._ask(OFFSET_COMMIT, request))
            for topic in answer.topics:
                for one in topic.partitions:
                    if one.error_code:
                        error = for_code(one.error_code)(f"commit of {topic.name}[{one.partition_index}]")
                        if self._membership_moved(error):
                            self._coordinator = None
                        raise error

        what = f"a commit of group {self._membership.group!r}"
        try:
            await self._cluster.retrying(ask, what=what, deadline_s=deadline_s)
        except StaleMemberEpochError:
            await self._beat()
            await self._cluster.retrying(ask, what=what, deadline_s=deadline_s)

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
                    if self._auto_commit and self._membership.stable:
                        await self.commit()
                finally:
                    try:
                        await self._tell(self._on_revoked, list(self._membership.owned))
                    finally:
                        await self._leave()

    # The one task

    async def _live(self) -> None:
        while True:
            try:
                await self._round()
            except KafkaError as error:
                meaning = self._membership.refused(error)
                if meaning == "fatal":
                    self._consumer.fail(error)
                    return
                if meaning == "lost":
                    await self._lose()
                elif meaning not in ("rejoin", "behind"):
                    await self._pause()
            except LogeionError as error:
                if not advise(error).retry:
                    self._consumer.fail(error)
                    return
                await self._pause()

    async def _pause(self) -> None:
        """The coordinator could not do it: look for it again, after a while."""
        self._unheard()
        self._tries += 1
        self._coordinator = None
        await asyncio.sleep(backoff_s(self._tries))

    @abc.abstractmethod
    async def _round(self) -> None:
        """Join, or stay, until there is something else to do. Raises KafkaError for ``refused``, LogeionError."""

    @abc.abstractmethod
    async def _beat(self) -> None:
        """Tell the coordinator that this member lives. Raises KafkaError."""

    @abc.abstractmethod
    async def _leave(self) -> None:
        """Tell the coordinator that it does not come back."""

    @abc.abstractmethod
    def _forget_membership(self) -> None:
        """The next round joins as somebody new."""

    @abc.abstractmethod
    def _unheard(self) -> None:
        """Whether the last request arrived is unknown."""

    async def _commit_when_due(self) -> None:
        now = time.monotonic()
        if self._auto_commit and now >= self._commit_at:
            self._commit_at = now + self._commit_s
            try:
                # The task that commits is the one that sends heartbeats: a commit that takes long waits for the next
                # time, so that a coordinator that is gone does not cost the session too.
                await self.commit(max(self._heartbeat_s, 1.0))
            except LogeionError as error:
                if not advise(error).retry:
                    raise
                log.info("a commit of group %r waits for the next time: %s", self._membership.group, error)

    @property
    def _beat_s(self) -> float:
        """Seconds between heartbeats: the coordinator's word, where it has one."""
        return self._heartbeat_s

    @property
    def _away(self) -> bool:
        """Whether the program's loop has not come back in time."""
        limit_s = self._membership.rebalance_timeout_ms / 1000
        return not self.back.is_set() and time.monotonic() - self.last_back > limit_s

    async def _stayed_away(self) -> None:
        """The loop does not come back: others get its partitions, and it joins anew once it does."""
        await self._leave()
        self._forget_membership()
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
                    async with asyncio.timeout(max(min(self._beat_s, until - time.monotonic()), 0.01)):
                        await self.back.wait()
                except TimeoutError:
                    if time.monotonic() >= until:
                        await self._stayed_away()
                        return
                    with contextlib.suppress(RebalanceInProgressError):
                        await self._beat()
            if self._auto_commit:
                # Refused, or nobody to ask: whoever reads on repeats what was not committed.
                with contextlib.suppress(LogeionError):
                    await self.commit(GIVE_UP_S)
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

    def _missing(self) -> list[TopicPartition]:
        """What is this member's and not read yet: what is new, and what an error kept it from before."""
        reading = set(self._consumer.assignment)
        return [tp for tp in self._membership.owned if tp not in reading]

    def _surplus(self) -> list[TopicPartition]:
        """What is read and not this member's any more."""
        owned = set(self._membership.owned)
        return [tp for tp in self._consumer.assignment if tp not in owned]

    async def _take_up(self, partitions: list[TopicPartition]) -> None:
        if partitions:
            committed = await self._groups.offsets(self._membership.group)
            missing: dict[str, list[int]] = {}
            for tp in partitions:
                if tp not in committed:
                    missing.setdefault(tp.topic, []).append(tp.partition)
            for topic in {tp.topic for tp in partitions}:
                await self._cluster.topic(topic)
            nowhere: dict[TopicPartition, LogeionError] = {}
            for topic, indexes in missing.items():
                if self._reset == "none":
                    error = OffsetOutOfRangeError(
                        f"group {self._membership.group!r} has committed nothing in {topic}{indexes}, "
                        "and auto_offset_reset is none"
                    )
                    nowhere |= {TopicPartition(topic, index): error for index in indexes}
                    continue
                where = EARLIEST if self._reset == "earliest" else LATEST
                for index, offset in (await self._consumer.offsets(topic, indexes, where)).items():
                    committed[TopicPartition(topic, index)] = offset
            # Nothing is handed out before the program was told: it may seek then.
            self._consumer.held.update(partitions)
            for tp in partitions:
                position = self._consumer.place(tp, committed.get(tp, 0))
                if tp in nowhere:
                    position.error = nowhere[tp]
        await self._tell(self._on_assigned, partitions)
        self._consumer.release(partitions)

    async def _tell(self, callback: Callback | None, partitions: list[TopicPartition]) -> None:
        if callback is not None:
            told = callback(partitions)
            if inspect.isawaitable(told):
                await told

    async def _ask(self, api_key: int, request: Struct, timeout_s: float | None = None) -> Struct:
        if self._coordinator is None:
            self._coordinator = await self._groups.coordinator(self._membership.group)
        try:
            return await self._cluster.call(
                api_key, request, node=self._coordinator, timeout_s=timeout_s, purpose=self._purpose
            )
        except ClientError:
            self._coordinator = None  # it may be gone: the next request asks who it is now
            raise
