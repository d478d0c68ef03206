"""Names that everybody who deals with consumer groups has to know alike. Pure."""

from __future__ import annotations

import hashlib

OFFSETS_TOPIC = "__consumer_offsets"


def partition_of(group: str, partitions: int) -> int:
    """The partition of the offsets topic that holds this group: Kafka's rule, Java's ``String.hashCode`` modulo."""
    code = 0
    data = group.encode("utf-16-be", "surrogatepass")
    for at in range(0, len(data), 2):
        code = (31 * code + (data[at] << 8) + data[at + 1]) & 0xFFFFFFFF
    # Java's int, and Kafka's Utils.abs: that of the smallest one is 0.
    signed = code - (1 << 32) if code & 0x80000000 else code
    return (0 if signed == -(1 << 31) else abs(signed)) % partitions


def coordinator_socket(group: str) -> str:
    """The name of the socket of this group's Coordinator: a group's id may hold anything, and be long."""
    return f"coordinator-{hashlib.sha256(group.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def index_socket(topic_id: str, partition: int) -> str:
    """The name of the socket of the group index of this offsets partition."""
    return f"index-{topic_id}-{partition}"
