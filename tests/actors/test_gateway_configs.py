from __future__ import annotations

import asyncio
from typing import Any

import pytest

from logeion.actors.config import Config, StorageSection
from logeion.actors.gateway.configs import alter_configs, describe_configs, incremental_alter_configs
from logeion.actors.metadata import ConfigChanged
from logeion.log.config import BROKER_CONFIGS, TOPIC_CONFIGS
from logeion.wire.apis import (
    AlterableConfig,
    AlterConfigsRequest,
    AlterConfigsResource,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
)
from tests.actors.gateway_world import World
from tests.actors.test_gateway_topics_admin import governed

TOPIC, BROKER, LOGGER = 2, 4, 8


def describe(world: World, version: int, kind: int, name: str, *keys: str, **more: Any) -> Any:
    resource = DescribeConfigsResource(
        resource_type=kind, resource_name=name, configuration_keys=list(keys) if keys else None
    )
    request = DescribeConfigsRequest(resources=[resource], **more)
    ours, _ = asyncio.run(world.ask(describe_configs, 32, version, request))
    [result] = ours.results
    assert (result.resource_type, result.resource_name) == (kind, name)
    return result


@pytest.mark.parametrize("version", range(1, 5))
def test_a_topic_shows_all_keys_with_their_source(version: int) -> None:
    result = describe(World(), version, TOPIC, "orders")
    rows = {row.name: row for row in result.configs}
    assert rows.keys() == TOPIC_CONFIGS.keys()
    assert (rows["retention.ms"].value, rows["retention.ms"].config_source) == ("1000", 1)
    assert (rows["cleanup.policy"].value, rows["cleanup.policy"].config_source) == ("delete", 5)
    assert not any(row.read_only or row.is_sensitive or row.synonyms for row in rows.values())
    if version >= 3:
        assert (rows["retention.ms"].config_type, rows["cleanup.policy"].config_type) == (5, 7)
        assert rows["retention.ms"].documentation is None


def test_only_the_keys_that_are_named() -> None:
    result = describe(World(), 4, TOPIC, "orders", "retention.ms", "nope")
    assert [row.name for row in result.configs] == ["retention.ms"]


def test_synonyms_tell_what_would_hold_without_the_topics_own_value() -> None:
    world = World(config=Config(storage=StorageSection(flush="os")))
    result = describe(world, 4, TOPIC, "orders", include_synonyms=True, include_documentation=True)
    rows = {row.name: row for row in result.configs}
    retention = [(one.name, one.value, one.source) for one in rows["retention.ms"].synonyms]
    assert retention == [("retention.ms", "1000", 1), ("retention.ms", "604800000", 5)]
    flush = rows["logeion.flush"]
    assert (flush.value, flush.config_source) == ("os", 4)
    assert [(one.value, one.source) for one in flush.synonyms] == [("os", 4), ("ack", 5)]
    assert all(row.documentation for row in rows.values())


@pytest.mark.parametrize("version", [1, 4])
def test_a_broker_shows_its_settings_and_its_admin_listener(version: int) -> None:
    result = describe(World(), version, BROKER, "1")
    rows = {row.name: row for row in result.configs}
    assert rows["logeion.admin.listener"].value == "127.0.0.1:9644"
    assert rows["advertised.listeners"].value == "PLAINTEXT://127.0.0.1:9092"
    assert (rows["logeion.topics.auto_create"].value, rows["auto.create.topics.enable"].value) == ("true", "true")
    assert rows["log.retention.ms"].value == "604800000"
    assert rows["message.max.bytes"].value == "1048588"
    assert {row.name for row in rows.values() if not row.read_only} == set(BROKER_CONFIGS)
    assert len(rows) == len(result.configs), "no name twice"


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [(TOPIC, "nope", 3), (TOPIC, "a b", 17), (BROKER, "2", 42), (BROKER, "one", 42), (LOGGER, "1", 42), (99, "", 42)],
)
def test_what_cannot_be_described_says_why(kind: int, name: str, code: int) -> None:
    result = describe(World(), 4, kind, name)
    assert result.error_code == code and result.error_message and not result.configs


def test_what_is_set_while_brokers_run_is_shown_with_where_it_was_set() -> None:
    world, key = World(), "follower.replication.throttled.rate"
    for name, value in (("", "100"), ("1", "50"), ("2", "70")):
        world.image.apply(ConfigChanged(resource="broker", name=name, key=key, value=value))
    [row] = describe(world, 4, BROKER, "1", key, include_synonyms=True).configs
    assert [(one.value, one.source) for one in row.synonyms] == [("50", 2), ("100", 3), (str(2**63 - 1), 5)]
    [row] = describe(world, 4, BROKER, "").configs
    assert (row.name, row.value, row.config_source, row.read_only) == (key, "100", 3, False)


