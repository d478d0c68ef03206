"""KafkaProducer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from logeion.client.background import own_cluster
from logeion.client.settings import StandaloneProducerSettings, checked
from logeion.client.sync_producer import Producer, SendFuture

from .configs import serializer, taken
from .errors import IllegalStateError, KafkaTimeoutError, translated
from .structs import RecordMetadata, TopicPartition, headers_size, size

KNOWN = {
    "acks",
    "enable_idempotence",
    "linger_ms",
    "batch_size",
    "max_request_size",
    "compression_type",
    "delivery_timeout_ms",
    "max_block_ms",
    "partitioner",
    "key_serializer",
    "value_serializer",
    "buffer_memory",
}


class FutureRecordMetadata:
    """What becomes of one record."""

    __slots__ = ("_future", "_sizes")

    def __init__(self, future: SendFuture, sizes: tuple[int, int, int]) -> None:
        self._future = future
        self._sizes = sizes

    @property
    def is_done(self) -> bool:
        return self._future.done()

    def succeeded(self) -> bool:
        """Whether it is acknowledged by now."""
        return self._future.succeeded()

    def failed(self) -> bool:
        """Whether it is known by now that it will not be."""
        return self._future.done() and self._future.exception() is not None

    def retriable(self) -> bool:
        """Whether what it failed with could go well another time."""
        return bool(getattr(self.exception, "retriable", False))

    @property
    def value(self) -> RecordMetadata | None:
        return self.get(0) if self.succeeded() else None

    @property
    def exception(self) -> BaseException | None:
        return self._future.exception() if self.is_done else None

    def get(self, timeout: float | None = None) -> RecordMetadata:
        """Waits so many seconds. Raises its error, KafkaTimeoutError."""
        with translated():
            return self._told(self._future.result(timeout))

    def _told(self, where: Any) -> RecordMetadata:
        tp = TopicPartition(where.topic, where.partition)
        return RecordMetadata(*tp, tp, where.offset, where.timestamp_ms, None, *self._sizes)

    def add_callback(self, f: Callable[..., object], *args: Any, **kwargs: Any) -> FutureRecordMetadata:
        """Calls ``f(*args, RecordMetadata, **kwargs)`` once it is acknowledged."""
        self._future.add_callback(lambda where: f(*args, self._told(where), **kwargs))
        return self

    def add_errback(self, f: Callable[..., object], *args: Any, **kwargs: Any) -> FutureRecordMetadata:
        """Calls ``f(*args, error, **kwargs)`` if it fails."""
        self._future.add_errback(lambda error: f(*args, error, **kwargs))
        return self

    def add_both(self, f: Callable[..., object], *args: Any, **kwargs: Any) -> FutureRecordMetadata:
        """Either way."""
        return self.add_callback(f, *args, **kwargs).add_errback(f, *args, **kwargs)


class KafkaProducer:
    """See kafka-python for the settings; ``linger_ms`` is 0 as there, ``buffer_memory`` is this client's."""

    def __init__(self, **configs: Any) -> None:
        settings = taken("KafkaProducer", KNOWN, configs)
        self._key = serializer(settings.pop("key_serializer", None))
        self._value = serializer(settings.pop("value_serializer", None))
        settings.setdefault("linger_ms", 0)
        settings.setdefault("batch_size", 16_384)
        settings.setdefault("bootstrap_servers", "localhost:9092")
        if settings.get("acks") == -1:
            settings["acks"] = "all"
        if settings.get("acks", "all") != "all":
            settings.setdefault("enable_idempotence", False)
        partitioner = settings.get("partitioner")
        if callable(partitioner):
            settings["partitioner"] = _adapted(partitioner)
        self._closed = False
        with translated():
            checked(StandaloneProducerSettings, settings)
            self._background, self._cluster = own_cluster(settings)
            try:
                self._producer = Producer.of(self._cluster, self._background, settings)
            except BaseException:
                self._background.run(self._cluster.close())
                raise

    def __enter__(self) -> KafkaProducer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: Iterable[tuple[str, bytes | None]] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> FutureRecordMetadata:
        """Raises TypeError for what is not bytes after its serializer, KafkaTimeoutError when there is no room."""
        if self._closed:
            raise IllegalStateError("KafkaProducer already closed!")
        pairs = list(headers or ())
        data = value if self._value is None else self._value(topic, pairs, value)
        key_data = key if self._key is None else self._key(topic, pairs, key)
        for what, one in (("value", data), ("key", key_data)):
            if not isinstance(one, bytes | bytearray | memoryview | None):
                raise TypeError(f"Unsupported type for serialized {what}: {type(one)}")
        with translated():
            future = self._producer.send(
                topic, data, key_data, headers=pairs, partition=partition, timestamp_ms=timestamp_ms
            )
        return FutureRecordMetadata(future, (size(key_data), size(data), headers_size(pairs)))

    def flush(self, timeout: float | None = None) -> None:
        """Until all that was sent is settled. Raises KafkaTimeoutError after so many seconds."""
        try:
            self._producer.flush(timeout)
        except TimeoutError as error:
            raise KafkaTimeoutError(f"not all records are acknowledged within {timeout} s") from error

    def partitions_for(self, topic: str) -> set[int]:
        """The partitions of this topic. Raises UnknownTopicOrPartitionError."""
        with translated():
            info = self._background.run(self._cluster.topic(topic))
        return {one.index for one in info.partitions}

    def bootstrap_connected(self) -> bool:
        """Whether a broker was found; the constructor has seen to it."""
        return not self._closed

    def metrics(self, raw: bool = False) -> dict[str, Any]:
        """None are kept here."""
        return {}

    def close(self, timeout: float | None = None) -> None:
        """Flushes, at most so many seconds, and ends it."""
        if self._closed:
            return
        self._closed = True
        try:
            self._producer.close(timeout)
        finally:
            self._background.run(self._cluster.close())


def _adapted(partitioner: Callable[[bytes, list[int], list[int]], int]) -> Callable[[bytes, int], int]:
    """kafka-python's partitioners choose from lists: all partitions, and those that have a leader."""
    return lambda key, count: partitioner(key, list(range(count)), list(range(count)))
