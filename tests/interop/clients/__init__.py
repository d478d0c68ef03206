"""One face for every foreign client, so that the scenarios are written once.

An adapter adds nothing of its own: it leaves the client at its defaults and only translates names. What a client
cannot say at all (kcat sets no timestamps and creates no topics) is a class attribute here, not a skipped test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import msgspec

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
At = int | str  # an offset, "start", "end", or "@<milliseconds>"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record as a client sends it and gets it back. Without a timestamp the client takes its clock."""

    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int | None = None
    offset: int | None = None


class ProduceFailed(Exception):
    """The client gave the record back: `code` is Kafka's error code where the client tells it."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Reader(Protocol):
    """A consumer assigned one partition, its starting position already resolved."""

    def take(self, count: int, timeout_s: float = 20.0) -> list[Record]: ...

    def close(self) -> None: ...


class Client:
    """What the scenarios ask of a client. `produce` writes to one partition in order and returns when all is acked."""

    name: ClassVar[str]
    makes_topics: ClassVar[bool] = True
    sets_timestamps: ClassVar[bool] = True
    orders_concurrent_sends: ClassVar[bool] = True

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def close(self) -> None:
        """End what the client keeps running."""

    def create_topic(self, topic: str, partitions: int, configs: dict[str, str]) -> None:
        raise AssertionError(f"{self.name} creates no topics")

    def delete_topic(self, topic: str) -> None:
        raise AssertionError(f"{self.name} deletes no topics")

    def partitions(self, topic: str) -> int:
        """How many partitions the client sees; 0 where there is no such topic."""
        raise NotImplementedError

    def produce(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        codec: str = "none",
        max_bytes: int | None = None,
    ) -> None:
        """Write in order and wait for all acks; `max_bytes` raises the client's own limits. Raises ProduceFailed."""
        raise NotImplementedError

    def produce_in_flight(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        """Write idempotently in many small batches, five requests in flight."""
        raise NotImplementedError

    def read(self, topic: str, partition: int, at: At) -> Reader:
        raise NotImplementedError
