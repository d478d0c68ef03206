"""A Kafka client: it speaks only the wire protocol, so it works against any Kafka.

async with connect("localhost:9092") as client:
    async with client.producer() as producer:
        print(await producer.send("orders", b"9.50", b"ada"))
    async with client.consumer() as consumer:
        await consumer.assign("orders", Start("start"), to_end=True)
        async for partition, record in consumer:
            print(partition, record.offset, record.value)
"""

from __future__ import annotations

if __name__ == "client":
    raise ImportError("import logeion.client: a second copy of every class would be loaded under the name client")

from .admin import Admin as Admin
from .cluster import Cluster as Cluster
from .connecting import Client as Client
from .connecting import connect as connect
from .consumer import Consumer as Consumer
from .positions import Start as Start
from .positions import TopicPartition as TopicPartition
from .producer import Delivery as Delivery
from .producer import Producer as Producer
from .producer import RecordMetadata as RecordMetadata
