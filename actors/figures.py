"""What the metadata log says of the cluster's health, as the console and Prometheus show it. Pure.

The names are those that existing dashboards ask for: of Kafka's JMX exporter for a node, and of kafka_exporter for the
cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from logeion.console.view import ClusterRow, Metric, NodeRow, PartitionRow

from .metadata import MetadataImage, MetadataRecord, PartitionChanged


class Figures:
    """What only a look at each change can count, since this process started."""

    isr_shrinks: int
    isr_expands: int
    elections: int
    unclean_elections: int

    def __init__(self, node: int) -> None:
        self.node = node
        self.isr_shrinks = self.isr_expands = self.elections = self.unclean_elections = 0

    def note(self, image: MetadataImage, record: MetadataRecord) -> None:
        """This record is about to be applied to the image. Each partition counts at the node that leads it."""
        if not isinstance(record, PartitionChanged):
            return
        before = image.partition(record.topic_id, record.partition)
        if before is None or record.leader != self.node:
            return
        self.isr_shrinks += bool(set(before.isr) - set(record.isr))
        self.isr_expands += bool(set(record.isr) - set(before.isr))
        if record.leader_epoch > before.leader_epoch:
            self.elections += 1
            self.unclean_elections += record.recovering and not before.recovering


def cluster_row(image: MetadataImage, quorum_leader: int) -> ClusterRow:
    """The cluster as the image has it; ``quorum_leader`` -1 is nobody."""
    leads = Counter(state.leader for state in image.partitions())
    nodes = [
        NodeRow(
            node=broker.node,
            host=broker.host,
            port=broker.port,
            rack=broker.rack,
            state=_state(image, broker.node),
            leads=leads[broker.node],
            replicas=len(image.partitions_of(broker.node)),
        )
        for broker in sorted(image.brokers.values(), key=lambda one: one.node)
    ]
    offline, under_replicated = image.offline(), image.under_replicated()
    healthy = quorum_leader >= 0 and not image.fenced and not offline and not under_replicated
    return ClusterRow(
        cluster_id=image.cluster_id,
        healthy=healthy,
        controller=quorum_leader if quorum_leader >= 0 else None,
        nodes=nodes,
        topics=len(image.topics),
        partitions=sum(leads.values()),
        offline=_rows(image, offline),
        under_min_isr=_rows(image, image.under_min_isr()),
        under_replicated=_rows(image, under_replicated),
        reassigning=_rows(image, image.reassigning()),
    )


def _state(image: MetadataImage, node: int) -> str:
    return "fenced" if node in image.fenced else "stopping" if node in image.shutting_down else "running"


def _rows(image: MetadataImage, partitions: Iterable[PartitionChanged]) -> list[PartitionRow]:
    rows = [
        PartitionRow(
            topic=image.topics[state.topic_id].name,
            partition=state.partition,
            leader=state.leader if state.leader >= 0 else None,
            replicas=state.replicas,
            in_sync=state.isr,
            eligible=state.elr,
        )
        for state in partitions
    ]
    return sorted(rows, key=lambda row: (row.topic, row.partition))


def node_metrics(image: MetadataImage, figures: Figures, quorum_leader: int) -> list[Metric]:
    """This node's figures. Counts of the whole cluster come from the active controller, as in Kafka, else 0."""
    node = figures.node
    active = node == quorum_leader
    here = image.partitions_of(node)
    led = [state for state in here if state.leader == node]
    led_keys = {(state.topic_id, state.partition) for state in led}
    under = [state for state in image.under_replicated() if state.leader == node]
    under_min = {(state.topic_id, state.partition) for state in image.under_min_isr()} & led_keys
    manager, controller = "kafka_server_replicamanager", "kafka_controller_kafkacontroller"
    brokers = image.brokers if active else {}
    return [
        _gauge(f"{manager}_leadercount", "partitions led here", len(led)),
        _gauge(f"{manager}_partitioncount", "replicas here", len(here)),
        _gauge(f"{manager}_underreplicatedpartitions", "led here, with replicas out of sync", len(under)),
        _gauge(f"{manager}_underminisrpartitioncount", "led here, refusing acks=all", len(under_min)),
        _gauge(
            f"{manager}_reassigningpartitions", "led here, being moved", sum(bool(s.adding or s.removing) for s in led)
        ),
        _counter(
            f"{manager}_isrshrinks_total", "times that a replica left the ISR of what is led here", figures.isr_shrinks
        ),
        _counter(f"{manager}_isrexpands_total", "times that a replica joined it", figures.isr_expands),
        _counter("logeion_leader_elections_total", "elections that this node has won", figures.elections),
        _counter(
            "kafka_controller_controllerstats_uncleanleaderelections_total",
            "elections of this node though it may miss records",
            figures.unclean_elections,
        ),
        Metric(
            "kafka_cluster_partition_underminisr",
            "gauge",
            "whether a partition led here refuses acks=all",
            [(_named(image, state), (state.topic_id, state.partition) in under_min) for state in led],
        ),
        Metric(
            "kafka_cluster_partition_replicascount",
            "gauge",
            "replicas of a partition led here",
            [(_named(image, state), len(state.replicas)) for state in led],
        ),
        _gauge(f"{controller}_activecontrollercount", "1 on the node that leads the metadata quorum", active),
        _gauge(f"{controller}_offlinepartitionscount", "partitions without a leader", len(image.offline()) * active),
        _gauge(f"{controller}_globaltopiccount", "topics", len(image.topics) * active),
        _gauge(f"{controller}_globalpartitioncount", "partitions", sum(1 for _ in image.partitions()) * active),
        _gauge(f"{controller}_activebrokercount", "nodes that are not fenced", len(brokers.keys() - image.fenced)),
        _gauge(f"{controller}_fencedbrokercount", "nodes that are fenced", len(brokers.keys() & image.fenced)),
        _gauge(
            "kafka_server_raftmetrics_current_leader", "who leads the metadata quorum, -1 for nobody", quorum_leader
        ),
    ]


