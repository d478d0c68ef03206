"""What goes wrong between a client and its brokers, beside what the brokers answer (``logeion.errors.KafkaError``).

LogeionError
└─ ClientError              has a hint: what a person can do
   ├─ ConnectError          no connection could be made: which address, from where known, what the system said
   ├─ ConnectionLostError   it was made, and ended with requests unanswered
   ├─ DeadlineError         no answer in time
   ├─ BufferFullError       a producer's buffer has no room
   └─ ClosedError           used after close
"""

from __future__ import annotations

from logeion.wire.errors import LogeionError


class ClientError(LogeionError):
    """The root of what the client itself raises; ``hint`` says what a person can do, and ``str`` says both."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (try: {self.hint})" if self.hint else self.message


class ConnectError(ClientError):
    """No connection to ``address``, which was learned from ``learned_from`` (bootstrap or metadata)."""

    def __init__(self, address: str, learned_from: str, cause: str, hint: str) -> None:
        super().__init__(f"cannot connect to {address} (known from {learned_from}): {cause}", hint)
        self.address = address
        self.learned_from = learned_from
        self.cause = cause


class ConnectionLostError(ClientError):
    """The connection ended while this request was unanswered; the broker may have done what was asked."""


class DeadlineError(ClientError):
    """Nothing came of it in time."""


class BufferFullError(ClientError):
    """A producer holds as many unacknowledged bytes as it may."""


class ClosedError(ClientError):
    """The client, producer or consumer was closed before."""


def said(error: BaseException) -> str:
    """What it says without its hint, for an error that has a hint of its own."""
    return error.message if isinstance(error, ClientError) else str(error)
