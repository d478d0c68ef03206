"""What every Python member shares: its options, its voice, its ear. Imports nothing of the product."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple


class Options(NamedTuple):
    """How to be a member. ``commits``: after every poll that brought something, else only when told."""

    bootstrap: str
    group: str
    topics: tuple[str, ...] = ()
    pattern: str = ""
    protocol: str = "classic"
    strategy: str = ""
    instance: str = ""
    heartbeat_ms: int = 300
    session_ms: int = 0
    commits: bool = False
    quiet: bool = False


def options() -> Options:
    """From the command line."""
    given = json.loads(sys.argv[1])
    given["topics"] = tuple(given.get("topics", ()))
    return Options(**given)


def say(event: str, **details: Any) -> None:
    """One line; ``t`` is now unless given."""
    details.setdefault("t", time.monotonic())
    sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
    sys.stdout.flush()


class Owned:
    """Says what this member owns, whenever that is something else than before."""

    def __init__(self) -> None:
        self.last: list[list[Any]] | None = None

    def now(self, partitions: Iterable[tuple[str, int]]) -> None:
        owned = sorted([topic, partition] for topic, partition in partitions)
        if owned != self.last:
            self.last = owned
            say("owns", partitions=owned)


class Ear:
    """What the test says, line by line; the end of input is ``close``."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._lines.put(line.strip())
        self._lines.put("close")

    def heard(self) -> str:
        """The oldest command, or nothing."""
        try:
            return self._lines.get_nowait()
        except queue.Empty:
            return ""
