"""A topic's configuration as strings, checked the way Kafka checks it."""

from __future__ import annotations

import pytest

from logeion.log.config import TOPIC_CONFIGS, LogConfig, validate
from logeion.wire.errors import ConfigError


def test_defaults_of_the_table_and_of_the_struct_agree() -> None:
    assert LogConfig.from_topic({}) == LogConfig()
    assert LogConfig.from_topic({name: row.default for name, row in TOPIC_CONFIGS.items()}) == LogConfig()


def test_values_arrive_with_their_types() -> None:
    config = LogConfig.from_topic(
        {
            "cleanup.policy": "compact, delete",
            "retention.ms": "-1",
            "min.cleanable.dirty.ratio": "0.1",
            "message.timestamp.type": "LogAppendTime",
            "compression.type": "zstd",
            "logeion.flush": "os",
        }
    )
    assert config.compact and config.delete and config.retention_ms == -1
    assert config.min_cleanable_dirty_ratio == 0.1 and config.log_append_time
    assert (config.compression_type, config.flush) == ("zstd", "os")


@pytest.mark.parametrize(
    "name,value",
    [
        ("cleanup.policy", "shred"),
        ("cleanup.policy", ""),
        ("retention.ms", "-2"),
        ("retention.ms", "a week"),
        ("segment.bytes", "3000000000"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("unclean.leader.election.enable", "perhaps"),
        ("compression.type", "lzma"),
        ("logeion.flush", "never"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name.replace(".", "[.]")):
        validate(name, value)


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"did you mean retention\.ms\?"):
        validate("retention.msec", "1")
