"""Where the replicas of new partitions go. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_NO_RACKS: Mapping[int, str | None] = {}


def place(
    brokers: Sequence[int],
    partitions: int,
    replication_factor: int,
    placed: int,
    racks: Mapping[int, str | None] = _NO_RACKS,
) -> list[list[int]]:
    """Replicas for so many new partitions, the preferred leader first.

    Leaders go round the brokers, beginning where the cluster's ``placed`` existing partitions left off; the followers
    are the brokers after them, shifted by one more with each full round so that no pair of brokers shares everything
    (as Kafka's striped placement does). With ``racks``, neighbours are on different racks, and no rack gets a second
    replica while there is one without (KIP-36); a broker whose rack is not known counts as a rack of its own.
    """
    ring = _alternating(sorted(brokers), racks)
    assert 1 <= replication_factor <= len(ring), "the caller has checked the replication factor"
    found = []
    for at in range(placed, placed + partitions):
        leader = at % len(ring)
        shift = at // len(ring) % max(len(ring) - 1, 1)
        others = len(ring) - 1
        followers = [ring[(leader + 1 + (shift + step) % others) % len(ring)] for step in range(others)]
        found.append(_spread(ring[leader], followers, replication_factor, racks))
    return found


def _spread(
    leader: int, followers: Sequence[int], replication_factor: int, racks: Mapping[int, str | None]
) -> list[int]:
    """The leader and the first of these followers, each time one on the racks that have the fewest replicas."""
    replicas = [leader]
    left = list(followers)
    used = {_rack(leader, racks): 1}
    while len(replicas) < replication_factor:
        follower = min(left, key=lambda node: used.get(_rack(node, racks), 0))
        left.remove(follower)
        replicas.append(follower)
        used[_rack(follower, racks)] = used.get(_rack(follower, racks), 0) + 1
    return replicas


def _alternating(brokers: Sequence[int], racks: Mapping[int, str | None]) -> list[int]:
    """The brokers in an order in which neighbours are on different racks, as far as that goes."""
    by_rack: dict[str | int, list[int]] = {}
    for node in brokers:
        by_rack.setdefault(_rack(node, racks), []).append(node)
    ring: list[int] = []
    for row in range(max(map(len, by_rack.values()), default=0)):
        ring += (nodes[row] for nodes in by_rack.values() if row < len(nodes))
    return ring


def _rack(node: int, racks: Mapping[int, str | None]) -> str | int:
    rack = racks.get(node)
    return node if rack is None else rack
