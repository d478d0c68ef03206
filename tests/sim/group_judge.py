"""What must hold of groups in a cluster. The judge reads the offsets partitions' truth and what clients were answered.

Each commit carries a label that nobody else's has: of which generation or member epoch, by whom, and a number. So each
committed record and each fetched position tells whose it is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from logeion.actors import messages as m
from logeion.actors.coordinator.records import (
    ClassicValue,
    GroupKey,
    GroupRecord,
    MemberKey,
    MemberValue,
    OffsetKey,
    OffsetValue,
    decode,
)
from logeion.actors.groups import OFFSETS_TOPIC
from logeion.wire.batch import read_header
from logeion.wire.records import batch_records
from tests.sim.engine import Violated
from tests.sim.logview import Batch

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Key, Truth
    from tests.sim.world import World

Place = tuple[str, int]


class Group:
    """What the log says of one, so far."""

    def __init__(self) -> None:
        self.generation = -1
        # Members of a consumer group (KIP-848), and the epoch of each.
        self.members: dict[str, int] = {}
        # By partition: the labels of all commits in their order, and the newest position, whose it is and its number.
        self.commits: dict[Place, dict[str, int]] = {}
        self.positions: dict[Place, tuple[int, str, int]] = {}
        # By partition: how many commits there were up to the newest that was acknowledged.
        self.acked: dict[Place, int] = {}
        self.generations: dict[int, frozenset[str]] = {}
        # Who owns, and who has committed, a partition in a generation.
        self.owners: dict[tuple[int, int], str] = {}


class GroupJudge:
    """Told by the world; raises ``Violated``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.groups: dict[str, Group] = {}
        self.acks = self.fetches = 0
        self._read: dict[Key, int] = {}
        # By a batch's bytes: in which epochs, by which writers and incarnations it was sent.
        self._senders: dict[bytes, list[tuple[int, str, int]]] = {}
        self._opening: dict[Any, m.OpenWriter] = {}
        # By partition, epoch and writer: which incarnation opened a session, and where the log ended.
        self._sessions: dict[tuple[Key, int, str], list[tuple[int, int]]] = {}

    def group(self, name: str) -> Group:
        """Known or not."""
        return self.groups.setdefault(name, Group())

    # Writers

    def appending(self, epoch: int, writer: str, incarnation: int, payload: bytes) -> None:
        """A Coordinator's append has come to a leader."""
        self._senders.setdefault(payload[16:], []).append((epoch, writer, incarnation))

    def opening(self, ticket: Any, message: m.OpenWriter) -> None:
        """A Coordinator asks a leader for a session."""
        self._opening[ticket] = message

    def opened(self, ticket: Any, key: Key, end: int) -> None:
        """It is told that it has one: nothing of its predecessors comes at or after ``end``."""
        message = self._opening.pop(ticket)
        self._sessions.setdefault((key, message.epoch, message.writer), []).append((message.incarnation, end))

    def _check_writer(self, truth: Truth, batch: Batch) -> None:
        senders = [one for one in self._senders.get(batch.body, ()) if one[0] == batch.epoch]
        for _, writer, incarnation in senders:
            sessions = self._sessions.get((truth.key, batch.epoch, writer), [])
            before = [opened for opened, end in sessions if end <= batch.base]
            if incarnation in before and incarnation == max(before):
                return
        raise Violated(
            f"a dead coordinator's late append: {truth.directory} holds at {batch.base} a batch of epoch "
            f"{batch.epoch} by {senders}, who has no session there then"
        )

    # The log

    def committed(self, truth: Truth) -> None:
        """The truth of a partition has grown."""
        if not truth.directory.startswith(OFFSETS_TOPIC):
            return
        at = self._read.get(truth.key, 0)
        while (batch := truth.batches.get(at)) is not None:
            self._check_writer(truth, batch)
            data = memoryview(struct.pack(">qii", batch.base, len(batch.body) + 4, batch.epoch) + batch.body)
            for record in batch_records(data, read_header(data), max_bytes=1_048_576):
                assert record.key is not None
                self._apply(decode(record.key, record.value))
            at = batch.next
        self._read[truth.key] = at

    def _apply(self, record: GroupRecord) -> None:
        group, value = self.group(record.key.group), record.value
        match record.key:
            case GroupKey():
                if isinstance(value, ClassicValue):
                    if value.generation < group.generation:
                        raise Violated(f"{record.key.group}: from generation {group.generation} to {value.generation}")
                    group.generation = value.generation
            case MemberKey(member_id=member):
                if isinstance(value, MemberValue):
                    group.members[member] = value.member_epoch
                else:
                    group.members.pop(member, None)
            case OffsetKey() as key if isinstance(value, OffsetValue):
                self._commit(group, key, value)

    def _commit(self, group: Group, key: OffsetKey, value: OffsetValue) -> None:
        place = (key.topic, key.partition)
        epoch, member, identity, number = value.metadata.split("|")
        generation, where = int(epoch), f"{key.group}: a commit of {key.topic}-{key.partition}"
        if member and group.generation >= 0:
            if generation != group.generation:
                raise Violated(f"{where} of generation {generation} by {identity} follows {group.generation}'s begin")
            owner = group.owners.setdefault((generation, key.partition), identity)
            if owner != identity:
                raise Violated(f"{where} in generation {generation} by {identity}, and {owner} owns it")
        elif member and generation != group.members.get(member):
            raise Violated(
                f"{where} of the epoch {generation} by {member}, whose epoch is {group.members.get(member)} by then"
            )
        before, own, last = group.positions.get(place, (-1, "", 0))
        # A commit that a member gave up waiting for may come after its next one.
        if value.offset < before and not (own == f"{epoch}|{member}" and int(number) < last):
            raise Violated(f"{where} by {identity} went from {before} to {value.offset}")
        group.positions[place] = (value.offset, f"{epoch}|{member}", int(number))
        commits = group.commits.setdefault(place, {})
        commits[value.metadata] = len(commits) + 1

    # Clients

    def acknowledged(self, request: m.CommitOffsets) -> None:
        """A client was told that its commit is done."""
        self.acks += 1
        group = self.group(request.group)
        for one in request.offsets:
            place = (one.topic, one.partition)
            number = group.commits.get(place, {}).get(one.metadata)
            if number is None:
                raise Violated(f"{request.group}: the acknowledged commit {one} is not in the log")
            group.acked[place] = max(group.acked.get(place, 0), number)

    def floor(self, name: str) -> Mapping[Place, int]:
        """What a fetch that is asked now may not be older than."""
        return dict(self.group(name).acked)

    def fetched(self, name: str, floor: Mapping[Place, int], answer: m.OffsetsFetched) -> None:
        """Somebody asked at the time of ``floor`` what is committed, and is told this."""
        self.fetches += 1
        group = self.group(name)
        for one in answer.offsets:
            place = (one.topic, one.partition)
            number = group.commits.get(place, {}).get(one.metadata) if one.offset >= 0 else 0
            if number is None:
                raise Violated(f"{name}: fetched {one}, which nobody has committed")
            if number < floor.get(place, 0):
                newer = list(group.commits[place])[floor[place] - 1]
                raise Violated(f"{name}: fetched {one}, and {newer} was acknowledged before")

    def led(self, name: str, generation: int, members: frozenset[str]) -> None:
        """A leader is told who its generation is."""
        known = self.group(name).generations.setdefault(generation, members)
        if known != members:
            raise Violated(f"{name}: generation {generation} began twice: {sorted(known)} and {sorted(members)}")

    def assigned(self, name: str, generation: int, member: str, partitions: bytes) -> None:
        """A member of a classic generation is told what it owns."""
        owners = self.group(name).owners
        for partition in partitions:
            owner = owners.setdefault((generation, partition), member)
            if owner != member:
                raise Violated(f"{name}: {owner} and {member} both own {partition} in generation {generation}")
