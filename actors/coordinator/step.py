"""What a coordinator's machine is told besides the request, and what it answers."""

from __future__ import annotations

import msgspec

from ..messages import Message
from .records import GroupRecord

Token = int
"""Names one request while it waits for its answer; the shell's, opaque here."""


class Now(msgspec.Struct, frozen=True, gc=False):
    """The two clocks: ``mono`` in seconds measures waits, ``wall_ms`` only labels records."""

    mono: float
    wall_ms: int


class Step(msgspec.Struct):
    """The outcome of one event: records to append atomically, then, once they are committed, the answers.

    Every answer waits for every record before it: nobody is told what a crash could still undo.
    """

    records: list[GroupRecord] = []
    replies: list[tuple[Token, Message]] = []

    def reply(self, token: Token, message: Message) -> None:
        self.replies.append((token, message))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The group settings of the node (Kafka's names, dots for underscores)."""

    min_session_timeout_ms: int = 6_000
    max_session_timeout_ms: int = 1_800_000
    initial_rebalance_delay_ms: int = 0
    max_size: int = 2**31 - 1
    offset_metadata_max_bytes: int = 4096
    offsets_retention_ms: int = 7 * 24 * 3600 * 1000
    consumer_session_timeout_ms: int = 45_000
    consumer_heartbeat_interval_ms: int = 5_000
    consumer_max_size: int = 2**31 - 1