def cluster_metrics(image: MetadataImage) -> list[Metric]:
    """What kafka_exporter would tell of topics and brokers, as far as metadata goes."""
    states = [
        (_named(image, state), state)
        for topic in sorted(image.topics.values(), key=lambda one: one.name)
        for _, state in sorted(topic.partitions.items())
    ]
    missing = {(state.topic_id, state.partition) for state in image.under_replicated()}
    alive = [broker for broker in image.brokers.values() if broker.node not in image.fenced]
    prefix = "kafka_topic_partition"
    return [
        _gauge("kafka_brokers", "nodes that are not fenced", len(alive)),
        Metric(
            "kafka_broker_info",
            "gauge",
            "1 for each of them",
            [({"id": str(one.node), "address": f"{one.host}:{one.port}"}, 1) for one in alive],
        ),
        Metric(
            "kafka_topic_partitions",
            "gauge",
            "partitions of a topic",
            [({"topic": topic.name}, len(topic.partitions)) for topic in image.topics.values()],
        ),
        Metric(f"{prefix}_leader", "gauge", "the leader's node", [(name, state.leader) for name, state in states]),
        Metric(f"{prefix}_replicas", "gauge", "replicas", [(name, len(state.replicas)) for name, state in states]),
        Metric(f"{prefix}_in_sync_replica", "gauge", "in sync", [(name, len(state.isr)) for name, state in states]),
        Metric(
            f"{prefix}_leader_is_preferred",
            "gauge",
            "whether the first replica leads",
            [(name, state.leader == state.replicas[0]) for name, state in states],
        ),
        Metric(
            f"{prefix}_under_replicated_partition",
            "gauge",
            "whether replicas are out of sync",
            [(name, (state.topic_id, state.partition) in missing) for name, state in states],
        ),
    ]


def _named(image: MetadataImage, state: PartitionChanged) -> dict[str, str]:
    return {"topic": image.topics[state.topic_id].name, "partition": str(state.partition)}


def _gauge(name: str, doc: str, value: float) -> Metric:
    return Metric(name, "gauge", doc, [({}, value)])


def _counter(name: str, doc: str, value: float) -> Metric:
    return Metric(name, "counter", doc, [({}, value)])
