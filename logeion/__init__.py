"""Logeion: a replicated, partitioned commit log whose parts are actors.

The public names are loaded when they are first used: importing a room (``logeion.wire``, ``logeion.log``) must not
load the client, nor asyncio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import aio as aio
    from . import errors as errors
    from .client import RecordMetadata as RecordMetadata
    from .client import Start as Start
    from .client import TopicPartition as TopicPartition
    from .client.errors import BufferFullError as BufferFullError
    from .client.errors import ClientError as ClientError
    from .client.errors import ClosedError as ClosedError
    from .client.errors import ConnectError as ConnectError
    from .client.errors import ConnectionLostError as ConnectionLostError
    from .client.errors import DeadlineError as DeadlineError
    from .client.sync import Admin as Admin
    from .client.sync import Client as Client
    from .client.sync import Consumer as Consumer
    from .client.sync import Producer as Producer
    from .client.sync import connect as connect
    from .client.topics import DecodeError as DecodeError
    from .client.topics import Record as Record
    from .client.topics import Topic as Topic
    from .errors import ConfigError as ConfigError
    from .errors import KafkaError as KafkaError
    from .errors import LogeionError as LogeionError
    from .errors import StorageError as StorageError
    from .errors import WireError as WireError

# Public name -> the module that defines it; the name of a module stands for itself.
_HOMES = {
    "aio": "logeion.aio",
    "Admin": "logeion.client.sync",
    "Client": "logeion.client.sync",
    "Consumer": "logeion.client.sync",
    "Producer": "logeion.client.sync",
    "connect": "logeion.client.sync",
    "RecordMetadata": "logeion.client",
    "Start": "logeion.client",
    "TopicPartition": "logeion.client",
    "DecodeError": "logeion.client.topics",
    "BufferFullError": "logeion.client.errors",
    "ClientError": "logeion.client.errors",
    "ClosedError": "logeion.client.errors",
    "ConnectError": "logeion.client.errors",
    "ConnectionLostError": "logeion.client.errors",
    "DeadlineError": "logeion.client.errors",
    "Record": "logeion.client.topics",
    "Topic": "logeion.client.topics",
    "ConfigError": "logeion.errors",
    "KafkaError": "logeion.errors",
    "LogeionError": "logeion.errors",
    "StorageError": "logeion.errors",
    "WireError": "logeion.errors",
    "errors": "logeion.errors",
}

__all__ = [
    "Admin",
    "BufferFullError",
    "Client",
    "ClientError",
    "ClosedError",
    "ConfigError",
    "ConnectError",
    "ConnectionLostError",
    "Consumer",
    "DeadlineError",
    "DecodeError",
    "KafkaError",
    "LogeionError",
    "Producer",
    "Record",
    "RecordMetadata",
    "Start",
    "StorageError",
    "Topic",
    "TopicPartition",
    "WireError",
    "aio",
    "connect",
    "errors",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(home)
    value: object = module if home == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
