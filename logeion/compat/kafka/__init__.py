"""kafka-python's names on top of this client: ``from logeion.compat.kafka import KafkaProducer, KafkaConsumer``.

What differs is a table in docs/migrating.md. The same test file runs with ``import kafka`` and with this.
"""

from __future__ import annotations

from . import errors as errors
from .admin import KafkaAdminClient as KafkaAdminClient
from .consumer import KafkaConsumer as KafkaConsumer
from .producer import KafkaProducer as KafkaProducer
from .structs import ConsumerGroupMetadata as ConsumerGroupMetadata
from .structs import ConsumerRebalanceListener as ConsumerRebalanceListener
from .structs import ConsumerRecord as ConsumerRecord
from .structs import OffsetAndMetadata as OffsetAndMetadata
from .structs import OffsetAndTimestamp as OffsetAndTimestamp
from .structs import RecordMetadata as RecordMetadata
from .structs import TopicPartition as TopicPartition

__all__ = [
    "ConsumerGroupMetadata",
    "ConsumerRebalanceListener",
    "ConsumerRecord",
    "KafkaAdminClient",
    "KafkaConsumer",
    "KafkaProducer",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "RecordMetadata",
    "TopicPartition",
    "errors",
]
