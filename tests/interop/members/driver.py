"""The test's side of a member: starts the process, reads its lines, knows what it owns and has taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.broker import until
from tests.tools import ROOT

Partition = tuple[str, int]


class MemberProcess:
    """One member. ``events`` grows while it runs; all waits have a deadline."""

    def __init__(self, command: list[str], errors: Path, environment: dict[str, str] | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.errors = errors
        self._stderr = errors.open("ab")
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def python(cls, module: str, errors: Path, **options: Any) -> MemberProcess:
        return cls([sys.executable, "-m", f"tests.interop.members.{module}", json.dumps(options)], errors)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            for event in self.parse(line.decode()):
                self.events.append(event)

    def parse(self, line: str) -> list[dict[str, Any]]:
        """What one line says."""
        return [json.loads(line)]

    # What is known of it

    @property
    def owned(self) -> set[Partition]:
        """What it owned last."""
        for event in reversed(self.events):
            if event["event"] == "owns":
                return {(topic, number) for topic, number in event["partitions"]}
        return set()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "record"]

    @property
    def values(self) -> list[str]:
        """All it was given, in order."""
        return [event["value"] for event in self.records]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    # What it is told

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def commit(self, seconds: float = 10.0) -> None:
        """Have it commit what it has taken, and wait until it has."""
        before = len(self.of("commit"))
        self.tell("commit")
        until(lambda: len(self.of("commit")) > before, seconds, f"a commit\n{self.story()}")
        assert self.of("commit")[-1]["ok"], self.of("commit")[-1]

    def close(self, seconds: float = 15.0) -> None:
        """Leave the group properly and end."""
        self.tell("close")
        until(lambda: self.process.poll() is not None, seconds, f"the end of a member\n{self.story()}")
        self.end()

    def kill(self) -> None:
        """Die without a word."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Nothing is left of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    def story(self) -> str:
        """For a failed test: its last events and what it complained of."""
        lines = [json.dumps(event) for event in self.events if event["event"] != "record"][-15:]
        return "\n".join([*lines, f"{len(self.records)} records", self.errors.read_text(errors="replace")[-2000:]])


def until_owned(members: list[MemberProcess], partitions: set[Partition], seconds: float) -> float:
    """Until each of these partitions has exactly one owner and everybody has one; how long that took."""
    began = time.monotonic()

    def shared() -> bool:
        shares = [member.owned for member in members]
        return (
            all(shares)
            and sum(len(share) for share in shares) == len(partitions)
            and set().union(*shares) == partitions
        )

    until_told(shared, seconds, members)
    return time.monotonic() - began


def until_told(condition: Callable[[], Any], seconds: float, members: list[MemberProcess]) -> Any:
    """``until``, with what the members have to tell if it does not come true."""
    try:
        return until(condition, seconds, "see below")
    except AssertionError as error:
        told = "\n".join(f"{one.process.args!r} owns {sorted(one.owned)}\n{one.story()}" for one in members)
        raise AssertionError(f"{error}\n{told}") from None
