"""The controller's machine: topics, configs, registrations, epochs, producer ids."""

from __future__ import annotations

from itertools import count

import pytest

from logeion.actors import messages as m
from logeion.actors.controller.features import SUPPORTED
from logeion.actors.controller.machine import NODES_AWAITED_S, ControllerMachine, Request
from logeion.actors.controller.placement import place
from logeion.actors.controller.topics import Defaults
from logeion.actors.metadata import BrokerRegistered, MetadataImage, MetadataRecord, PartitionChanged
from logeion.log.config import TOPIC_CONFIGS


class Cluster:
    """A machine, its log, and a second image that only ever sees what was committed."""

    def __init__(self, nodes: int = 1, defaults: Defaults | None = None) -> None:
        ids = (f"{number:032x}" for number in count(1))
        self.machine = ControllerMachine(defaults or Defaults(), lambda: next(ids), MetadataImage())
        self.log: list[MetadataRecord] = self.machine.found("test")
        self.follower = MetadataImage()
        self.follower.apply_all(self.log)
        for node in range(1, nodes + 1):
            self.register(node)

    @property
    def image(self) -> MetadataImage:
        return self.machine.image

    def ask(self, request: Request) -> m.Message:
        decision = self.machine.handle(request, 0.0)
        self.log += decision.records
        self.follower.apply_all(decision.records)
        assert self.follower.records() == self.image.records()
        assert self.machine.next_offset == len(self.log)
        return decision.reply

    def register(self, node: int, incarnation: str = "a", port: int = 9092) -> int:
        reply = self.ask(registration(node, incarnation, port))
        assert isinstance(reply, m.NodeRegistered)
        self.ask(m.Heartbeat(node=node, broker_epoch=reply.broker_epoch, applied=reply.committed))
        return reply.broker_epoch

    def change(self, request: m.CreateTopics | m.DeleteTopics | m.CreatePartitions) -> list[m.TopicResult]:
        reply = self.ask(request)
        assert isinstance(reply, m.TopicsChanged)
        assert reply.committed == len(self.log)
        return reply.results

    def create(self, name: str, **wanted: object) -> m.TopicResult:
        [result] = self.change(m.CreateTopics(topics=[m.TopicToCreate(name=name, **wanted)]))  # type: ignore[arg-type]
        return result

    def alter(self, name: str, *changes: tuple[str, str, str | None], **how: bool) -> m.Message:
        wanted = [m.ConfigChange(key=key, operation=operation, value=value) for key, operation, value in changes]
        return self.ask(m.AlterConfigs(resource="topic", name=name, changes=wanted, **how))


def registration(node: int, incarnation: str = "a", port: int = 9092) -> m.RegisterNode:
    return m.RegisterNode(node=node, incarnation=incarnation, directory_id="d", host="h", port=port, features=SUPPORTED)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def refused(reply: m.Message) -> int:
    assert isinstance(reply, m.Refused) and reply.reason
    return reply.code


# Topics


def test_a_new_topic_has_an_id_its_partitions_and_its_configs(cluster: Cluster) -> None:
    result = cluster.create("orders", partitions=3, configs={"retention.ms": "1000"})
    assert (result.code, result.partitions, result.replication_factor) == (0, 3, 1)
    assert result.configs["retention.ms"] == "1000"
    assert result.configs.keys() == TOPIC_CONFIGS.keys()
    topic = cluster.follower.topic("orders")
    assert topic is not None and topic.topic_id == result.topic_id
    assert [(state.leader, state.leader_epoch) for state in topic.partitions.values()] == [(1, 0)] * 3
    assert cluster.follower.topic_configs("orders") == {"retention.ms": "1000"}


def test_counts_of_minus_one_mean_the_defaults() -> None:
    cluster = Cluster(3, Defaults(partitions=6, replication_factor=2))
    result = cluster.create("orders")
    assert (result.partitions, result.replication_factor) == (6, 2)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a" * 250, "a b", "a/b", "ä", "a\n", "a\x00", "a:b", "__consumer_offsets", "a.b", "a_b"]
)
def test_names_that_cannot_be_are_refused(cluster: Cluster, name: str) -> None:
    assert cluster.create("a.b" if name == "a_b" else "a_b").code == 0
    result = cluster.create(name)
    assert result.code == 17
    assert result.reason


def test_the_longest_name_is_allowed(cluster: Cluster) -> None:
    assert cluster.create("a" * 249).code == 0


