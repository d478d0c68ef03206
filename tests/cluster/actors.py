"""Which actors run below a process, by their titles: quick enough to ask while a fault is under way."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

TITLE = re.compile(r"logeion\[(\d+)\] (\S+)(?: (.*?))?(?: epoch (\d+))?$")
# In /proc/PID/stat after the command's name.
STATE, PARENT, STARTED = 0, 1, 19


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class Actor(NamedTuple):
    """One process of a node. ``name`` is the topic and number of a partition or replica, the group of a coordinator."""

    pid: int
    node: int
    kind: str
    name: str
    epoch: int
    started: int  # in ticks since boot: with the pid it is this very process

    def __str__(self) -> str:
        return f"{self.kind}{' ' if self.name else ''}{self.name} of node {self.node}"

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return lives(self.pid, self.started)


class Processes:
    """All processes at one moment, as /proc has them."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._started: dict[int, int] = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                fields = _stat(int(entry.name))
                if fields[STATE] != "Z":
                    self._parents[int(entry.name)] = int(fields[PARENT])
                    self._started[int(entry.name)] = int(fields[STARTED])

    def below(self, root: int) -> set[int]:
        """The living process ``root`` and all its descendants."""
        if root not in self._parents:
            return set()
        children: dict[int, list[int]] = {}
        for pid, parent in self._parents.items():
            children.setdefault(parent, []).append(pid)
        found, fresh = {root}, [root]
        while fresh:
            fresh = [child for parent in fresh for child in children.get(parent, ())]
            found.update(fresh)
        return found

    def started(self, pid: int) -> int:
        """When it started, in ticks since boot; -1 if there is none."""
        return self._started.get(pid, -1)

    def actors(self, pids: set[int]) -> list[Actor]:
        """Those among ``pids`` that have the title of an actor."""
        found = []
        for pid in pids & self._parents.keys():
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if matched := TITLE.fullmatch(title):
                    node, kind, name, epoch = matched.groups()
                    found.append(Actor(pid, int(node), kind, name or "", int(epoch or -1), self._started[pid]))
        return found


def lives(pid: int, started: int) -> bool:
    """Whether this very process still runs."""
    with contextlib.suppress(OSError):
        fields = _stat(pid)
        return fields[STATE] != "Z" and int(fields[STARTED]) == started
    return False
