"""The client for programs that use asyncio."""

from __future__ import annotations

from logeion.client import Client as Client
from logeion.client import Delivery as Delivery
from logeion.client import RecordMetadata as RecordMetadata
from logeion.client import Start as Start
from logeion.client import TopicPartition as TopicPartition
from logeion.client import connect as connect
from logeion.client.aio_admin import Admin as Admin
from logeion.client.aio_ends import Consumer as Consumer
from logeion.client.aio_ends import Producer as Producer
from logeion.client.errors import BufferFullError as BufferFullError
from logeion.client.errors import ClientError as ClientError
from logeion.client.errors import ClosedError as ClosedError
from logeion.client.errors import ConnectError as ConnectError
from logeion.client.errors import ConnectionLostError as ConnectionLostError
from logeion.client.errors import DeadlineError as DeadlineError
from logeion.client.subscriber import Batch as Batch
from logeion.client.subscriber import Subscriber as Subscriber
from logeion.client.topics import DecodeError as DecodeError
from logeion.client.topics import Record as Record
from logeion.client.topics import Topic as Topic
