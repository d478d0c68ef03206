"""Who reads which partitions: what the leader of a classic group computes, and how it travels. Pure.

The embedded formats are Kafka's ConsumerProtocolSubscription (versions 0 to 3) and ConsumerProtocolAssignment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from logeion.wire.errors import WireError

from .positions import TopicPartition

Assignment = dict[str, list[TopicPartition]]
COUNT_MAX = 1_000_000


class Subscription(NamedTuple):
    """What a member wants, what it holds now, and since which generation (-1: it does not say)."""

    topics: tuple[str, ...]
    owned: tuple[TopicPartition, ...] = ()
    generation: int = -1
    instance_id: str | None = None


def encode_subscription(subscription: Subscription) -> bytes:
    """In version 3."""
    topics = sorted(subscription.topics)
    pieces = [struct.pack(">hi", 3, len(topics)), *(_text(name) for name in topics), struct.pack(">i", -1)]
    pieces += [_partitions(subscription.owned), struct.pack(">ih", subscription.generation, -1)]
    return b"".join(pieces)


def decode_subscription(data: bytes, instance_id: str | None = None) -> Subscription:
    """Raises WireError."""
    reader = _Reader(data)
    version = reader.int16()
    topics = tuple(reader.text() for _ in range(reader.count()))
    reader.skip_bytes()
    owned = tuple(reader.partitions()) if version >= 1 else ()
    generation = reader.int32() if version >= 2 else -1
    return Subscription(topics, owned, generation, instance_id)


def encode_assignment(partitions: Iterable[TopicPartition]) -> bytes:
    """In version 0, which every client reads."""
    return struct.pack(">h", 0) + _partitions(partitions) + struct.pack(">i", -1)


def decode_assignment(data: bytes) -> list[TopicPartition]:
    """Nothing for no bytes. Raises WireError."""
    if not data:
        return []
    reader = _Reader(data)
    reader.int16()
    return sorted(reader.partitions())


def range_assign(members: Mapping[str, Subscription], counts: Mapping[str, int]) -> Assignment:
    """Kafka's "range": each topic by itself, in runs of neighbours; the first members get the larger runs."""
    given: Assignment = {member: [] for member in members}
    for topic in sorted({name for one in members.values() for name in one.topics}):
        readers = [member for member in _in_order(members) if topic in members[member].topics]
        each, more = divmod(counts.get(topic, 0), len(readers))
        at = 0
        for number, member in enumerate(readers):
            size = each + (number < more)
            given[member] += [TopicPartition(topic, index) for index in range(at, at + size)]
            at += size
    return given


def sticky_assign(members: Mapping[str, Subscription], counts: Mapping[str, int]) -> Assignment:
    """As even as subscriptions allow, moving as little as that takes."""
    order = _in_order(members)
    wanted = {member: set(members[member].topics) for member in members}
    all_partitions = [
        TopicPartition(topic, index)
        for topic in sorted({name for names in wanted.values() for name in names})
        for index in range(counts.get(topic, 0))
    ]
    exists = set(all_partitions)
    owner: dict[TopicPartition, str] = {}
    # Of two that claim one partition, the one of the later generation had it last.
    for member in sorted(order, key=lambda name: members[name].generation):
        for tp in members[member].owned:
            if tp in exists and tp.topic in wanted[member]:
                owner[tp] = member
    loads = dict.fromkeys(order, 0)
    for member in owner.values():
        loads[member] += 1
    for tp in all_partitions:
        if tp not in owner:
            taker = min((member for member in order if tp.topic in wanted[member]), key=lambda name: loads[name])
            owner[tp] = taker
            loads[taker] += 1
    moved = True
    while moved:
        moved = False
        for tp in reversed(all_partitions):
            taker = min((member for member in order if tp.topic in wanted[member]), key=lambda name: loads[name])
            if loads[taker] + 1 < loads[owner[tp]]:
                loads[owner[tp]] -= 1
                loads[taker] += 1
                owner[tp] = taker
                moved = True
    given: Assignment = {member: [] for member in members}
    for tp in all_partitions:
        given[owner[tp]].append(tp)
    return given


def cooperative_assign(members: Mapping[str, Subscription], counts: Mapping[str, int]) -> Assignment:
    """Kafka's "cooperative-sticky" (KIP-429): a partition that moves is withheld until who holds it has let it go."""
    given = sticky_assign(members, counts)
    holders: dict[TopicPartition, set[str]] = {}
    newest = max((one.generation for one in members.values()), default=-1)
    for member, one in members.items():
        if one.generation in (-1, newest):
            for tp in one.owned:
                holders.setdefault(tp, set()).add(member)
    return {member: [tp for tp in tps if holders.get(tp, {member}) <= {member}] for member, tps in given.items()}


ASSIGNORS = {"range": range_assign, "cooperative-sticky": cooperative_assign}


def _in_order(members: Mapping[str, Subscription]) -> Sequence[str]:
    """Static members by instance id first, so that a restart changes nothing."""
    return sorted(members, key=lambda name: (members[name].instance_id is None, members[name].instance_id or name))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def _partitions(partitions: Iterable[TopicPartition]) -> bytes:
    topics: dict[str, list[int]] = {}
    for topic, index in partitions:
        topics.setdefault(topic, []).append(index)
    pieces = [struct.pack(">i", len(topics))]
    for topic, indexes in topics.items():
        pieces += [_text(topic), struct.pack(f">i{len(indexes)}i", len(indexes), *indexes)]
    return b"".join(pieces)


class _Reader:
    """Big-endian fields of bytes another member sent. Raises WireError for what does not fit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, layout: str) -> int:
        try:
            (value,) = struct.unpack_from(layout, self._data, self._at)
        except struct.error:
            raise WireError("a group member's subscription or assignment ends too early") from None
        self._at += struct.calcsize(layout)
        return int(value)

    def int16(self) -> int:
        return self._take(">h")

    def int32(self) -> int:
        return self._take(">i")

    def count(self) -> int:
        count = self.int32()
        if not 0 <= count <= min(COUNT_MAX, len(self._data) - self._at):
            raise WireError(f"a group member's subscription or assignment claims {count} entries")
        return count

    def text(self) -> str:
        size = self.int16()
        data = self._data[self._at : self._at + max(size, 0)]
        if size < 0 or len(data) < size:
            raise WireError("a group member's subscription or assignment ends too early")
        self._at += size
        try:
            return bytes(data).decode()
        except UnicodeDecodeError:
            raise WireError("a group member's topic name is not text") from None

    def skip_bytes(self) -> None:
        size = self.int32()
        if size > len(self._data) - self._at:
            raise WireError("a group member's subscription or assignment ends too early")
        self._at += max(size, 0)

    def partitions(self) -> list[TopicPartition]:
        found = []
        for _ in range(self.count()):
            topic = self.text()
            found += [TopicPartition(topic, self.int32()) for _ in range(self.count())]
        return found
