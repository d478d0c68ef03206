"""Judges what the members of one consumer group saw. Imports nothing of the product.

The history is a list of events with times of one clock (``t`` when something was asked or happened, ``until`` when it
was answered); a partition is (topic, number). What is judged, and why it would be a fault of the broker:

* **group-skip**: a record below the final committed position that no member was ever given;
* **group-double-owner**: two members committed one partition in one generation, or a commit of a generation was
  accepted although one of a later generation had been accepted before it was asked;
* **commit-regress**: of two accepted commits of a partition, one after the other, the later has the lower position, or
  the position read at the end is below one that was accepted;
* **over-redelivery**: a member was given a record below a position that had been accepted before it was even assigned
  the partition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Partition = tuple[str, int]


class Delivery(NamedTuple):
    """A member was given this record."""

    member: str
    partition: Partition
    offset: int
    t: float


class Assignment(NamedTuple):
    """A member began to own the partition (before it asked from where to read)."""

    member: str
    partition: Partition
    t: float


class Commit(NamedTuple):
    """A member's commit; ``generation`` -1 where the client does not tell it."""

    member: str
    generation: int
    positions: Mapping[Partition, int]
    ok: bool
    t: float
    until: float


class Verdict(NamedTuple):
    """One anomaly, with what shows it."""

    anomaly: str
    partition: Partition
    evidence: str


def judge(
    produced: Mapping[Partition, Iterable[int]],
    deliveries: Iterable[Delivery],
    assignments: Iterable[Assignment],
    commits: Iterable[Commit],
    final: Mapping[Partition, int],
) -> list[Verdict]:
    """All anomalies; ``produced`` are the acknowledged offsets, ``final`` the positions read after the last commit."""
    accepted = sorted((commit for commit in commits if commit.ok), key=lambda commit: commit.until)
    deliveries = list(deliveries)
    return [
        *_skips(produced, deliveries, final),
        *_owners(accepted),
        *_regressions(accepted, final),
        *_redeliveries(deliveries, list(assignments), accepted),
    ]


def _skips(
    produced: Mapping[Partition, Iterable[int]], deliveries: list[Delivery], final: Mapping[Partition, int]
) -> Iterable[Verdict]:
    seen: dict[Partition, set[int]] = defaultdict(set)
    for delivery in deliveries:
        seen[delivery.partition].add(delivery.offset)
    for partition, offsets in produced.items():
        missed = sorted(
            offset for offset in offsets if offset < final.get(partition, 0) and offset not in seen[partition]
        )
        if missed:
            yield Verdict(
                "group-skip",
                partition,
                f"{len(missed)} records below the committed {final[partition]} were never given to anybody: "
                f"{missed[:10]}",
            )


def _owners(accepted: list[Commit]) -> Iterable[Verdict]:
    owners: dict[tuple[int, Partition], str] = {}
    newest: dict[Partition, Commit] = {}
    for commit in accepted:
        if commit.generation < 0:
            continue
        for partition in commit.positions:
            owner = owners.setdefault((commit.generation, partition), commit.member)
            if owner != commit.member:
                evidence = f"{owner} and {commit.member} both committed in generation {commit.generation}"
                yield Verdict("group-double-owner", partition, evidence)
            before = newest.get(partition)
            if before is not None and before.generation > commit.generation and before.until < commit.t:
                evidence = (
                    f"{commit.member} committed in generation {commit.generation} at {commit.t:.3f}, after "
                    f"{before.member} had in generation {before.generation} by {before.until:.3f}"
                )
                yield Verdict("group-double-owner", partition, evidence)
            if before is None or before.generation <= commit.generation:
                newest[partition] = commit


def _regressions(accepted: list[Commit], final: Mapping[Partition, int]) -> Iterable[Verdict]:
    highest: dict[Partition, list[tuple[float, int, str]]] = defaultdict(list)
    for commit in accepted:
        for partition, position in commit.positions.items():
            for until, before, member in highest[partition]:
                if until < commit.t and position < before:
                    evidence = f"{member} had committed {before}, then {commit.member} {position}"
                    yield Verdict("commit-regress", partition, evidence)
                    break
            kept = highest[partition]
            if not kept or position > kept[-1][1]:
                kept.append((commit.until, position, commit.member))
                # Only the highest position so far, and those still answered after it was asked, can matter.
                del kept[:-16]
    for partition, entries in highest.items():
        position = max(entry[1] for entry in entries)
        if final.get(partition, -1) < position:
            yield Verdict("commit-regress", partition, f"{position} was accepted, {final.get(partition)} is there")


def _redeliveries(
    deliveries: list[Delivery], assignments: list[Assignment], accepted: list[Commit]
) -> Iterable[Verdict]:
    began: dict[tuple[str, Partition], list[float]] = defaultdict(list)
    for assignment in sorted(assignments, key=lambda one: one.t):
        began[assignment.member, assignment.partition].append(assignment.t)
    floors: dict[Partition, list[tuple[float, int]]] = defaultdict(list)
    for commit in accepted:
        for partition, position in commit.positions.items():
            highest = floors[partition][-1][1] if floors[partition] else -1
            floors[partition].append((commit.until, max(highest, position)))
    for delivery in deliveries:
        starts = [t for t in began[delivery.member, delivery.partition] if t <= delivery.t]
        if not starts:
            continue
        floor = -1
        for until, position in floors[delivery.partition]:
            if until >= starts[-1]:
                break
            floor = position
        if delivery.offset < floor:
            evidence = (
                f"{delivery.member}, assigned at {starts[-1]:.3f}, was given {delivery.offset}, "
                f"although {floor} had been committed before"
            )
            yield Verdict("over-redelivery", delivery.partition, evidence)
