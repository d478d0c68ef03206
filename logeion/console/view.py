"""What the console may look at. The node implements it; the console asks, and changes nothing."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec


class ActorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One actor, as ``logeion actors -o json`` shows it; fields are only ever added.

    ``kind`` is ``supervisor node controller gateway partition replica coordinator``, ``id`` unique and stable over
    restarts, ``state`` one of ``starting running stopping failed``; ``pid`` is null while there is no process.
    """

    kind: str
    id: str
    node: int
    pid: int | None
    topic: str | None
    partition: int | None
    epoch: int | None
    state: str
    restarts: int
    cause: str = ""


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the cluster; ``state`` is one of ``running fenced stopping``."""

    node: int
    host: str
    port: int
    rack: str | None
    state: str
    leads: int
    replicas: int


class PartitionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A partition that something is wrong with; ``leader`` is null while nobody leads it."""

    topic: str
    partition: int
    leader: int | None
    replicas: list[int]
    in_sync: list[int]
    eligible: list[int]


class ClusterRow(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as this node knows it; ``controller`` is null while nobody leads the metadata quorum.

    ``healthy``: somebody does, no node is fenced, and every partition has a leader and all of its replicas in sync.
    """

    cluster_id: str
    healthy: bool
    controller: int | None
    nodes: list[NodeRow]
    topics: int
    partitions: int
    offline: list[PartitionRow]
    under_min_isr: list[PartitionRow]
    under_replicated: list[PartitionRow]
    reassigning: list[PartitionRow]


class Metric(msgspec.Struct, frozen=True):
    """One Prometheus metric: its samples are (labels, value)."""

    name: str
    kind: Literal["gauge", "counter"]
    doc: str
    samples: list[tuple[dict[str, str], float]]


class View(Protocol):
    """A node at this moment."""

    @property
    def node(self) -> int:
        """Its id."""

    def actors(self) -> list[ActorRow]:
        """All actors of this host, the supervisor first."""

    def unready(self) -> list[str]:
        """Why clients cannot be served; empty when they can."""

    def cluster(self) -> ClusterRow:
        """The cluster by the metadata log."""

    def metrics(self) -> list[Metric]:
        """This node's own figures."""

    def cluster_metrics(self) -> list[Metric]:
        """The cluster's figures, which every node knows: to be scraped from one of them."""