def test_internal_topics_are_made_by_us_alone_and_closed_to_changes(cluster: Cluster) -> None:
    wanted = [m.TopicToCreate(name="__consumer_offsets", configs={"cleanup.policy": "compact"})]
    [result] = cluster.change(m.CreateTopics(topics=wanted, internal=True))
    assert result.code == 0
    topic = cluster.image.topic("__consumer_offsets")
    assert topic is not None and topic.internal
    assert cluster.change(m.DeleteTopics(names=["__consumer_offsets"]))[0].code == 17
    grow = m.CreatePartitions(topics=[m.GrowTopic(name="__consumer_offsets", count=9)])
    assert cluster.change(grow)[0].code == 17
    assert refused(cluster.alter("__consumer_offsets", ("retention.ms", "set", "1"))) == 17


@pytest.mark.parametrize("internal", [True, False])
def test_nodes_that_are_away_count_for_the_replication_factor_that_nobody_gave(internal: bool) -> None:
    cluster = Cluster(1, Defaults(replication_factor=0))
    for node in (2, 3, 4):
        cluster.ask(registration(node))
    assert cluster.image.fenced == {2, 3, 4}
    wanted = m.TopicToCreate(
        name="__consumer_offsets" if internal else "orders", replication_factor=0 if internal else -1
    )
    [result] = cluster.change(m.CreateTopics(topics=[wanted], internal=internal))
    assert (result.code, result.replication_factor) == (0, 3)
    state = cluster.image.partition(result.topic_id, 0)
    assert state is not None and (state.isr, state.leader) == ([1], 1)


@pytest.mark.parametrize(("internal", "code"), [(True, 15), (False, 8)])
def test_a_new_topic_waits_for_all_its_replicas_while_the_cluster_starts_but_not_for_ever(
    internal: bool, code: int
) -> None:
    cluster = Cluster(1, Defaults(voters=3, replication_factor=0))

    def answer(now: float, factor: int = 0 if internal else -1) -> int:
        """The replication factor it would get, or minus the code."""
        wanted = m.TopicToCreate(name="__consumer_offsets" if internal else "orders", replication_factor=factor)
        request = m.CreateTopics(topics=[wanted], internal=internal, validate_only=True)
        reply = cluster.machine.handle(request, now).reply
        return -reply.code if isinstance(reply, m.Refused) else reply.results[0].replication_factor  # type: ignore

    assert answer(100.0) == answer(100.0 + NODES_AWAITED_S / 2) == -code
    assert answer(100.0, factor=1) == 1, "whoever says how many gets them"
    cluster.ask(registration(2))
    assert answer(100.1 + NODES_AWAITED_S / 2) == -code
    assert answer(100.1 + NODES_AWAITED_S) == 2, "the third one may be gone for good"
    cluster.ask(registration(3))
    assert answer(100.2) == 3


def test_where_one_node_is_all_there_is_nothing_waits() -> None:
    cluster = Cluster(1, Defaults(voters=1))
    wanted = m.TopicToCreate(name="__consumer_offsets", replication_factor=0)
    [result] = cluster.change(m.CreateTopics(topics=[wanted], internal=True))
    assert (result.code, result.replication_factor) == (0, 1)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"partitions": 0}, 37),
        ({"partitions": -2}, 37),
        ({"partitions": 10_000}, 37),
        ({"replication_factor": 0}, 38),
        ({"replication_factor": 4}, 38),
        ({"configs": {"retention.msx": "1"}}, 40),
        ({"configs": {"retention.ms": "soon"}}, 40),
        ({"configs": {"retention.ms": None}}, 40),
        ({"assignments": {0: [1], 2: [2]}}, 39),
        ({"assignments": {0: [1], 1: [1, 2]}}, 39),
        ({"assignments": {0: [1, 1]}}, 39),
        ({"assignments": {0: []}}, 39),
        ({"assignments": {0: [9]}}, 39),
    ],
)
def test_what_cannot_be_created_is_refused_with_kafka_s_code(wanted: dict[str, object], code: int) -> None:
    cluster = Cluster(3)
    before = len(cluster.log)
    result = cluster.create("orders", **wanted)
    assert (result.code, bool(result.reason)) == (code, True)
    assert len(cluster.log) == before


def test_an_assignment_by_hand_is_followed() -> None:
    cluster = Cluster(3)
    assert cluster.create("orders", assignments={0: [3, 1], 1: [2, 3]}).code == 0
    topic = cluster.image.topic("orders")
    assert topic is not None
    assert [(state.leader, state.replicas) for state in topic.partitions.values()] == [(3, [3, 1]), (2, [2, 3])]


def test_a_name_is_taken_until_its_topic_is_deleted_and_ids_are_never_used_again(cluster: Cluster) -> None:
    first = cluster.create("orders", configs={"retention.ms": "1"})
    assert cluster.create("orders").code == 36
    assert cluster.change(m.DeleteTopics(topic_ids=[first.topic_id]))[0].name == "orders"
    second = cluster.create("orders")
    assert second.code == 0 and second.topic_id != first.topic_id
    assert cluster.image.topic_configs("orders") == {}


