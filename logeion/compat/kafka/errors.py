"""kafka-python's errors. Those that a broker answers with are this client's own classes, under both names.

``KafkaError`` is the root of all, so ``except KafkaError`` catches whatever either library would raise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from logeion.client.errors import BufferFullError, ClientError, ClosedError, ConnectError, DeadlineError, said
from logeion.wire import errors as _wire
from logeion.wire.errors import ConfigError, LogeionError
from logeion.wire.errors import for_code as for_code

KafkaError = LogeionError
BrokerResponseError = _wire.KafkaError
KafkaConfigurationError = ConfigError
KafkaConnectionError = NoBrokersAvailable = NodeNotReadyError = ConnectError

# Those whose name is another one here.
NotLeaderForPartitionError = _wire.NotLeaderOrFollowerError
MessageSizeTooLargeError = _wire.MessageTooLargeError
InvalidReplicationAssignmentError = _wire.InvalidReplicaAssignmentError
InvalidConfigurationError = _wire.InvalidConfigError
UnknownError = _wire.UnknownServerError
CorruptRecordError = CorruptRecordException = _wire.CorruptMessageError
CommitFailedError = _wire.IllegalGenerationError
NoOffsetForPartitionError = _wire.OffsetOutOfRangeError
UnsupportedCodecError = _wire.UnsupportedCompressionTypeError


class KafkaTimeoutError(ClientError):
    """It did not happen in time."""


class IllegalStateError(ClientError):
    """Not now: after ``close``, or before what it needs."""


class IllegalArgumentError(ClientError):
    """A value that cannot be."""


def __getattr__(name: str) -> type[Exception]:
    found = getattr(_wire, name, None)
    if isinstance(found, type) and issubclass(found, LogeionError):
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What the client raises, as kafka-python would name it."""
    try:
        yield
    except (DeadlineError, BufferFullError, TimeoutError) as error:
        raise KafkaTimeoutError(said(error), getattr(error, "hint", "")) from error
    except ClosedError as error:
        raise IllegalStateError(said(error), error.hint) from error
