"""Where a gateway sends what is asked about consumer groups: to the group's Coordinator, or to the group index.

A Coordinator is started by Node when somebody wants it, so the first request waits for that, within limits; what was
under way when a Coordinator ended is answered NOT_COORDINATOR at once. Reading what is committed needs none: where no
Coordinator runs, the group index of the partition answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from logeion.wire.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    NotCoordinatorError,
    NotLeaderOrFollowerError,
    TopicAlreadyExistsError,
    UnknownServerError,
    for_code,
)

from .. import messages as m
from ..groups import OFFSETS_TOPIC, coordinator_socket, index_socket, partition_of
from ..lanes import Lane, LaneBusy, LaneClosed, LaneError, LaneTimeout, RefusedError, dial, socket_path
from .asking import Deadline, ask_controller, until_applied, until_running
from .brokers import alive

if TYPE_CHECKING:
    from ..metadata import Topic
    from .links import Key
    from .state import Gateway

log: logging.Logger = logging.getLogger(__name__)

Reply = TypeVar("Reply", bound=m.Message)

# How long a request waits for a Coordinator that starts; every client asks again after a retriable code.
START_S = 5.0
# Node is told again what is wanted after this, in case it restarted meanwhile.
REMIND_S = 0.5
RETRY_S = 0.005
CREATION_S = 10.0
# Members that join are parked at their Coordinator until all have come; the last of them must not wait behind them.
PARKED_MAX = 50_000

# What a coordinator or index that lives answers at once; joins are parked, and commits wait for the log.
PROMPT = (m.HeartbeatGroup, m.DescribeGroup, m.ListGroups)

# Kafka's settings of the topic; a group's records are one batch, which may be as large as a client's request.
OFFSETS_CONFIGS: dict[str, str | None] = {
    "cleanup.policy": "compact",
    "compression.type": "producer",
    "segment.bytes": "104857600",
    "max.message.bytes": "33554432",
}


class Site:
    """One running Coordinator or group index, and the lane to it once it was needed."""

    def __init__(self, incarnation: int, path: Path) -> None:
        self.incarnation = incarnation
        self.path = path
        self.lane: Lane | None = None
        # Set while somebody dials, so that all others wait for the same lane.
        self.dialling: asyncio.Task[Lane | None] | None = None
        # It refuses requests because it is about to end.
        self.leaving: bool = False

    def close(self) -> None:
        """Nobody is there any more."""
        self.leaving = True
        if self.lane is not None:
            self.lane.close("this coordinator has ended")


class Groups:
    """What this gateway knows of Coordinators and indexes. ``tell_node`` is set by the shell."""

    def __init__(self, gateway: Gateway, run_dir: Path) -> None:
        self.tell_node: Callable[[m.Message], None] = lambda message: None
        self._gateway = gateway
        self._run_dir = run_dir
        self._coordinators: dict[str, Site] = {}
        self._indexes: dict[Key, Site] = {}
        self._failed: dict[str, str] = {}
        self._creating: asyncio.Task[None] | None = None

    @property
    def running(self) -> list[str]:
        """The groups whose Coordinator is known to run here."""
        return list(self._coordinators)

    # What Node says

    def node_said(self, message: m.AnyMessage) -> None:
        """Who runs, and who has ended."""
        match message:
            case m.CoordinatorRunning(group=group):
                self._failed.pop(group, None)
                self._arrived(self._coordinators, group, message.incarnation, coordinator_socket(group))
            case m.CoordinatorStopped(group=group):
                self._ended(self._coordinators, group, message.incarnation)
                if message.cause:
                    self._failed[group] = message.cause
            case m.IndexRunning():
                key = (message.topic_id, message.partition)
                self._arrived(self._indexes, key, message.incarnation, index_socket(*key))
            case m.IndexStopped():
                self._ended(self._indexes, (message.topic_id, message.partition), message.incarnation)
            case _:
                return
        self._gateway.changed()

    def _arrived(self, sites: dict[str, Site] | dict[Key, Site], key: str | Key, incarnation: int, name: str) -> None:
        site: Site | None = sites.get(key)  # type: ignore[arg-type]
        if site is None or site.incarnation < incarnation:
            if site is not None:
                site.close()
            sites[key] = Site(incarnation, socket_path(self._run_dir, name))  # type: ignore[index]

    def _ended(self, sites: dict[str, Site] | dict[Key, Site], key: str | Key, incarnation: int) -> None:
        site: Site | None = sites.get(key)  # type: ignore[arg-type]
        if site is not None and site.incarnation <= incarnation:
            del sites[key]  # type: ignore[arg-type]
            site.close()

    async def _lane(self, site: Site) -> Lane | None:
        """The lane to it, dialled if need be; None if nobody is there."""
        if site.lane is not None:
            return site.lane
        if site.dialling is None:
            site.dialling = self._gateway.loop.create_task(self._dial(site))
        return await asyncio.shield(site.dialling)

    async def _dial(self, site: Site) -> Lane | None:
        try:
            lane = await dial(self._gateway.loop, site.path, on_closed=self._closed)
        except (OSError, LaneError):
            return None
        finally:
            site.dialling = None
        assert lane.peer is not None
        if site.leaving or lane.peer.incarnation != site.incarnation:
            lane.close("not the coordinator that was dialled")
            return None
        lane.requests_max = PARKED_MAX
        site.lane = lane
        return lane

    def _closed(self, lane: Lane, reason: str) -> None:
        """Most likely its process has ended; Node knows, and says so to whoever wants it."""
        for group in [group for group, site in self._coordinators.items() if site.lane is lane]:
            del self._coordinators[group]
        for site in self._indexes.values():
            if site.lane is lane:
                site.lane = None
        self._gateway.changed()

    def close(self) -> None:
        """Hang up everywhere."""
        for site in [*self._coordinators.values(), *self._indexes.values()]:
            site.close()

    # The offsets topic

    async def topic(self, deadline: Deadline) -> Topic:
        """``__consumer_offsets``, created when it is first needed. Raises ``KafkaError``."""
        topic = self._gateway.image.topic(OFFSETS_TOPIC)
        if topic is None:
            if self._creating is None:
                self._creating = self._gateway.loop.create_task(self._create())
            await asyncio.wait([self._creating], timeout=deadline.left)
            topic = self._gateway.image.topic(OFFSETS_TOPIC)
        if topic is None:
            raise CoordinatorNotAvailableError(f"{OFFSETS_TOPIC} does not exist yet")
        return topic

    async def _create(self) -> None:
        gateway, deadline = self._gateway, Deadline(CREATION_S)
        wanted = m.TopicToCreate(
            name=OFFSETS_TOPIC,
            partitions=gateway.config.groups.offsets_partitions,
            replication_factor=gateway.config.groups.offsets_replication_factor,
            configs=OFFSETS_CONFIGS,
        )
        try:
            message = m.CreateTopics(topics=[wanted], internal=True)
            reply = await ask_controller(gateway, message, m.TopicsChanged, deadline)
            code, reason = reply.results[0].code, reply.results[0].reason
            if code not in (0, TopicAlreadyExistsError.code):
                raise for_code(code)(reason)
            await until_applied(gateway, reply.committed, deadline)
            await until_running(gateway, [reply.results[0].topic_id], deadline)
        except CoordinatorNotAvailableError as early:
            # The cluster starts; clients come again.
            log.info("creating %s: %s", OFFSETS_TOPIC, early)
        except KafkaError as error:
            log.warning("creating %s: %s", OFFSETS_TOPIC, error)
        finally:
            self._creating = None

    async def home(self, group: str, deadline: Deadline) -> Key:
        """The offsets partition that holds this group; raises ``KafkaError`` unless this node leads it."""
        topic = await self.topic(deadline)
        return self._led(topic, partition_of(group, len(topic.partitions)))

    def node_of(self, topic: Topic, group: str) -> int:
        """The node that coordinates this group: the leader of its offsets partition."""
        number = partition_of(group, len(topic.partitions))
        node = topic.partitions[number].leader
        if not alive(self._gateway, node):
            raise CoordinatorNotAvailableError(f"{OFFSETS_TOPIC}-{number} has no leader")
        return node

    def _led(self, topic: Topic, partition: int) -> Key:
        gateway = self._gateway
        code = gateway.leader_code(topic.topic_id, partition)
        if code == NotLeaderOrFollowerError.code:
            raise NotCoordinatorError(f"{OFFSETS_TOPIC}-{partition} is not led by node {gateway.node}")
        if code or gateway.offline(topic.topic_id, partition):
            raise CoordinatorNotAvailableError(f"{OFFSETS_TOPIC}-{partition} has no leader")
        return topic.topic_id, partition

    # Asking

    async def ask(self, group: str, message: m.Message, expected: type[Reply], timeout_s: float) -> Reply:
        """The group's Coordinator's answer; it is started if need be. Raises ``KafkaError``.

        A request that a Coordinator refused because it is about to end goes to the next one; one whose Coordinator
        died is answered NOT_COORDINATOR, for it may have been carried out.
        """
        deadline = Deadline(START_S)
        while True:
            site, lane = await self._coordinator(group, deadline)
            try:
                return _checked(await self._request(lane, message, timeout_s), expected)
            except RefusedError as refused:
                if refused.code != NotCoordinatorError.code:
                    raise for_code(refused.code)(refused.reason) from refused
                site.leaving = True
            except LaneError as error:
                raise _as_kafka(error) from error

    async def _request(self, lane: Lane, message: m.Message, timeout_s: float) -> m.AnyMessage:
        if isinstance(message, PROMPT):
            return await self._gateway.suspicion.request(lane, message, timeout_s=timeout_s)
        return await lane.request(message, timeout_s=timeout_s)

    async def _coordinator(self, group: str, deadline: Deadline) -> tuple[Site, Lane]:
        gateway = self._gateway
        site = self._coordinators.get(group)
        if site is not None and not site.leaving and site.lane is not None:
            return site, site.lane
        topic_id, partition = await self.home(group, deadline)
        while deadline.left:
            site = self._coordinators.get(group)
            if site is not None and not site.leaving:
                lane = await self._lane(site)
                if lane is not None:
                    return site, lane
                if self._coordinators.get(group) is site:
                    del self._coordinators[group]
            self._failed.pop(group, None)
            self.tell_node(m.EnsureCoordinator(group=group, topic_id=topic_id, partition=partition))
            await gateway.wait_until(lambda: self._settled(group), min(REMIND_S, deadline.left))
            if group in self._failed:
                raise CoordinatorNotAvailableError(f"the coordinator of {group} cannot start: {self._failed[group]}")
        raise CoordinatorLoadInProgressError(f"the coordinator of {group} is starting")

    def _settled(self, group: str) -> bool:
        site = self._coordinators.get(group)
        return group in self._failed or (site is not None and not site.leaving)

    async def ask_reader(self, group: str, message: m.Message, expected: type[Reply], deadline: Deadline) -> Reply:
        """What the group's Coordinator answers if one runs, else the index: for what changes nothing."""
        site = self._coordinators.get(group)
        if site is not None and not site.leaving:
            lane = await self._lane(site)
            if lane is not None:
                try:
                    return _checked(await self._request(lane, message, deadline.left), expected)
                except RefusedError as refused:
                    if refused.code != NotCoordinatorError.code:
                        raise for_code(refused.code)(refused.reason) from refused
                except LaneClosed:
                    log.debug("the coordinator of %s ended; its index answers", group)
                except LaneError as error:
                    raise _as_kafka(error) from error
        return await self.ask_index(await self.home(group, deadline), message, expected, deadline)

    async def positions(self, message: m.FetchOffsets, deadline: Deadline) -> m.OffsetsFetched:
        """What the group has committed, never less than anybody had been told when this was asked.

        A host that was stopped or cut off goes on as if it coordinated, while another one acknowledges commits. So it
        is confirmed after the answer that this node has led the group's partition all the time. Raises ``KafkaError``.
        """
        epoch = await self._epoch(message.group, deadline)
        answer: m.OffsetsFetched
        if message.member_id is not None and message.member_epoch >= 0:
            answer = await self.ask(message.group, message, m.OffsetsFetched, deadline.left)
        else:
            answer = await self.ask_reader(message.group, message, m.OffsetsFetched, deadline)
        if not await self._gateway.confirming.confirm(deadline.left):
            raise CoordinatorNotAvailableError("whether this node still coordinates the group cannot be found out")
        if await self._epoch(message.group, deadline) != epoch:
            raise NotCoordinatorError("the group's partition has got another leader meanwhile")
        return answer

    async def _epoch(self, group: str, deadline: Deadline) -> int:
        state = self._gateway.image.partition(*await self.home(group, deadline))
        return -1 if state is None else state.leader_epoch

    async def ask_index(self, key: Key, message: m.Message, expected: type[Reply], deadline: Deadline) -> Reply:
        """The answer of this partition's group index; waits while it restarts. Raises ``KafkaError``."""
        while deadline.left:
            if not await self._gateway.wait_until(lambda: key in self._indexes, deadline.left):
                break
            site = self._indexes.get(key)
            if site is None:
                continue  # it came and went
            lane = await self._lane(site)
            if lane is None:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                return _checked(await self._request(lane, message, max(0.05, deadline.left)), expected)
            except LaneClosed:
                continue
            except RefusedError as refused:
                raise for_code(refused.code)(refused.reason) from refused
            except LaneError as error:
                raise _as_kafka(error) from error
        raise CoordinatorLoadInProgressError("the group index is starting")

    async def ask_all(self, message: m.ListGroups, deadline: Deadline) -> list[m.GroupEntry]:
        """Every group of this node's offsets partitions: what their indexes know, and running Coordinators better."""
        topic = self._gateway.image.topic(OFFSETS_TOPIC)
        if topic is None:
            return []
        gateway = self._gateway
        keys = [(topic.topic_id, one) for one in topic.partitions if not gateway.leader_code(topic.topic_id, one)]
        entries: dict[str, m.GroupEntry] = {}
        for key in keys:
            listed = await self.ask_index(key, message, m.GroupsListed, deadline)
            entries.update((entry.group, entry) for entry in listed.groups)

        async def ask_one(group: str) -> None:
            site = self._coordinators.get(group)
            lane = await self._lane(site) if site is not None and not site.leaving else None
            if lane is None:
                return
            try:
                reply = await self._request(lane, message, max(0.05, deadline.left))
            except LaneError:
                return  # what the index said stands
            if isinstance(reply, m.GroupsListed):
                entries.pop(group, None)
                entries.update((entry.group, entry) for entry in reply.groups)

        await asyncio.gather(*(ask_one(group) for group in self.running))
        return list(entries.values())


def _checked(reply: m.AnyMessage, expected: type[Reply]) -> Reply:
    if not isinstance(reply, expected):
        raise UnknownServerError(f"{type(reply).__name__} came where {expected.__name__} was due")
    return reply


def _as_kafka(error: LaneError) -> KafkaError:
    if isinstance(error, LaneTimeout):
        return CoordinatorNotAvailableError("the coordinator did not answer in time")
    if isinstance(error, LaneBusy):
        return CoordinatorLoadInProgressError("too many requests wait for the coordinator")
    return NotCoordinatorError("the coordinator ended during the request")