def test_one_refused_topic_does_not_stop_the_others(cluster: Cluster) -> None:
    wanted = [m.TopicToCreate(name=name) for name in ("a", "a", "b c", "d")]
    assert [one.code for one in cluster.change(m.CreateTopics(topics=wanted))] == [0, 36, 17, 0]


def test_unknown_topics_cannot_be_deleted(cluster: Cluster) -> None:
    results = cluster.change(m.DeleteTopics(names=["nothing"], topic_ids=["f" * 32]))
    assert [one.code for one in results] == [3, 100]


def test_validating_changes_nothing_but_answers_the_same(cluster: Cluster) -> None:
    before = len(cluster.log)
    wanted = [m.TopicToCreate(name="orders", partitions=2), m.TopicToCreate(name="a b")]
    results = cluster.change(m.CreateTopics(topics=wanted, validate_only=True))
    assert [(one.code, one.partitions) for one in results] == [(0, 2), (17, -1)]
    assert len(cluster.log) == before


def test_a_topic_grows_and_never_shrinks(cluster: Cluster) -> None:
    cluster.create("orders", partitions=2)

    def grow(count: int, **more: object) -> int:
        wanted = m.GrowTopic(name="orders", count=count, **more)  # type: ignore[arg-type]
        return cluster.change(m.CreatePartitions(topics=[wanted]))[0].code

    assert [grow(2), grow(1), grow(5)] == [37, 37, 0]
    topic = cluster.image.topic("orders")
    assert topic is not None and sorted(topic.partitions) == [0, 1, 2, 3, 4]
    assert grow(6, assignments=[[1], [1]]) == 39
    assert grow(6, assignments=[[1]]) == 0
    assert cluster.change(m.CreatePartitions(topics=[m.GrowTopic(name="no", count=2)]))[0].code == 3


def test_leaders_go_round_the_brokers_and_followers_are_spread() -> None:
    placed = place([1, 2, 3], 9, 2, 0)
    assert [replicas[0] for replicas in placed] == [1, 2, 3] * 3
    assert all(len(set(replicas)) == 2 for replicas in placed)
    assert {tuple(replicas) for replicas in placed} >= {(1, 2), (1, 3)}
    assert place([1, 2, 3], 1, 1, 4) == [[2]]


# Configs


def test_configs_are_set_deleted_appended_and_subtracted(cluster: Cluster) -> None:
    cluster.create("orders")
    cluster.alter("orders", ("retention.ms", "set", "5"), ("cleanup.policy", "append", "compact"))
    assert cluster.image.topic_configs("orders") == {"retention.ms": "5", "cleanup.policy": "delete,compact"}
    cluster.alter("orders", ("retention.ms", "delete", None), ("cleanup.policy", "subtract", "delete"))
    assert cluster.image.topic_configs("orders") == {"cleanup.policy": "compact"}


def test_a_replacing_alter_drops_what_it_does_not_name(cluster: Cluster) -> None:
    cluster.create("orders", configs={"retention.ms": "5", "segment.ms": "7"})
    cluster.alter("orders", ("retention.ms", "set", "6"), replace=True)
    assert cluster.image.topic_configs("orders") == {"retention.ms": "6"}


def test_all_changes_of_a_topic_are_made_or_none(cluster: Cluster) -> None:
    cluster.create("orders")
    reply = cluster.alter("orders", ("retention.ms", "set", "5"), ("segment.bytes", "set", "x"))
    assert refused(reply) == 40
    assert cluster.image.topic_configs("orders") == {}


def test_a_validating_alter_changes_nothing(cluster: Cluster) -> None:
    cluster.create("orders")
    assert isinstance(cluster.alter("orders", ("retention.ms", "set", "5"), validate_only=True), m.ConfigsAltered)
    assert cluster.image.topic_configs("orders") == {}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("retention.msx", "delete", None), 40),
        (("retention.ms", "append", "1"), 40),
        (("retention.ms", "set", None), 42),
        (("cleanup.policy", "subtract", "delete"), 40),
    ],
)
def test_changes_that_make_no_sense_are_refused(
    cluster: Cluster, change: tuple[str, str, str | None], code: int
) -> None:
    cluster.create("orders")
    assert refused(cluster.alter("orders", change)) == code


def test_only_known_topics_have_a_configuration_to_change(cluster: Cluster) -> None:
    assert refused(cluster.alter("nothing", ("retention.ms", "set", "5"))) == 3
    broker = m.AlterConfigs(
        resource="broker", name="1", changes=[m.ConfigChange(key="num.partitions", operation="set", value="1")]
    )
    assert refused(cluster.ask(broker)) == 40


