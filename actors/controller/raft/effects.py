"""What a step asks of the shell, and in which order: the order *is* the safety of the protocol.

    1. ``before`` may leave at once (a leader's entries travel while its own disk works);
    2. ``writes`` are carried out in their order, then one sync makes them durable;
    3. only then ``after`` leaves (votes and acknowledgements, which promise what was written);
    4. only then ``committed`` is applied and answered.

The machine has moved on as if all of it were done. So the next ``step`` comes after 4, and a shell whose write or sync
fails ends its process: nobody knows what is on the disk, and nothing has left that depended on it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from .messages import Entry, Snapshot, Told, VoterId


class Send(NamedTuple):
    """To this voter; a message that cannot be delivered is dropped, the machines repeat what matters."""

    to: VoterId
    message: Told


class SaveVote(msgspec.Struct, frozen=True, gc=False):
    """Replace the stored term and vote, and whether this voter is blank, atomically."""

    term: int
    voted_for: VoterId | None
    blank: bool = False


class SaveSnapshot(msgspec.Struct, frozen=True, gc=False):
    """Store this snapshot, durably, before anything of the log goes. Then entries that end at or before ``start`` may
    go; with ``reset`` the whole log, which does not continue it. ``log.continued`` finishes that after a crash."""

    snapshot: Snapshot
    start: int
    reset: bool


class TruncateLog(msgspec.Struct, frozen=True, gc=False):
    """Cut the log so that it ends at ``end``, an entry's boundary."""

    end: int


class AppendLog(msgspec.Struct, frozen=True):
    """Write these entries at the log's end."""

    entries: list[Entry]


Write = SaveVote | SaveSnapshot | TruncateLog | AppendLog


class Effects(msgspec.Struct):
    """See the module. ``committed`` is in log order; a snapshot among it replaces everything before."""

    before: list[Send] = []
    writes: list[Write] = []
    after: list[Send] = []
    committed: list[Entry | Snapshot] = []


def send(out: list[Send], to: VoterId, message: Told) -> None:
    out.append(Send(to, message))
