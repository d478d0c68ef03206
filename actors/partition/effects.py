"""What a partition's leader wants done, as plain data: its machine decides, ``writing`` and ``leading`` carry out."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from logeion.wire.errors import KafkaError

from ..messages import AlterPartition, LogFetched, Message, Refused, Watermark

# Who asked: the shell's business, for the machine only something to hand back.
Ticket = Hashable


class Mail(msgspec.Struct, gc=False):
    """One batch that waits to be appended; ``batch`` is the shell's, the machine never looks at it.

    ``deadline`` is in seconds of the machine's clock.
    """

    ticket: Ticket
    epoch: int
    acks: int
    deadline: float
    batch: object
    writer: str = ""
    incarnation: int = 0


class Written(msgspec.Struct, frozen=True, gc=False):
    """Where one batch of a ``Write`` went; for a duplicate, where its first copy is."""

    first_offset: int
    last_offset: int
    append_time_ms: int = -1


class Write(msgspec.Struct, frozen=True, gc=False):
    """Append these, in this order, with one write; then call ``written`` with one result for each."""

    batches: list[Mail]


class Sync(msgspec.Struct, frozen=True, gc=False):
    """Make all that is written durable, then call ``synced``; none other is asked for until then."""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """The watermark is now here: record it."""

    high_watermark: int


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Reply to this ticket."""

    ticket: Ticket
    message: Message


class Refuse(msgspec.Struct, frozen=True, gc=False):
    """Reply to this mail, which is not appended."""

    mail: Mail
    message: Refused


class Notify(msgspec.Struct, frozen=True, gc=False):
    """Reply to this ticket with ``state()`` as it is when the effect is carried out."""

    ticket: Ticket


class SendLog(msgspec.Struct, frozen=True, gc=False):
    """Tell a follower's lane ``message``, with whole batches of the log from ``offset`` on: at least one, and if there
    are more no more than ``max_bytes``."""

    lane: Hashable
    offset: int
    max_bytes: int
    message: LogFetched


class Tell(msgspec.Struct, frozen=True, gc=False):
    """Tell a follower's lane."""

    lane: Hashable
    message: LogFetched | Watermark


class Drop(msgspec.Struct, frozen=True, gc=False):
    """Close a follower's lane."""

    lane: Hashable
    reason: str


class ProposeIsr(msgspec.Struct, frozen=True, gc=False):
    """Ask the controller; then call ``altered`` with this number and what it said."""

    number: int
    message: AlterPartition


class Resigned(msgspec.Struct, frozen=True, gc=False):
    """Another epoch has begun: all that waited is refused, and nothing will be appended here any more."""


Effect = Write | Sync | Commit | Answer | Refuse | Notify | SendLog | Tell | Drop | ProposeIsr | Resigned


def refusal(error: KafkaError, epoch: int = -1) -> Refused:
    """The message that carries a typed error over a lane."""
    return Refused(code=error.code, reason=str(error), leader_epoch=epoch)
