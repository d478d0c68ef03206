from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from logeion.actors.figures import Figures, cluster_metrics, cluster_row, node_metrics
from logeion.actors.metadata import BrokerChanged, ConfigChanged, MetadataImage, PartitionChanged
from logeion.console.metrics import render
from tests.actors.gateway_world import ORDERS, RECORDS, partition


def world() -> MetadataImage:
    """Orders 0 is led by node 1, orders 1 by node 2, orders 2 by nobody; only the leader is in sync anywhere."""
    image = MetadataImage()
    image.apply_all(RECORDS)
    return image


def in_sync(state: PartitionChanged, *isr: int) -> PartitionChanged:
    return msgspec.structs.replace(state, isr=list(isr))


def whole() -> MetadataImage:
    image = world()
    image.apply_all([in_sync(state, 1, 2) for state in list(image.partitions())])
    image.apply(in_sync(partition(ORDERS, 2, leader=2), 1, 2))
    return image


def test_what_is_wrong_is_named() -> None:
    image = world()
    image.apply(ConfigChanged(resource="topic", name="orders", key="min.insync.replicas", value="2"))
    image.apply(msgspec.structs.replace(in_sync(partition(ORDERS, 1, leader=2), 1, 2), replicas=[1, 2, 3], adding=[3]))
    row = cluster_row(image, -1)
    assert (row.healthy, row.controller, row.topics, row.partitions) == (False, None, 2, 4)
    assert [(one.topic, one.partition, one.leader) for one in row.offline] == [("orders", 2, None)]
    assert [(one.topic, one.partition) for one in row.under_min_isr] == [("orders", 0), ("orders", 2)]
    names = [(one.topic, one.partition) for one in row.under_replicated]
    assert names == [("__consumer_offsets", 0), ("orders", 0), ("orders", 2)]
    assert [(one.topic, one.partition) for one in row.reassigning] == [("orders", 1)]
    assert [(one.node, one.state, one.leads, one.replicas) for one in row.nodes] == [
        (1, "running", 2, 4),
        (2, "running", 1, 4),
    ]


def test_a_whole_cluster_with_a_controller_is_healthy_and_a_fenced_node_is_not() -> None:
    image = whole()
    assert cluster_row(image, 2).healthy
    assert not cluster_row(image, -1).healthy
    image.apply(BrokerChanged(node=2, broker_epoch=2, fenced=False, shutting_down=True))
    assert [one.state for one in cluster_row(image, 2).nodes] == ["running", "stopping"]
    image.apply(BrokerChanged(node=2, broker_epoch=2, fenced=True))
    row = cluster_row(image, 1)
    assert not row.healthy and [one.state for one in row.nodes] == ["running", "fenced"]


def values(page: str) -> dict[str, float]:
    """Name (with the labels' values) to value."""
    return {
        ".".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_a_nodes_metrics_count_what_it_leads_and_the_controllers_what_there_is() -> None:
    image = world()
    mine = values(render(node_metrics(image, Figures(1), 1)))
    manager, controller = "kafka_server_replicamanager", "kafka_controller_kafkacontroller"
    assert mine[f"{manager}_leadercount"] == 2 and mine[f"{manager}_partitioncount"] == 4
    assert mine[f"{manager}_underreplicatedpartitions"] == 2
    assert mine[f"{controller}_activecontrollercount"] == 1
    assert mine[f"{controller}_offlinepartitionscount"] == 1
    assert mine[f"{controller}_activebrokercount"] == 2
    assert mine["kafka_cluster_partition_underminisr.orders.0"] == 0
    other = values(render(node_metrics(image, Figures(2), 1)))
    assert other[f"{controller}_activecontrollercount"] == other[f"{controller}_offlinepartitionscount"] == 0
    assert other[f"{manager}_leadercount"] == 1


def test_the_isr_and_elections_are_counted_where_the_leader_is() -> None:
    image, mine, others = world(), Figures(1), Figures(2)
    state = partition(ORDERS, 0)
    for change in (
        in_sync(state, 1, 2),
        in_sync(state, 1),
        in_sync(state, 2, 1),
        msgspec.structs.replace(in_sync(state, 1), leader_epoch=9, recovering=True),
    ):
        for figures in (mine, others):
            figures.note(image, change)
        image.apply(change)
    assert (mine.isr_expands, mine.isr_shrinks, mine.elections, mine.unclean_elections) == (2, 2, 1, 1)
    assert (others.isr_expands, others.isr_shrinks, others.elections) == (0, 0, 0)
    page = values(render(node_metrics(image, mine, 1)))
    assert page["kafka_server_replicamanager_isrshrinks_total"] == 2
    assert page["kafka_controller_controllerstats_uncleanleaderelections_total"] == 1


def test_the_clusters_metrics_have_kafka_exporters_names() -> None:
    page = values(render(cluster_metrics(world())))
    assert page["kafka_brokers"] == 2 and page["kafka_broker_info.2.other:9093"] == 1
    assert page["kafka_topic_partitions.orders"] == 3
    assert page["kafka_topic_partition_leader.orders.2"] == -1
    assert page["kafka_topic_partition_in_sync_replica.orders.0"] == 1
    assert page["kafka_topic_partition_replicas.orders.0"] == 2
    assert page["kafka_topic_partition_leader_is_preferred.orders.1"] == 0
    assert page["kafka_topic_partition_under_replicated_partition.orders.0"] == 1
