"""Whether a cluster is well: what an operator's eye looks for first. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from .operations import ClusterState, NodeState, PartitionState


class Health(msgspec.Struct, frozen=True):
    """The verdict. A cluster is healthy if somebody leads its metadata quorum, every node is there and answers, and
    every partition has a leader and all of its replicas in sync (what a reassignment still adds does not count)."""

    cluster_id: str | None
    controller: int | None
    nodes: tuple[NodeState, ...]
    topics: int
    partitions: int
    fenced: tuple[int, ...]
    silent: tuple[int, ...]
    offline: tuple[PartitionState, ...]
    under_min_isr: tuple[PartitionState, ...]
    under_replicated: tuple[PartitionState, ...]

    @property
    def healthy(self) -> bool:
        return self.controller is not None and not (self.fenced or self.silent or self.offline or self.under_replicated)

    @property
    def problems(self) -> list[str]:
        """One line each, the worst first."""
        found = []
        if self.controller is None:
            found.append("nobody leads the metadata quorum: nothing can be created, changed or elected")
        found += [f"node {node} is fenced: it is away, or not yet back" for node in self.fenced]
        found += [
            f"node {one.node} does not answer at {one.host}:{one.port}" for one in self.nodes if one.node in self.silent
        ]
        found += [f"{_name(one)} has no leader" for one in self.offline]
        found += [
            f"{_name(one)} refuses acks=all: in sync are {_nodes(one.in_sync)} of {_nodes(one.replicas)}"
            for one in self.under_min_isr
            if one.leader >= 0
        ]
        refusing = {(one.topic, one.partition) for one in self.under_min_isr}
        found += [
            f"{_name(one)} is under-replicated: in sync are {_nodes(one.in_sync)} of {_nodes(one.replicas)}"
            for one in self.under_replicated
            if one.leader >= 0 and (one.topic, one.partition) not in refusing
        ]
        return found


def judge(
    cluster: ClusterState,
    controller: int | None,
    partitions: Sequence[PartitionState],
    min_in_sync: Mapping[str, int],
    adding: Mapping[tuple[str, int], int],
    silent: Collection[int] = (),
) -> Health:
    """``controller`` None is nobody; ``adding`` counts the replicas that a reassignment under way adds; ``silent`` are
    nodes that did not answer, though they should."""

    def wanted(one: PartitionState) -> int:
        return len(one.replicas) - adding.get((one.topic, one.partition), 0)

    return Health(
        cluster_id=cluster.cluster_id,
        controller=controller,
        nodes=cluster.nodes,
        topics=len({one.topic for one in partitions}),
        partitions=len(partitions),
        fenced=tuple(node.node for node in cluster.nodes if node.fenced),
        silent=tuple(sorted(silent)),
        offline=tuple(one for one in partitions if one.leader < 0),
        under_min_isr=tuple(
            one for one in partitions if len(one.in_sync) < min(min_in_sync.get(one.topic, 1), len(one.replicas))
        ),
        under_replicated=tuple(one for one in partitions if len(one.in_sync) < wanted(one)),
    )


def _name(one: PartitionState) -> str:
    return f"{one.topic}-{one.partition}"


def _nodes(nodes: Sequence[int]) -> str:
    return ",".join(map(str, nodes)) or "none"
