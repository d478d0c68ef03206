"""A topic's configuration: Kafka's keys, types, defaults and limits, and the struct a log works with.

``TOPIC_CONFIGS`` is the one table: CreateTopics and AlterConfigs validate by it, DescribeConfigs shows it,
``LogConfig`` is read through it. Values travel as strings, as in Kafka. ``BROKER_CONFIGS`` are the few keys of a
broker that can be changed while it runs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping

import msgspec

from logeion.wire.errors import ConfigError

LONG_MAX = 2**63 - 1
INT_MAX = 2**31 - 1

BOOLEAN, STRING, INT, LONG, DOUBLE, LIST = "boolean", "string", "int", "long", "double", "list"

Value = bool | str | int | float | list[str]


class TopicConfig(msgspec.Struct, frozen=True):
    """One key: Kafka's type name, default as a string, the check of a parsed value ("" is fine) and one sentence."""

    name: str
    type: str
    default: str
    check: Callable[[Value], str]
    doc: str

    def parse(self, text: str) -> Value:
        """The value of the right type; raises ``ConfigError`` that names the key, the value and what is allowed."""
        try:
            value = _PARSERS[self.type](text)
        except ValueError:
            raise ConfigError(f"{self.name}={text!r} is not a valid {self.type}") from None
        fault = self.check(value)
        if fault:
            raise ConfigError(f"{self.name}={text!r}: {fault}")
        return value


