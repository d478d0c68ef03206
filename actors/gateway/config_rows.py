"""One row of DescribeConfigs, and Kafka's numbers for where a value comes from and what type it has."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Source(IntEnum):
    """Where a value comes from."""

    TOPIC = 1
    STATIC_BROKER = 4
    DEFAULT = 5


TYPES = {"boolean": 1, "string": 2, "int": 3, "long": 5, "double": 6, "list": 7, "password": 9}


class Row(NamedTuple):
    """One key; ``layers`` are its values as (name, value, source), the one in force first."""

    name: str
    layers: list[tuple[str, str | None, Source]]
    type: int
    doc: str
    read_only: bool = False
    sensitive: bool = False
