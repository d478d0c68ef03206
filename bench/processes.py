"""What a broker costs: processor seconds and memory of its whole process tree, from /proc."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name, which may itself hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> set[int]:
    """The process and all its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(stat_fields(int(entry.name))[1]), []).append(int(entry.name))
    found = {root}
    fresh = [root]
    while fresh:
        fresh = [child for parent in fresh for child in children.get(parent, [])]
        found.update(fresh)
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree, with what children already waited for have used."""
    ticks = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            ticks += sum(int(field) for field in stat_fields(pid)[11:15])
    return ticks / TICKS_PER_S


def pss_bytes(root: int) -> int:
    """Proportional set size of the tree: shared pages are counted once in all, by parts."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def wait_gone(pids: set[int], within_s: float) -> float:
    """Wait until none of the processes lives (zombies count as gone); seconds it took."""
    begin = time.monotonic()
    while True:
        left = set()
        for pid in pids:
            with contextlib.suppress(OSError):
                if stat_fields(pid)[0] != "Z":
                    left.add(pid)
        if not left:
            return time.monotonic() - begin
        if time.monotonic() - begin > within_s:
            raise TimeoutError(f"processes {sorted(left)} still live after {within_s} s")
        time.sleep(0.002)
