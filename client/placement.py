"""Which partition each record of a producer goes to, by what metadata says of its topic now. Pure."""

from __future__ import annotations

import operator

from logeion.wire.errors import ConfigError, KafkaError

from .metadata import Metadata
from .partitioner import Partitioner, Sticky, by_crc32, by_murmur2

PARTITIONERS: dict[str, Partitioner] = {"murmur2": by_murmur2, "crc32": by_crc32}


class Placement:
    """``counts`` has the number of partitions of every topic that was ``known``; it follows metadata, so that a topic
    that has grown is used whole."""

    def __init__(self, metadata: Metadata, partitioner: str | Partitioner, sticky: Sticky | None = None) -> None:
        """Raises ConfigError."""
        if isinstance(partitioner, str):
            if partitioner not in PARTITIONERS:
                raise ConfigError(f"partitioner={partitioner!r}: it is one of {', '.join(PARTITIONERS)}, or a callable")
            self.by_key: Partitioner = PARTITIONERS[partitioner]
        else:
            self._theirs = partitioner
            self.by_key = self._by_theirs
        self.sticky: Sticky = Sticky() if sticky is None else sticky
        self.counts: dict[str, int] = {}
        self._metadata = metadata
        self._heard = -1

    def known(self, topic: str) -> int:
        """Begins to follow this topic, which metadata knows; how many partitions it has."""
        count = self.counts[topic] = len(self._metadata.topic(topic).partitions)
        return count

    def recount(self) -> None:
        """Follows what metadata has heard since. A topic that it does not know at the moment keeps its partitions."""
        if self._heard == self._metadata.heard:
            return
        self._heard = self._metadata.heard
        for topic in self.counts:
            info = self._metadata.topics.get(topic)
            if info is not None and info.partitions:
                self.counts[topic] = len(info.partitions)

    def batch_closed(self, slot: tuple[str, int]) -> None:
        """Records without a key go elsewhere from now on: where there is a leader, if there is one anywhere."""
        topic, partition = slot

        def led(other: int) -> bool:
            try:
                return self._metadata.leader(topic, other) >= 0
            except KafkaError:
                return False

        self.sticky.batch_closed(topic, partition, self.counts.get(topic, 1), led)

    def _by_theirs(self, key: bytes, count: int) -> int:
        """What a partitioner of the program's says, if that is a partition. Raises TypeError, ValueError."""
        partition = operator.index(self._theirs(key, count))
        if not 0 <= partition < count:
            raise ValueError(f"the partitioner chose {partition} for the key {key!r}: there are 0 to {count - 1}")
        return partition
