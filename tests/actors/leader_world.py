"""A leader's machine with followers, and what its tests say to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from logeion.actors.messages import (
    AlterPartition,
    Appended,
    FetchLog,
    LogFetched,
    PartitionAltered,
    Peer,
    Refused,
    Slice,
)
from logeion.actors.partition.effects import (
    Answer,
    Effect,
    Mail,
    ProposeIsr,
    Refuse,
    Tell,
    Write,
    Written,
)
from logeion.actors.partition.machine import Machine
from logeion.log.epochs import EpochCache

ALL, LEADER = -1, 1
LAG_S = 1.5
E = TypeVar("E")


def peer(node: int, *, eligible: bool = True, broker_epoch: int | None = None) -> Peer:
    return Peer(
        host="h", port=9000 + node, broker_epoch=node * 100 if broker_epoch is None else broker_epoch, eligible=eligible
    )


def part(isr: Sequence[int] = (1, 2, 3), **changes: Any) -> Slice:
    fields: dict[str, Any] = {
        "topic_id": "t",
        "partition": 0,
        "leader": 1,
        "leader_epoch": 7,
        "partition_epoch": 5,
        "replicas": [1, 2, 3],
        "isr": list(isr),
        "broker_epoch": 100,
        "peers": {2: peer(2), 3: peer(3)},
        "applied": 50,
    }
    return Slice(**(fields | changes))


def leader(isr: Sequence[int] = (1, 2, 3), **options: Any) -> Machine:
    settings: dict[str, Any] = {
        "node": 1,
        "epoch": 7,
        "epochs": EpochCache([(7, 0)]),
        "end": 0,
        "synced_end": 0,
        "high_watermark": 0,
        "durable": False,
        "slice": part(isr),
        "lag_time_max_s": LAG_S,
    }
    return Machine(**(settings | options))


def fetch(node: int, offset: int, **changes: Any) -> FetchLog:
    fields: dict[str, Any] = {
        "epoch": 7,
        "node": node,
        "broker_epoch": node * 100,
        "incarnation": 1,
        "directory_id": f"dir{node}",
        "offset": offset,
        "last_epoch": 7 if offset else -1,
        "durable_end": offset,
        "log_start": 0,
        "high_watermark": 0,
        "max_bytes": 1_000_000,
        "wait_ms": 30_000,
        "partition_epoch": 5,
    }
    return FetchLog(**(fields | changes))


def mail(ticket: str, acks: int = ALL, deadline: float = 60.0) -> Mail:
    return Mail(ticket, 7, acks, deadline, None)


def append(machine: Machine, now: float, *items: Mail) -> list[Effect]:
    """Batches of ten records each."""
    effects: list[Effect] = []
    for effect in machine.take(items):
        if isinstance(effect, Write):
            end = machine.end
            results = [Written(end + 10 * n, end + 10 * n + 9) for n in range(len(effect.batches))]
            effects += machine.written(effect.batches, results, end + 10 * len(effect.batches), now)
        else:
            effects.append(effect)
    return effects


def follow(machine: Machine, *nodes: int, now: float = 0.0) -> None:
    """These have fetched up to the leader's end, durably, and are parked there."""
    for node in nodes:
        machine.fetched(f"lane{node}", fetch(node, machine.end), now)


def persist(machine: Machine, node: int, end: int, now: float = 0.0, **changes: Any) -> list[Effect]:
    """The follower fetches at ``end``, and has it all on disk."""
    return machine.fetched(f"lane{node}", fetch(node, end, **changes), now)


def wait(machine: Machine, until: float) -> list[Effect]:
    """Time passes: the machine is called whenever it asked for it."""
    effects: list[Effect] = []
    while machine.deadline is not None and machine.deadline <= until:
        effects += machine.tick(machine.deadline)
    return effects


def only(effects: Sequence[Effect], kind: Callable[..., E]) -> list[E]:
    return [effect for effect in effects if type(effect) is kind]  # type: ignore[misc]


def answers(effects: Sequence[Effect]) -> dict[object, int]:
    found: dict[object, int] = {effect.mail.ticket: -effect.message.code for effect in only(effects, Refuse)}
    for effect in only(effects, Answer):
        assert isinstance(effect.message, Appended | Refused)
        found[effect.ticket] = (
            effect.message.base_offset if isinstance(effect.message, Appended) else -effect.message.code
        )
    return found


def proposal(effects: Sequence[Effect]) -> AlterPartition:
    (found,) = only(effects, ProposeIsr)
    return found.message


def told(effects: Sequence[Effect]) -> LogFetched:
    (found,) = only(effects, Tell)
    assert isinstance(found.message, LogFetched)
    return found.message


def altered(
    isr: Sequence[int], partition_epoch: int = 6, leader_epoch: int = 7, leader: int = 1, min_insync: int = 1
) -> PartitionAltered:
    return PartitionAltered(
        leader=leader,
        leader_epoch=leader_epoch,
        partition_epoch=partition_epoch,
        isr=list(isr),
        min_insync=min_insync,
    )
