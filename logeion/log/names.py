"""The names in a partition's directory: Kafka's where Kafka has one."""

from __future__ import annotations

import re
from typing import NamedTuple

LOG = ".log"
INDEX = ".index"
TIME_INDEX = ".timeindex"
SNAPSHOT = ".snapshot"
DELETED = ".deleted"
CLEANED = ".cleaned"
SWAP = ".swap"
SEGMENT_FILES = (LOG, INDEX, TIME_INDEX)

EPOCHS = "leader-epoch-checkpoint"
METADATA = "partition.metadata"
RECOVERY_POINT = "recovery-point-checkpoint"
CLEAN_SHUTDOWN = ".kafka_cleanshutdown"
LOG_START = "log-start-offset-checkpoint"
CLEANER = "cleaner-offset-checkpoint"
STATE = "partition-state"
SYNCED_END = "synced-end"
FAILED = "storage-failed"
LOCK = ".lock"
QUORUM_STATE = "quorum-state"
TEMPORARY = ".tmp"

SINGLE = frozenset(
    (
        EPOCHS,
        METADATA,
        RECOVERY_POINT,
        CLEAN_SHUTDOWN,
        LOG_START,
        CLEANER,
        STATE,
        SYNCED_END,
        FAILED,
        LOCK,
        QUORUM_STATE,
    )
)

_SEGMENT = re.compile(
    r"(\d{20})(\.log|\.index|\.timeindex|\.snapshot)(\.deleted|\.cleaned|\.swap|\.tmp|\.swap\.tmp)?", re.ASCII
)

# Snapshots of the metadata log (KIP-630) lie beside its segments; the Controller reads and writes them.
_METADATA_SNAPSHOT = re.compile(r"\d{20}-\d{10}\.checkpoint", re.ASCII)


class SegmentName(NamedTuple):
    """A file of a segment: its base offset, what it is, and what is happening to it ("" for nothing)."""

    base: int
    kind: str
    state: str


def stem(base: int) -> str:
    """A segment's name without suffix."""
    return f"{base:020d}"


def parse(name: str) -> SegmentName | None:
    """The parts of a segment file's name; None if it is none (or names an offset that does not exist)."""
    match = _SEGMENT.fullmatch(name)
    if match is None or int(match[1]) > 2**63 - 1:
        return None
    return SegmentName(int(match[1]), match[2], match[3] or "")


def is_known(name: str) -> bool:
    """Whether a file that belongs to no segment is one of ours."""
    return name in SINGLE or _METADATA_SNAPSHOT.fullmatch(name) is not None


def looks_like_segment(name: str) -> bool:
    """Whether a foreign name could be taken for a part of the log: then nobody guesses, the directory is refused."""
    return any(suffix in name for suffix in (LOG, INDEX, TIME_INDEX, SNAPSHOT))
