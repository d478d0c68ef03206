"""How long each key went unanswered: percentiles, the pause after each fault, stuck keys, how far readers lagged."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from tests.checker.history import Fault
from tests.checker.tables import Processes, Tables
from tests.checker.verdict import Finding

PERCENTILES = (50, 90, 99, 100)


# (start, end): a time without an acknowledgement although a send was waiting for one (or being tried)
Gap: TypeAlias = "tuple[float, float]"


def gaps(tables: Tables) -> list[Gap]:
    """From an acknowledgement, or from the first send asked after it, to the next acknowledgement or last attempt."""
    acked = [entry[0] for entry in tables.acked]
    if not tables.sends:
        return []
    tries = [(send[0], send[3]) for send in tables.sends]
    found: list[Gap] = []
    at = 0
    waiting = tries[0][0]
    for t in acked:
        found.append((waiting, t))
        # The next gap starts now if something asked before is still unanswered, else with the next send.
        while at < len(tries) and tries[at][1] <= t:
            at += 1
        waiting = max(t, tries[at][0]) if at < len(tries) else t
    # The attempts after the last acknowledgement all failed: as long as they went on, the key gave no answer.
    last = max(t_ret for _, t_ret in tries)
    if not acked or last > acked[-1]:
        found.append((waiting, last))
    return found


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """``p50, p90, p99, p100`` in milliseconds, and ``count``."""
    ranked = sorted(values)
    if not ranked:
        return {"count": 0}
    shown = {f"p{p}": round(ranked[max(0, -(-len(ranked) * p // 100) - 1)] * 1000, 3) for p in PERCENTILES}
    return {"count": len(ranked), **shown}


def after_faults(found: list[Gap], faults: list[Fault]) -> dict[int, float]:
    """The longest gap that each fault (by number) may have caused: one that overlaps its time, up to the next fault."""
    longest: dict[int, float] = {}
    starts = [fault.t for fault in faults]
    for start, end in found if faults else ():
        # The latest fault that began before the gap ended is the one to blame.
        number = bisect_right(starts, end) - 1
        if number >= 0 and end - start > longest.get(number, 0.0):
            longest[number] = end - start
    return longest


def stuck(key: str, found: list[Gap], faults: list[Fault], limit_s: float) -> Iterator[Finding]:
    """Gaps longer than the limit, without the times in which no majority was alive."""
    for start, end in found:
        if end - start <= limit_s:
            continue
        excused = sum(max(0.0, min(end, fault.until) - max(start, fault.t)) for fault in faults if not fault.majority)
        if end - start - excused > limit_s:
            note = f"no acknowledgement from {start:.3f} to {end:.3f} although asked, a majority alive"
            yield Finding("stuck", key, note)


def lags(tables: Tables) -> list[float]:
    """For each poll that got records: how long before it the record after its last one was known to exist."""
    times: list[float] = []
    tops: list[int] = []
    for t, _, offset, _ in tables.acked:
        if not tops or offset > tops[-1]:
            times.append(t)
            tops.append(offset)
    found: list[float] = []
    for poll in tables.polls:
        if poll[6] and poll[5] == "ok":
            after = bisect_right(tops, poll[6][-1][0])
            if after < len(tops) and times[after] < poll[0]:
                found.append(poll[0] - times[after])
            else:
                found.append(0.0)
    return found


def consumed(tables: Tables, processes: Processes) -> dict[str, int]:
    """Under a subscription: how many values a process was given once, twice, …"""
    given: Counter[tuple[Any, Any]] = Counter()
    for poll in () if processes.none else tables.polls:
        if processes.subscribed(poll[4], poll[0]):
            given.update((poll[4], value) for _, value in poll[6])
    return {str(times): count for times, count in sorted(Counter(given.values()).items())}
