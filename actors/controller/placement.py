"""Where the replicas of new partitions go. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def place(brokers: Sequence[int], partitions: int, replication_factor: int, placed: int) -> list[list[int]]:
    """Replicas for so many new partitions, the preferred leader first.

    Leaders go round the brokers, beginning where the cluster's ``placed`` existing partitions left off; the followers
    are the brokers after them, shifted by one more with each full round so that no pair of brokers shares everything
    (as Kafka's striped placement does).
    """
    ring = sorted(brokers)
    assert 1 <= replication_factor <= len(ring), "the caller has checked the replication factor"
    found = []
    for at in range(placed, placed + partitions):
        leader = at % len(ring)
        replicas = [ring[leader]]
        if replication_factor > 1:
            shift = at // len(ring) % (len(ring) - 1)
            for follower in range(replication_factor - 1):
                replicas.append(ring[(leader + 1 + (shift + follower) % (len(ring) - 1)) % len(ring)])
        found.append(replicas)
    return found
