"""The processes below this one: who they are, what they hold, and how to end them all."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

END_S = 5.0


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pids: list[int]) -> list[int]:
    """These processes and all below them."""
    found = list(pids)
    for pid in found:
        found += children(pid)
    return found


def is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal or a debugger, and does nothing until it is let go on."""
    try:
        # The state is what follows the name, which may itself hold a parenthesis.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def reap() -> list[tuple[int, int]]:
    """Collect the children that have ended, orphans of the tree too: pid and exit code, -N for a signal."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append((found[0], os.waitstatus_to_exitcode(found[1])))
    return ended


def end_descendants() -> None:
    """SIGKILL for every process below this one, however deep, and wait for them."""
    deadline = time.monotonic() + END_S
    while True:
        below = children(os.getpid())
        for pid in descendants(below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        if not children(os.getpid()) or time.monotonic() > deadline:
            return
        time.sleep(0.002)


def memory(pids: list[int]) -> int:
    """What they hold together, in bytes (PSS: what they share is counted once)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total
