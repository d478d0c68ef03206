"""Which member a consumer becomes in its group, by its settings."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from logeion.wire.errors import ConfigError

from .classic_member import ClassicMember
from .cluster import Cluster
from .consumer import Consumer
from .consumer_member import ConsumerMember
from .consumer_membership import ConsumerMembership
from .member import Callback, GroupMember
from .membership import Membership

# Settings that the broker decides under KIP-848.
CLASSIC_ONLY = ("partition_assignment_strategy", "session_timeout_ms", "heartbeat_interval_ms")


def member_of(
    cluster: Cluster,
    consumer: Consumer,
    group: str,
    topics: Sequence[str],
    taken: Mapping[str, Any],
    callbacks: tuple[Callback | None, Callback | None, Callback | None],
) -> GroupMember:
    """By the protocol that the settings name. Raises ConfigError."""
    protocol = taken.get("group_protocol", "classic")
    options: dict[str, Any] = {
        "heartbeat_s": taken.get("heartbeat_interval_ms", 3000) / 1000,
        "commit_s": taken.get("auto_commit_interval_ms", 5000) / 1000,
        "auto_commit": taken.get("enable_auto_commit", True),
        "reset": taken.get("auto_offset_reset", "latest"),
        "callbacks": callbacks,
    }
    instance_id, poll_ms = taken.get("group_instance_id"), taken.get("max_poll_interval_ms", 300_000)
    if protocol == "consumer":
        for name in CLASSIC_ONLY:
            if name in taken:
                raise ConfigError(f"{name} is the broker's with group_protocol='consumer': leave it out")
        newer = ConsumerMembership(
            group,
            topics,
            member_id=str(uuid.uuid4()),
            instance_id=instance_id,
            rebalance_timeout_ms=poll_ms,
            assignor=taken.get("group_remote_assignor"),
        )
        return ConsumerMember(cluster, newer, consumer, **options)
    classic = Membership(
        group,
        topics,
        assignors=taken.get("partition_assignment_strategy", ("range", "cooperative-sticky")),
        instance_id=instance_id,
        session_timeout_ms=taken.get("session_timeout_ms", 45_000),
        rebalance_timeout_ms=poll_ms,
    )
    return ClassicMember(cluster, classic, consumer, **options)
