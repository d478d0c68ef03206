"""What DescribeConfigs shows of this broker: Logeion's settings, and Kafka's names for those that mean the same.

Nearly all of it comes from the node's file, environment and flags, and is read-only and static; a few keys of Kafka's
can be set while brokers run, for one or for all of them. No setting is a secret: the cluster's secret is in a file, and
only that file's name is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from logeion.log.config import BROKER_CONFIGS, TOPIC_CONFIGS

from ..config import Config, show_address
from .brokers import own_endpoint
from .config_rows import TYPES, Layer, Row, Source

if TYPE_CHECKING:
    from ..metadata import MetadataImage
    from .state import Gateway

ADMIN_LISTENER = "logeion.admin.listener"

# Kafka's broker-wide names of the topic settings for which they are not simply log.<topic key>.
_BROKER_NAMES = {
    "compression.type": "compression.type",
    "max.message.bytes": "message.max.bytes",
    "min.insync.replicas": "min.insync.replicas",
    "unclean.leader.election.enable": "unclean.leader.election.enable",
    "cleanup.policy": "log.cleanup.policy",
    "delete.retention.ms": "log.cleaner.delete.retention.ms",
    "file.delete.delay.ms": "log.segment.delete.delay.ms",
    "flush.messages": "log.flush.interval.messages",
    "flush.ms": "log.flush.interval.ms",
    "index.interval.bytes": "log.index.interval.bytes",
    "max.compaction.lag.ms": "log.cleaner.max.compaction.lag.ms",
    "min.cleanable.dirty.ratio": "log.cleaner.min.cleanable.ratio",
    "min.compaction.lag.ms": "log.cleaner.min.compaction.lag.ms",
    "segment.index.bytes": "log.index.size.max.bytes",
    "segment.jitter.ms": "log.roll.jitter.ms",
    "segment.ms": "log.roll.ms",
}


def broker_rows(gateway: Gateway, local: tuple[str, int]) -> list[Row]:
    """All rows by name; ``local`` is the address the client connected to, which is what is advertised to it."""
    mine = gateway.image.brokers.get(gateway.node)
    rows = [
        Row(
            ADMIN_LISTENER,
            [Layer(ADMIN_LISTENER, mine.admin if mine else "", Source.STATIC_BROKER)],
            TYPES["string"],
            "where this node's admin HTTP listens, host:port",
            True,
        )
    ]
    rows += _own(gateway.config)
    rows += _kafkas(gateway, local)
    rows += dynamic_rows(gateway.image, gateway.node)
    return sorted(rows, key=lambda row: row.name)


def dynamic_rows(image: MetadataImage, node: int | None) -> list[Row]:
    """What can be set while brokers run: of one, with what it falls back on, or what is set for all of them (None)."""
    everywhere = image.configs_of("broker", "")
    if node is None:
        return [
            Row(key, [Layer(key, value, Source.BROKERS)], TYPES[BROKER_CONFIGS[key].type], BROKER_CONFIGS[key].doc)
            for key, value in sorted(everywhere.items())
        ]
    own = image.configs_of("broker", str(node))
    rows = []
    for key, known in sorted(BROKER_CONFIGS.items()):
        layers = [Layer(key, known.default, Source.DEFAULT)]
        if key in everywhere:
            layers.insert(0, Layer(key, everywhere[key], Source.BROKERS))
        if key in own:
            layers.insert(0, Layer(key, own[key], Source.BROKER))
        rows.append(Row(key, layers, TYPES[known.type], known.doc))
    return rows


def _own(config: Config) -> list[Row]:
    """Every setting as ``logeion.<section>.<key>``."""
    rows = []
    defaults = msgspec.to_builtins(Config())
    for section, settings in msgspec.to_builtins(config).items():
        for key, value in settings.items():
            default = defaults[section][key]
            layers = [Layer(f"logeion.{section}.{key}", _text(default), Source.DEFAULT)]
            if value != default:
                layers.insert(0, Layer(f"logeion.{section}.{key}", _text(value), Source.STATIC_BROKER))
            doc = f"[{section}] {key} in the node's file, LOGEION_{section.upper()}__{key.upper()} in its environment"
            rows.append(Row(layers[0].name, layers, _type(default), doc, True))
    return rows


def _kafkas(gateway: Gateway, local: tuple[str, int]) -> list[Row]:
    """Kafka's names, as far as we have what they stand for."""
    config = gateway.config
    own = own_endpoint(gateway, local)
    data = str(gateway.data_dir)
    settings: list[tuple[str, object, object, str]] = [
        ("node.id", config.node.id, None, "this broker's number"),
        ("broker.id", config.node.id, None, "this broker's number"),
        ("broker.rack", config.node.rack, None, "where this broker stands"),
        ("log.dirs", data, None, "where the partitions' files are"),
        ("log.dir", data, None, "where the partitions' files are"),
        ("advertised.listeners", f"PLAINTEXT://{show_address(own.host, own.port)}", None, "this broker for clients"),
        ("num.partitions", config.topics.partitions, 1, "of a topic that does not say"),
        ("default.replication.factor", config.topics.replication_factor, 1, "of a topic that does not say"),
        ("auto.create.topics.enable", config.topics.auto_create, True, "create a topic when a client first names it"),
        ("delete.topic.enable", True, True, "topics can be deleted"),
        ("socket.request.max.bytes", config.limits.frame_bytes, 104_857_600, "the largest request"),
        ("max.connections", config.limits.connections, 2**31 - 1, "of all clients together"),
        ("max.connections.per.ip", config.limits.connections_per_address, 2**31 - 1, "from one address"),
        ("connections.max.idle.ms", config.limits.idle_ms, 600_000, "after which a silent connection is closed"),
        ("group.min.session.timeout.ms", config.groups.min_session_timeout_ms, 6_000, "the least a member may ask"),
        ("group.max.session.timeout.ms", config.groups.max_session_timeout_ms, 1_800_000, "the most it may ask"),
        (
            "offsets.topic.replication.factor",
            config.groups.offsets_replication_factor,
            3,
            "of __consumer_offsets; 0: three, or as many as there are nodes",
        ),
        (
            "replica.lag.time.max.ms",
            config.replica.lag_time_max_ms,
            30_000,
            "until a follower that lags leaves the ISR",
        ),
        ("replica.fetch.wait.max.ms", config.replica.fetch_wait_ms, 500, "how long a follower's fetch may be parked"),
        ("replica.fetch.response.max.bytes", config.replica.fetch_max_bytes, 10_485_760, "most of one such fetch"),
        ("broker.heartbeat.interval.ms", config.controller.heartbeat_ms, 2_000, "between a node's heartbeats"),
        ("broker.session.timeout.ms", config.controller.session_ms, 9_000, "without one, until it is fenced"),
        (
            "controller.quorum.election.timeout.ms",
            config.controller.election_ms,
            1_000,
            "until voters elect another controller",
        ),
        ("auto.leader.rebalance.enable", config.controller.rebalance_ms > 0, True, "preferred replicas lead again"),
        ("offsets.topic.num.partitions", config.groups.offsets_partitions, 50, "of __consumer_offsets"),
    ]
    rows = []
    for name, value, default, doc in settings:
        source = Source.DEFAULT if value == default else Source.STATIC_BROKER
        rows.append(Row(name, [Layer(name, _text(value), source)], _type(value), doc, True))
    return rows + _topic_defaults(gateway.image.defaults)


def _topic_defaults(defaults: Mapping[str, str]) -> list[Row]:
    """What topics get that do not say, under Kafka's broker-wide names."""
    rows = []
    for key, known in TOPIC_CONFIGS.items():
        if key.startswith("logeion."):
            continue
        name = _BROKER_NAMES.get(key, f"log.{key}")
        layers = [Layer(name, known.default, Source.DEFAULT)]
        if key in defaults:
            layers.insert(0, Layer(name, defaults[key], Source.STATIC_BROKER))
        rows.append(Row(name, layers, TYPES[known.type], known.doc, True))
    return rows


def _text(value: object) -> str | None:
    """A value as Kafka writes it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{key}={one}" for key, one in value.items())
    return str(value)


def _type(value: object) -> int:
    if isinstance(value, bool):
        return TYPES["boolean"]
    if isinstance(value, int):
        return TYPES["long" if value > 2**31 - 1 else "int"]
    return TYPES["list" if isinstance(value, (list, dict)) else "string"]