def test_node_defaults_lie_under_a_topic_s_own_configuration() -> None:
    image = MetadataImage({"retention.ms": "7"})
    machine = ControllerMachine(Defaults(), lambda: "0" * 32, image)
    machine.handle(registration(1), 0.0)
    machine.handle(m.Heartbeat(node=1, broker_epoch=0, applied=1), 0.0)
    machine.handle(m.CreateTopics(topics=[m.TopicToCreate(name="orders", configs={"segment.ms": "9"})]), 0.0)
    assert image.topic_configs("orders") == {"retention.ms": "7", "segment.ms": "9"}


# Nodes and epochs


def test_the_same_incarnation_keeps_its_broker_epoch_and_another_gets_a_new_one(cluster: Cluster) -> None:
    epoch = cluster.image.brokers[1].broker_epoch
    again = cluster.ask(registration(1))
    moved = cluster.ask(registration(1, port=9999))
    assert isinstance(again, m.NodeRegistered) and isinstance(moved, m.NodeRegistered)
    assert again.broker_epoch == moved.broker_epoch == epoch
    assert cluster.follower.brokers[1].port == 9999
    other = cluster.ask(registration(1, incarnation="b"))
    assert isinstance(other, m.NodeRegistered) and other.broker_epoch > epoch


def test_a_broker_epoch_is_the_offset_of_its_registration(cluster: Cluster) -> None:
    record = cluster.log[cluster.image.brokers[1].broker_epoch]
    assert isinstance(record, BrokerRegistered) and record.node == 1


def test_epochs_are_granted_in_one_batch_and_only_where_none_newer_is_on_its_way(cluster: Cluster) -> None:
    topic_id = cluster.create("orders", partitions=3).topic_id
    asked = [m.GrantRequest(topic_id=topic_id, partition=partition, seen_epoch=0) for partition in range(3)]
    request = m.GrantEpochs(node=1, broker_epoch=cluster.image.brokers[1].broker_epoch, partitions=asked)
    before = len(cluster.log)
    reply = cluster.ask(request)
    assert isinstance(reply, m.EpochsGranted) and reply.committed == before + 3
    granted = cluster.log[before:]
    assert all(isinstance(one, PartitionChanged) and one.leader_epoch == 1 for one in granted)
    # The same request again, as after a lost answer: the epochs it asks for exist.
    cluster.ask(request)
    assert len(cluster.log) == before + 3


def test_a_stale_broker_is_granted_nothing(cluster: Cluster) -> None:
    topic_id = cluster.create("orders").topic_id
    asked = [m.GrantRequest(topic_id=topic_id, partition=0, seen_epoch=0)]
    epoch = cluster.image.brokers[1].broker_epoch
    cluster.ask(registration(1, incarnation="b"))
    assert refused(cluster.ask(m.GrantEpochs(node=1, broker_epoch=epoch, partitions=asked))) == 77
    assert refused(cluster.ask(m.GrantEpochs(node=2, broker_epoch=0, partitions=asked))) == 77


def test_epochs_of_partitions_that_are_gone_or_led_elsewhere_are_not_granted() -> None:
    cluster = Cluster(2)
    topic_id = cluster.create("orders", assignments={0: [2]}).topic_id
    asked = [
        m.GrantRequest(topic_id=topic_id, partition=0, seen_epoch=0),
        m.GrantRequest(topic_id=topic_id, partition=7, seen_epoch=0),
        m.GrantRequest(topic_id="e" * 32, partition=0, seen_epoch=0),
    ]
    before = len(cluster.log)
    cluster.ask(m.GrantEpochs(node=1, broker_epoch=cluster.image.brokers[1].broker_epoch, partitions=asked))
    assert len(cluster.log) == before


def test_producer_ids_are_given_in_blocks_that_never_overlap(cluster: Cluster) -> None:
    replies = [cluster.ask(m.AllocateProducerIds(node=1)) for _ in range(3)]
    blocks = [(one.first, one.count) for one in replies if isinstance(one, m.ProducerIdsAllocated)]
    assert blocks == [(0, 1000), (1000, 1000), (2000, 1000)]


def test_a_replayed_machine_goes_on_where_the_other_ended(cluster: Cluster) -> None:
    cluster.create("orders", partitions=2, configs={"retention.ms": "1"})
    cluster.create("gone")
    cluster.change(m.DeleteTopics(names=["gone"]))
    cluster.ask(m.AllocateProducerIds(node=1))
    replayed = ControllerMachine(Defaults(), lambda: "9" * 32, MetadataImage())
    for offset, record in enumerate(cluster.log):
        replayed.replay(offset, record)
    assert replayed.image.records() == cluster.image.records()
    assert replayed.next_offset == cluster.machine.next_offset
    assert replayed.found("other") == []
