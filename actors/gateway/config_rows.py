"""The rows of DescribeConfigs, and Kafka's numbers for where a value comes from and what type it has."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from logeion.log.config import TOPIC_CONFIGS


class Source(IntEnum):
    """Where a value comes from."""

    TOPIC = 1
    BROKER = 2
    BROKERS = 3
    STATIC_BROKER = 4
    DEFAULT = 5


TYPES = {"boolean": 1, "string": 2, "int": 3, "long": 5, "double": 6, "list": 7}


# Characters of a value: no key needs more, and old versions of DescribeConfigs could not show much more.
VALUE_MAX = 4_096


class Layer(NamedTuple):
    """One value that a key has somewhere, under the name it has there."""

    name: str
    value: str | None
    source: Source


class Row(NamedTuple):
    """One key; of its ``layers`` the first is in force."""

    name: str
    layers: list[Layer]
    type: int
    doc: str
    read_only: bool = False


def topic_rows(overrides: Mapping[str, str | None], defaults: Mapping[str, str]) -> list[Row]:
    """All keys of a topic: what was set on it, else this node's default, else Kafka's."""
    rows = []
    for key, known in sorted(TOPIC_CONFIGS.items()):
        layers = [Layer(key, known.default, Source.DEFAULT)]
        if key in defaults:
            layers.insert(0, Layer(f"logeion.topics.configs.{key}", defaults[key], Source.STATIC_BROKER))
        if overrides.get(key) is not None:
            layers.insert(0, Layer(key, overrides[key], Source.TOPIC))
        rows.append(Row(key, layers, TYPES[known.type], known.doc))
    return rows