def _boolean(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in ("true", "false"):
        raise ValueError
    return lowered == "true"


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


_PARSERS: dict[str, Callable[[str], Value]] = {
    BOOLEAN: _boolean,
    STRING: str.strip,
    INT: int,
    LONG: int,
    DOUBLE: float,
    LIST: _list,
}


def _between(low: float, high: float) -> Callable[[Value], str]:
    def check(value: Value) -> str:
        # written so that NaN fails
        fine = isinstance(value, (int, float)) and low <= value <= high
        return "" if fine else f"must be between {low} and {high}"

    return check


def _one_of(*allowed: str) -> Callable[[Value], str]:
    def check(value: Value) -> str:
        return "" if value in allowed else f"must be one of {', '.join(allowed)}"

    return check


def _policies(value: Value) -> str:
    assert isinstance(value, list)
    wrong = [item for item in value if item not in ("delete", "compact")]
    if wrong or not value:
        return "must be delete, compact, or both separated by a comma"
    return ""


def _anything(_value: Value) -> str:
    return ""


_REPLICA = re.compile(r"[0-9]+:[0-9]+")


def _replicas(value: Value) -> str:
    assert isinstance(value, list)
    if value == ["*"] or all(_REPLICA.fullmatch(item) for item in value):
        return ""
    return "must be *, or PARTITION:BROKER, several separated by commas"


_CODECS = ("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")


def _table(*rows: tuple[str, str, str, Callable[[Value], str], str]) -> dict[str, TopicConfig]:
    return {row[0]: TopicConfig(*row) for row in rows}


TOPIC_CONFIGS: dict[str, TopicConfig] = _table(
    ("cleanup.policy", LIST, "delete", _policies, "delete old segments, compact by key, or both (KIP-71)"),
    ("compression.type", STRING, "producer", _one_of(*_CODECS), "producer keeps the batch's codec, else recompress"),
    ("delete.retention.ms", LONG, "86400000", _between(0, LONG_MAX), "how long a compacted topic keeps tombstones"),
    ("file.delete.delay.ms", LONG, "60000", _between(0, LONG_MAX), "how long a removed file stays as .deleted"),
    (
        "flush.messages",
        LONG,
        str(LONG_MAX),
        _between(1, LONG_MAX),
        "with logeion.flush=interval: sync after so many records",
    ),
    (
        "flush.ms",
        LONG,
        str(LONG_MAX),
        _between(0, LONG_MAX),
        "with logeion.flush=interval: sync after so long (unset: 1000)",
    ),
    (
        "follower.replication.throttled.replicas",
        LIST,
        "",
        _replicas,
        "replicas whose fetching is throttled (KIP-73)",
    ),
    ("index.interval.bytes", INT, "4096", _between(0, INT_MAX), "log bytes between two entries of the offset index"),
    ("leader.replication.throttled.replicas", LIST, "", _replicas, "replicas whose leader is throttled (KIP-73)"),
    (
        "max.compaction.lag.ms",
        LONG,
        str(LONG_MAX),
        _between(1, LONG_MAX),
        "compact at the latest after so long (KIP-354)",
    ),
    (
        "max.message.bytes",
        INT,
        "1048588",
        _between(0, INT_MAX),
        "the largest record batch, compressed, header included",
    ),
    ("message.timestamp.after.max.ms", LONG, "3600000", _between(0, LONG_MAX), "how far ahead of the broker (KIP-937)"),
    (
        "message.timestamp.before.max.ms",
        LONG,
        str(LONG_MAX),
        _between(0, LONG_MAX),
        "how far behind the broker (KIP-937)",
    ),
    ("message.timestamp.type", STRING, "CreateTime", _one_of("CreateTime", "LogAppendTime"), "whose clock (KIP-32)"),
    ("min.cleanable.dirty.ratio", DOUBLE, "0.5", _between(0, 1), "compact once this share of the log is uncompacted"),
    ("min.compaction.lag.ms", LONG, "0", _between(0, LONG_MAX), "leave records alone for so long"),
    ("min.insync.replicas", INT, "1", _between(1, INT_MAX), "acks=all needs so many in-sync replicas"),
    ("retention.bytes", LONG, "-1", _between(-1, LONG_MAX), "size of a partition; -1 without limit"),
    ("retention.ms", LONG, "604800000", _between(-1, LONG_MAX), "age of the newest record of a segment; -1 for ever"),
    ("segment.bytes", INT, "1073741824", _between(1024, INT_MAX), "size at which a segment is closed"),
    ("segment.index.bytes", INT, "10485760", _between(24, INT_MAX), "size of an index at which a segment is closed"),
    ("segment.jitter.ms", LONG, "0", _between(0, LONG_MAX), "random part taken off segment.ms"),
    ("segment.ms", LONG, "604800000", _between(1, LONG_MAX), "age at which a segment is closed"),
    ("unclean.leader.election.enable", BOOLEAN, "false", _anything, "may a replica outside the ISR lead"),
    ("logeion.flush", STRING, "ack", _one_of("ack", "interval", "os"), "sync before the ack, at intervals, or never"),
)


# Set on one broker, or as the default of all of them; Kafka's tools set all three and take them back.
BROKER_CONFIGS: dict[str, TopicConfig] = _table(
    (
        "follower.replication.throttled.rate",
        LONG,
        str(LONG_MAX),
        _between(0, LONG_MAX),
        "bytes a second for throttled replicas that follow here (KIP-73)",
    ),
    (
        "leader.replication.throttled.rate",
        LONG,
        str(LONG_MAX),
        _between(0, LONG_MAX),
        "bytes a second for throttled replicas that are led here (KIP-73)",
    ),
    (
        "replica.alter.log.dirs.io.max.bytes.per.second",
        LONG,
        str(LONG_MAX),
        _between(0, LONG_MAX),
        "kept for Kafka's tools: there is one log directory",
    ),
)


def validate(name: str, value: str) -> Value:
    """The parsed value of a topic config; raises ``ConfigError`` with a did-you-mean for an unknown key."""
    known = TOPIC_CONFIGS.get(name)
    if known is None:
        close = difflib.get_close_matches(name, TOPIC_CONFIGS, n=1)
        raise ConfigError(f"unknown topic config {name!r}" + (f", did you mean {close[0]}?" if close else ""))
    return known.parse(value)


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one log is run by. Times in milliseconds, sizes in bytes; -1 is "no limit" for the two retentions."""

    compact: bool = False
    delete: bool = True
    compression_type: str = "producer"
    delete_retention_ms: int = 86_400_000
    file_delete_delay_ms: int = 60_000
    flush: str = "ack"
    flush_messages: int = LONG_MAX
    flush_ms: int = 1_000
    index_interval_bytes: int = 4_096
    max_compaction_lag_ms: int = LONG_MAX
    max_message_bytes: int = 1_048_588
    timestamp_after_max_ms: int = 3_600_000
    timestamp_before_max_ms: int = LONG_MAX
    log_append_time: bool = False
    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    min_insync_replicas: int = 1
    retention_bytes: int = -1
    retention_ms: int = 604_800_000
    segment_bytes: int = 1_073_741_824
    segment_index_bytes: int = 10_485_760
    segment_jitter_ms: int = 0
    segment_ms: int = 604_800_000
    # Not topic configs: what a broker fixes for all of its logs.
    producer_id_expiration_ms: int = 86_400_000
    max_decompressed_bytes: int = 64 * 1_048_576
    # A record of seven bytes takes over a hundred once it is read: what may be read of one batch is bounded in both.
    max_decoded_records: int = 500_000
    compaction_keys: int = 1_000_000

    @classmethod
    def from_topic(cls, configs: Mapping[str, str]) -> LogConfig:
        """From a topic's effective configuration (absent keys have Kafka's default); raises ``ConfigError``."""
        fields: dict[str, Value] = {}
        for name, text in configs.items():
            value = validate(name, text)
            if name == "cleanup.policy":
                assert isinstance(value, list)
                fields["compact"], fields["delete"] = "compact" in value, "delete" in value
            elif name == "message.timestamp.type":
                fields["log_append_time"] = value == "LogAppendTime"
            elif name == "logeion.flush":
                fields["flush"] = value
            elif name == "flush.ms":
                fields["flush_ms"] = value if value != LONG_MAX else 1_000
            elif name.startswith("message.timestamp."):
                fields[name.removeprefix("message.").replace(".", "_")] = value
            else:
                field = name.replace(".", "_")
                if field in cls.__struct_fields__:
                    fields[field] = value
        return msgspec.convert(fields, cls)