def test_the_cluster_wide_broker_defaults_are_empty() -> None:
    assert describe(World(), 4, BROKER, "").configs == []


def incremental(world: World, version: int, kind: int, name: str, *changes: tuple[str, int, str | None]) -> Any:
    configs = [IncrementalAlterableConfig(name=key, config_operation=op, value=value) for key, op, value in changes]
    resource = IncrementalAlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
    request = IncrementalAlterConfigsRequest(resources=[resource])
    ours, _ = asyncio.run(world.ask(incremental_alter_configs, 44, version, request))
    return ours.responses[0]


@pytest.mark.parametrize("version", [0, 1])
def test_keys_are_set_deleted_appended_and_subtracted(version: int) -> None:
    world = governed()
    changes = [("retention.ms", 1, None), ("segment.bytes", 0, "1048576"), ("cleanup.policy", 2, "compact")]
    assert incremental(world, version, TOPIC, "orders", *changes).error_code == 0
    assert world.image.configs_of("topic", "orders") == {
        "segment.bytes": "1048576",
        "cleanup.policy": "delete,compact",
    }
    assert incremental(world, version, TOPIC, "orders", ("cleanup.policy", 3, "delete")).error_code == 0
    assert world.image.configs_of("topic", "orders")["cleanup.policy"] == "compact"


@pytest.mark.parametrize(
    ("kind", "name", "change", "code"),
    [
        (TOPIC, "orders", ("retention.mss", 0, "1"), 40),
        (TOPIC, "orders", ("retention.ms", 0, "soon"), 40),
        (TOPIC, "orders", ("retention.ms", 0, None), 40),
        (TOPIC, "orders", ("retention.ms", 2, "1"), 40),
        (TOPIC, "orders", ("retention.ms", 9, "1"), 42),
        (TOPIC, "nope", ("retention.ms", 0, "1"), 3),
        (BROKER, "1", ("log.retention.ms", 0, "1"), 40),
        (LOGGER, "1", ("root", 0, "DEBUG"), 42),
    ],
)
def test_a_change_that_cannot_be_made_says_why(
    kind: int, name: str, change: tuple[str, int, str | None], code: int
) -> None:
    world = governed()
    response = incremental(world, 1, kind, name, ("segment.bytes", 0, "1048576"), change)
    assert response.error_code == code and response.error_message
    assert (response.resource_type, response.resource_name) == (kind, name)
    assert world.image.configs_of("topic", "orders") == {"retention.ms": "1000"}, "all changes or none"


@pytest.mark.parametrize("version", range(3))
def test_the_old_form_replaces_all_that_was_set(version: int) -> None:
    world = governed()
    configs = [AlterableConfig(name="segment.bytes", value="1048576")]
    resource = AlterConfigsResource(resource_type=TOPIC, resource_name="orders", configs=configs)
    for validate_only in (True, False):
        request = AlterConfigsRequest(resources=[resource], validate_only=validate_only)
        ours, _ = asyncio.run(world.ask(alter_configs, 33, version, request))
        assert [(one.error_code, one.error_message) for one in ours.responses] == [(0, None)]
        now = world.image.configs_of("topic", "orders")
        assert now == ({"retention.ms": "1000"} if validate_only else {"segment.bytes": "1048576"})


def test_a_resource_that_is_listed_twice_is_refused() -> None:
    resource = AlterConfigsResource(resource_type=TOPIC, resource_name="orders", configs=[])
    ours, _ = asyncio.run(governed().ask(alter_configs, 33, 2, AlterConfigsRequest(resources=[resource, resource])))
    assert [one.error_code for one in ours.responses] == [42, 42]


def test_a_reason_that_quotes_the_client_fits_into_the_oldest_versions() -> None:
    long = "\x01" * 32_000  # its repr has four times as many characters
    for name, change in (("orders", ("retention.ms", 0, long)), ("orders", (long, 0, "1")), (long, ("x", 0, "1"))):
        response = incremental(governed(), 0, TOPIC, name, change)
        assert response.error_code in (3, 40) and len(response.error_message) < 1_100
    assert describe(World(), 1, BROKER, long).error_code == 42
