"""The image of the metadata log: what records add up to, and that a snapshot is as good as all of them."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from logeion.actors.metadata import (
    BrokerRegistered,
    ClusterCreated,
    ConfigChanged,
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
    st.builds(TopicDeleted, topic_id=IDS),
    st.builds(
        PartitionChanged,
        topic_id=IDS,
        partition=SMALL,
        replicas=st.just([1]),
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
        return topics, image.brokers, image.cluster_id, image.next_producer_id

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
