"""What was found, and which of it is a fault: the two readings of every anomaly, Jepsen's and the strict one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

JEPSEN = frozenset(
    {
        "inconsistent-offsets",
        "duplicate",
        "G1a",
        "lost-write",
        "unseen",
        "int-poll-skip",
        "int-nonmonotonic-poll",
        "poll-skip",
        "nonmonotonic-poll",
        "int-send-skip",
        "int-nonmonotonic-send",
        "nonmonotonic-send",
        "precommitted-read",
        "G0",
        "G1c",
        "G1c-ww",
    }
)
STRICT = JEPSEN | frozenset(
    {
        "phantom",
        "realtime-order",
        "ack-rebind",
        "stale-end",
        "missed-tail",
        "zombie-ack",
        "split-replica",
        "hole",
        "group-skip",
        "group-double-owner",
        "commit-regress",
        "over-redelivery",
        "stuck",
    }
)
VARIANTS = frozenset(f"{name}-{edges}" for name in ("G0", "G1c", "G1c-ww") for edges in ("process", "realtime"))

# What a fault also shows itself as: a lost record is also a jump of the poller that should have met it.
CONSEQUENCES: dict[str, frozenset[str]] = {
    "lost-write": frozenset({"unseen", "missed-tail", "poll-skip", "int-poll-skip", "group-skip"}),
    "unseen": frozenset({"missed-tail", "group-skip"}),
    "ack-rebind": frozenset(
        {"duplicate", "inconsistent-offsets", "lost-write", "unseen", "missed-tail", "realtime-order", "stale-end"}
        | {"nonmonotonic-send", "hole", "poll-skip", "nonmonotonic-poll", "int-poll-skip", "int-nonmonotonic-poll"}
    ),
    "duplicate": frozenset({"poll-skip", "nonmonotonic-poll", "int-poll-skip", "int-nonmonotonic-poll"}),
    "zombie-ack": frozenset({"lost-write", "unseen", "missed-tail", "poll-skip", "int-poll-skip"}),
    "group-skip": frozenset({"poll-skip", "int-poll-skip"}),
}
KEPT = 100


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """How the clients of the history were set; the ``config`` lines of a history have these fields."""

    acks: Literal["all", "1", "0"] = "all"
    idempotent: bool = True
    transactions: bool = False
    # A key that is asked for all the time and answers nothing for this many seconds is stuck.
    stuck_after_s: float = 30.0


class Finding(msgspec.Struct, frozen=True):
    """One anomaly: where, which values, which operations (numbers in reading order), and what else is known of it."""

    anomaly: str
    key: str
    note: str
    offsets: tuple[int, ...] = ()
    values: tuple[Any, ...] = ()
    ops: tuple[int, ...] = ()
    # "subscribe", "rebalanced" (the key changed hands), "reassigned" (the producer's process chose keys since)
    traits: frozenset[str] = frozenset()


def allowed(finding: Finding, config: Config, *, strict: bool) -> bool:
    """Whether the client's settings leave this open, after the matrix of `reliability.md` 2.5."""
    name = finding.anomaly
    if name not in (STRICT if strict else JEPSEN):
        return True
    sure = config.acks == "all"
    match name:
        case "int-send-skip" | "G0" | "G1c-ww":
            return True
        case "inconsistent-offsets" | "ack-rebind" | "lost-write" | "unseen" | "missed-tail" | "zombie-ack":
            return not sure
        case "stale-end":
            # The end that readers are told is the watermark, and acks=1 does not wait for that.
            return not sure
        case "duplicate":
            return not config.idempotent
        case "nonmonotonic-send" | "int-nonmonotonic-send" | "realtime-order":
            return not (sure and config.idempotent) or (not strict and "reassigned" in finding.traits)
        case "poll-skip" | "nonmonotonic-poll":
            return "rebalanced" in finding.traits or (not strict and "subscribe" in finding.traits)
        case "int-poll-skip" | "int-nonmonotonic-poll":
            return "rebalanced" in finding.traits
        case "G1c" | "precommitted-read":
            return not config.transactions
    return False


class Findings:
    """All that was found: every one counted, the first of each class and key kept."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.found: Counter[str] = Counter()
        self.strict: Counter[str] = Counter()
        self.jepsen: Counter[str] = Counter()
        self.kept: list[Finding] = []
        self._room: Counter[tuple[str, str]] = Counter()

    def add(self, finding: Finding) -> None:
        name = finding.anomaly
        self.found[name] += 1
        if not allowed(finding, self.config, strict=True):
            self.strict[name] += 1
        if not allowed(finding, self.config, strict=False):
            self.jepsen[name] += 1
        if self._room[name, finding.key] < KEPT:
            self._room[name, finding.key] += 1
            self.kept.append(finding)

    def extend(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.add(finding)

    def roots(self) -> list[str]:
        """The classes that are not all explained by another one at the same offsets or values."""
        touched: dict[tuple[str, str], tuple[set[int], set[Any]]] = defaultdict(lambda: (set(), set()))
        for finding in self.kept:
            offsets, values = touched[finding.anomaly, finding.key]
            offsets.update(finding.offsets)
            values.update(finding.values)

        def explained(finding: Finding) -> bool:
            for cause, effects in CONSEQUENCES.items():
                if finding.anomaly in effects and (cause, finding.key) in touched:
                    offsets, values = touched[cause, finding.key]
                    if not offsets.isdisjoint(finding.offsets) or not values.isdisjoint(finding.values):
                        return True
            return False

        return sorted({finding.anomaly for finding in self.kept if not explained(finding)})
