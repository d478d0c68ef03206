"""The image of the metadata log: what records add up to, and that a snapshot is as good as all of them."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from logeion.actors.metadata import (
    BrokerChanged,
    BrokerRegistered,
    ClusterCreated,
    ConfigChanged,
    FeatureLevelSet,
    MetadataImage,
    MetadataRecord,
    PartitionChanged,
    ProducerIdsReserved,
    TopicCreated,
    TopicDeleted,
)

IDS = st.sampled_from(["1" * 32, "2" * 32, "3" * 32])
NAMES = st.sampled_from(["a", "b", "c"])
SMALL = st.integers(0, 3)

RECORDS: st.SearchStrategy[MetadataRecord] = st.one_of(
    st.builds(ClusterCreated, cluster_id=NAMES),
    st.builds(
        BrokerRegistered,
        node=SMALL,
        incarnation=NAMES,
        directory_id=NAMES,
        host=NAMES,
        port=SMALL,
        broker_epoch=SMALL,
    ),
    st.builds(BrokerChanged, node=SMALL, broker_epoch=SMALL, fenced=st.booleans(), shutting_down=st.booleans()),
    st.builds(FeatureLevelSet, name=st.sampled_from(["metadata.version", "other"]), level=st.integers(0, 2)),
    st.builds(TopicDeleted, topic_id=IDS),
    st.builds(
        PartitionChanged,
        topic_id=IDS,
        partition=SMALL,
        replicas=st.lists(SMALL, unique=True, min_size=1, max_size=3),
        isr=st.just([1]),
        leader=SMALL,
        leader_epoch=SMALL,
        partition_epoch=SMALL,
    ),
    st.builds(ConfigChanged, resource=st.just("topic"), name=NAMES, key=NAMES, value=st.one_of(st.none(), NAMES)),
    st.builds(ProducerIdsReserved, next_id=st.integers(1, 9)),
)


@st.composite
def histories(draw: st.DrawFn) -> list[MetadataRecord]:
    """Records as a controller could have made them: names and ids are not taken twice, only topics have configs."""
    records: list[MetadataRecord] = []
    image = MetadataImage()
    fresh = 0
    for _ in range(draw(st.integers(0, 30))):
        record = draw(st.one_of(RECORDS, NAMES))
        if isinstance(record, str):
            if image.topic(record) is not None:
                continue
            fresh += 1
            record = TopicCreated(topic_id=f"{fresh:032x}" if fresh > 3 else str(fresh) * 32, name=record)
        elif isinstance(record, ConfigChanged) and image.topic(record.name) is None:
            continue
        image.apply(record)
        records.append(record)
    return records


def key(state: PartitionChanged) -> tuple[str, int]:
    return state.topic_id, state.partition


@given(histories())
@settings(max_examples=200, deadline=None)
def test_a_snapshot_and_the_records_after_it_are_as_good_as_all_records(history: list[MetadataRecord]) -> None:
    whole = MetadataImage()
    whole.apply_all(history)
    half = len(history) // 2
    first = MetadataImage()
    first.apply_all(history[:half])
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(first.records()), type=list[MetadataRecord])
    second = MetadataImage().restored(travelled)
    second.apply_all(history[half:])

    def shown(image: MetadataImage) -> object:
        topics = {
            topic.topic_id: (topic.name, topic.internal, topic.partitions, image.topic_configs(topic.name))
            for topic in image.topics.values()
        }
        placed = {node: sorted(key(state) for state in image.partitions_of(node)) for node in range(4)}
        assert placed == {
            node: sorted(key(state) for state in image.partitions() if node in state.replicas) for node in range(4)
        }
        brokers = image.brokers, image.fenced, image.shutting_down
        return topics, brokers, image.features, image.metadata_version, image.cluster_id, image.next_producer_id

    assert shown(second) == shown(whole)
    for topic in whole.topics.values():
        assert whole.topic(topic.name) is topic


def test_a_deleted_topic_s_name_is_free_and_its_configs_are_gone() -> None:
    image = MetadataImage()
    image.apply(TopicCreated(topic_id="1" * 32, name="a"))
    image.apply(ConfigChanged(resource="topic", name="a", key="retention.ms", value="1"))
    image.apply(TopicDeleted(topic_id="1" * 32))
    assert image.topic("a") is None and image.topic_by_id("1" * 32) is None
    image.apply(TopicCreated(topic_id="2" * 32, name="a"))
    assert image.topic_configs("a") == {}


def test_whatever_changes_a_topic_changes_its_version() -> None:
    image = MetadataImage()
    image.apply(TopicCreated(topic_id="1" * 32, name="a"))
    seen = [image.topics["1" * 32].changed]
    image.apply(ConfigChanged(resource="topic", name="a", key="retention.ms", value="1"))
    seen.append(image.topics["1" * 32].changed)
    image.apply(
        PartitionChanged(
            topic_id="1" * 32, partition=0, replicas=[1], isr=[1], leader=1, leader_epoch=0, partition_epoch=0
        )
    )
    seen.append(image.topics["1" * 32].changed)
    assert seen == sorted(set(seen))
    again = image.restored(image.records())
    assert again.topics["1" * 32].changed > seen[-1], "nothing cached from before a snapshot may be used after it"


def test_what_is_wrong_with_partitions_is_found() -> None:
    image = MetadataImage({"min.insync.replicas": "2"})
    image.apply(TopicCreated(topic_id="1" * 32, name="a"))

    def put(number: int, isr: list[int], leader: int, elr: tuple[int, ...] = (), adding: tuple[int, ...] = ()) -> None:
        image.apply(
            PartitionChanged(
                topic_id="1" * 32,
                partition=number,
                replicas=[1, 2, 3],
                isr=isr,
                leader=leader,
                leader_epoch=0,
                partition_epoch=0,
                elr=list(elr),
                adding=list(adding),
            )
        )

    put(0, [1, 2, 3], 1)
    put(1, [1, 2], 1)
    put(2, [1], 1)
    put(3, [], -1, elr=(1,))
    put(4, [1, 2], 1, adding=(3,))

    def numbers(states: list[PartitionChanged]) -> list[int]:
        return [state.partition for state in states]

    assert numbers(image.under_replicated()) == [1, 2, 3]
    assert numbers(image.under_min_isr()) == [2, 3]
    assert numbers(image.offline()) == [3]
    assert numbers(image.reassigning()) == [4]
    image.apply(ConfigChanged(resource="topic", name="a", key="min.insync.replicas", value="1"))
    assert numbers(image.under_min_isr()) == [3]
    assert image.min_isr("a") == 1 and not image.unclean_election("a")
    assert image.topic_config("a", "retention.ms") == "604800000"


def test_a_snapshot_leads_back_if_it_is_older_or_of_another_cluster() -> None:
    image = MetadataImage()
    assert not image.goes_back(0, 0, [])
    image.apply_all(first := [ClusterCreated(cluster_id="ours"), ProducerIdsReserved(next_id=3)])
    assert not image.goes_back(2, 2, first) and not image.goes_back(2, 9, first)
    assert image.goes_back(2, 1, first) and image.goes_back(2, 0, [])
    assert image.goes_back(2, 9, [ClusterCreated(cluster_id="theirs")]) and image.goes_back(2, 9, [])
