"""What a coordinator writes to ``__consumer_offsets``: keys and values, as msgpack.

A key is compacted to its newest value; no value is a tombstone. The bytes are ours, not Kafka's: nobody but a
coordinator reads them, and tagged structs may grow fields (decision 0005).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..messages import GroupProtocol, TopicPartitions


class GroupKey(msgspec.Struct, frozen=True, tag="g", array_like=True, gc=False):
    """The group as a whole: what kind it is, its generation or epoch, a classic group's members."""

    group: str


class OffsetKey(msgspec.Struct, frozen=True, tag="o", array_like=True, gc=False):
    """One committed position of a group."""

    group: str
    topic: str
    partition: int


class MemberKey(msgspec.Struct, frozen=True, tag="m", array_like=True, gc=False):
    """One member of a consumer group (KIP-848)."""

    group: str
    member_id: str


Key = GroupKey | OffsetKey | MemberKey


class OffsetValue(msgspec.Struct, frozen=True, kw_only=True, tag="o", omit_defaults=True, gc=False):
    """A position; the commit time starts its retention, and it goes when the topic of this id goes."""

    offset: int
    commit_time_ms: int
    leader_epoch: int = -1
    metadata: str = ""
    topic_id: str = ""


class SavedMember(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One member of a classic generation."""

    member_id: str
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: list[GroupProtocol]
    instance_id: str | None = None
    assignment: bytes = b""


class ClassicValue(msgspec.Struct, frozen=True, kw_only=True, tag="c", omit_defaults=True, gc=False):
    """A classic generation: written when its members are complete, and again with their assignments.

    Kafka writes only the second; the first keeps a generation number from being given out twice across a crash.
    """

    generation: int
    protocol_type: str
    time_ms: int
    protocol: str | None = None
    leader: str = ""
    assigned: bool = False
    members: list[SavedMember] = []


class ConsumerValue(msgspec.Struct, frozen=True, kw_only=True, tag="n", omit_defaults=True, gc=False):
    """A consumer group's epochs, and the target assignment by member of ``assignment_epoch``."""

    group_epoch: int
    assignment_epoch: int
    time_ms: int
    assignor: str = "uniform"
    targets: dict[str, list[TopicPartitions]] = {}
    topics: dict[str, tuple[str, int]] = {}


class MemberValue(msgspec.Struct, frozen=True, kw_only=True, tag="m", omit_defaults=True, gc=False):
    """A consumer group's member: what it subscribes to, where it stands, what it owns and still has to give up."""

    member_epoch: int
    previous_epoch: int
    client_id: str
    client_host: str
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    subscribed_topics: list[str] = []
    subscribed_regex: str | None = None
    assignor: str | None = None
    owned: list[TopicPartitions] = []
    revoking: list[TopicPartitions] = []


Value = OffsetValue | ClassicValue | ConsumerValue | MemberValue


class GroupRecord(msgspec.Struct, frozen=True, gc=False):
    """One record of the offsets topic; ``value`` None is a tombstone."""

    key: Key
    value: Value | None


_encoder = msgspec.msgpack.Encoder()
_keys: msgspec.msgpack.Decoder[Key] = msgspec.msgpack.Decoder(Key)
_values: msgspec.msgpack.Decoder[Value] = msgspec.msgpack.Decoder(Value)


def encode(record: GroupRecord) -> tuple[bytes, bytes | None]:
    """The record's key and value as they are stored."""
    return _encoder.encode(record.key), None if record.value is None else _encoder.encode(record.value)


def decode_key(key: bytes | memoryview) -> Key:
    """Raises ``msgspec.DecodeError`` on bytes no coordinator wrote."""
    return _keys.decode(key)


def decode_value(value: bytes | memoryview) -> Value:
    """Raises ``msgspec.DecodeError`` on bytes no coordinator wrote."""
    return _values.decode(value)


def decode(key: bytes | memoryview, value: bytes | memoryview | None) -> GroupRecord:
    """The record back; raises ``msgspec.DecodeError`` on bytes no coordinator wrote."""
    return GroupRecord(_keys.decode(key), None if value is None else _values.decode(value))


_packed: msgspec.msgpack.Decoder[list[tuple[bytes, bytes]]] = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


def pack(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Stored keys and values on their way from a group index to a Coordinator."""
    return _encoder.encode(list(records))


def unpack(data: bytes | memoryview) -> list[GroupRecord]:
    """What ``pack`` packed, decoded; raises ``msgspec.DecodeError`` on anything else."""
    return [decode(key, value) for key, value in _packed.decode(data)]
