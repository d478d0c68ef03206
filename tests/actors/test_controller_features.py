"""Features and their levels (KIP-584), and the broker settings that change while a broker runs."""

from __future__ import annotations

import pytest

from logeion.actors import messages as m
from logeion.actors.controller.features import SUPPORTED
from logeion.actors.metadata import ClusterCreated, FeatureLevelSet, MetadataImage
from tests.actors.controller_world import World, refused

NAME = "metadata.version"


@pytest.fixture
def upgraded() -> World:
    """A cluster of an earlier release whose nodes have all been upgraded."""
    world = World(0)
    world.record(world.machine._apply([FeatureLevelSet(name=NAME, level=1)]))
    world.up(1)
    world.up(2)
    return world


def update(world: World, *changes: tuple[str, int] | tuple[str, int, int], validate_only: bool = False) -> int:
    wanted = [m.FeatureChange(name=one[0], level=one[1], upgrade=one[2] if len(one) > 2 else 1) for one in changes]
    reply = world.ask(m.UpdateFeatures(changes=wanted, validate_only=validate_only))
    return 0 if isinstance(reply, m.Recorded) else refused(reply)


def test_a_new_cluster_begins_at_the_newest_level_and_an_old_one_where_it_was() -> None:
    assert World(0).image.features == {NAME: SUPPORTED[NAME][1]}
    image = MetadataImage()
    image.apply(ClusterCreated(cluster_id="old"))
    assert image.features == {NAME: 1} and image.metadata_version == 1


def test_a_level_is_finalised_once_every_node_supports_it(upgraded: World) -> None:
    upgraded.register(3, features={NAME: [1, 1]})
    assert update(upgraded, (NAME, 2)) == 96
    upgraded.register(3)
    assert update(upgraded, (NAME, 2), validate_only=True) == 0
    assert upgraded.image.metadata_version == 1
    assert update(upgraded, (NAME, 2)) == 0
    assert upgraded.image.metadata_version == upgraded.image.features[NAME] == 2
    before = len(upgraded.log)
    assert update(upgraded, (NAME, 2)) == 0 and len(upgraded.log) == before


@pytest.mark.parametrize("features", [{NAME: [1, 1]}, {NAME: [3, 4]}, {}, {"other": [2, 2]}])
def test_a_node_that_cannot_live_with_what_is_finalised_is_not_registered(features: dict[str, list[int]]) -> None:
    world = World(1)
    assert refused(world.register(2, features=features)) == 35
    assert 2 not in world.image.brokers


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("no.such.feature", 1), 95),
        ((NAME, 3), 95),
        ((NAME, -1), 95),
        ((NAME, 0, 3), 95),
        ((NAME, 1), 95),
        ((NAME, 1, 2), 95),
        ((NAME, 2, 4), 42),
        ((NAME, 2, 0), 42),
        ((NAME, 1, 3), 0),
    ],
)
def test_levels_only_go_down_if_that_is_asked_for(change: tuple[str, int], code: int) -> None:
    world = World(1)
    assert update(world, change) == code
    assert world.image.metadata_version == (1 if code == 0 else 2)


def test_an_upgrade_is_no_downgrade(upgraded: World) -> None:
    assert update(upgraded, (NAME, 2, 2)) == update(upgraded, (NAME, 2, 3)) == 95


def test_all_features_change_or_none(upgraded: World) -> None:
    assert update(upgraded, (NAME, 2), ("no.such.feature", 1)) == 95
    assert upgraded.image.metadata_version == 1
    assert update(upgraded, (NAME, 2), (NAME, 1)) == 42


def test_a_snapshot_keeps_the_level(upgraded: World) -> None:
    update(upgraded, (NAME, 2))
    again = MetadataImage().restored(upgraded.image.records())
    assert (again.metadata_version, again.features) == (2, {NAME: 2})


# Broker settings

RATE = "follower.replication.throttled.rate"


def alter(world: World, name: str, *changes: tuple[str, str, str | None], resource: str = "broker", **how: bool) -> int:
    wanted = [m.ConfigChange(key=key, operation=operation, value=value) for key, operation, value in changes]
    reply = world.ask(m.AlterConfigs(resource=resource, name=name, changes=wanted, **how))
    return 0 if isinstance(reply, m.ConfigsAltered) else refused(reply)


def test_throttles_are_set_for_one_broker_and_for_all() -> None:
    world = World(1)
    assert alter(world, "1", (RATE, "set", "5000")) == 0
    assert alter(world, "", (RATE, "set", "7"), ("leader.replication.throttled.rate", "set", "8")) == 0
    assert world.follower.configs_of("broker", "1") == {RATE: "5000"}
    assert world.follower.configs_of("broker", "")[RATE] == "7"
    assert alter(world, "1", (RATE, "delete", None)) == 0
    assert world.follower.configs_of("broker", "1") == {}
    assert alter(world, "", replace=True) == 0
    assert world.follower.configs_of("broker", "") == {}


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("9", (RATE, "set", "1"), 42),
        ("x", (RATE, "set", "1"), 42),
        ("²", (RATE, "set", "1"), 42),
        ("1", (RATE, "set", "-1"), 40),
        ("1", (RATE, "set", "fast"), 40),
        ("1", (RATE, "set", None), 42),
        ("1", (RATE, "append", "1"), 40),
        ("1", ("retention.ms", "set", "1"), 40),
        ("1", ("num.partitions", "delete", None), 40),
    ],
)
def test_other_broker_settings_are_not_changed_here(name: str, change: tuple[str, str, str | None], code: int) -> None:
    world = World(1)
    before = len(world.log)
    assert alter(world, name, change) == code
    assert len(world.log) == before


def test_internal_topics_can_be_throttled_and_nothing_else() -> None:
    world = World(1)
    world.ask(m.CreateTopics(topics=[m.TopicToCreate(name="__consumer_offsets")], internal=True))
    throttle = ("follower.replication.throttled.replicas", "set", "*")
    assert alter(world, "__consumer_offsets", throttle, resource="topic") == 0
    assert alter(world, "__consumer_offsets", throttle, ("retention.ms", "set", "1"), resource="topic") == 17
    assert alter(world, "__consumer_offsets", throttle, resource="topic", replace=True) == 17
