"""The actors of this host as people see them: what the Supervisor lists, what they report, what should run. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from logeion.console.view import ActorRow

from ..messages import ActorEntry
from .companions import Companion
from .local import FOLLOWER, LEADER, Local, Process
from .machine import NodeMachine

# What a process is shown as while it only exists.
_SHOWN = {"asked": "starting"}


def actor_rows(machine: NodeMachine, states: Mapping[str, str], pids: Mapping[str, int]) -> list[ActorRow]:
    """One row an actor, the supervisor first; ``states`` and ``pids`` are what the fixed actors said last."""
    rows = [_fixed(machine, entry, states, pids) for entry in machine.fixed.values()]
    for local in sorted(machine.locals.values(), key=lambda one: (one.topic, one.partition)):
        if local.wanted and (machine.due(local) or local.actor in machine.processes):
            rows.append(_partition(machine, local))
    known = {row.id for row in rows}
    for process in machine.processes.values():
        if process.actor not in known:
            rows.append(_leaving(machine, process))
    rows += (_companion(machine, one) for one in sorted(machine.companions.all.values(), key=lambda one: one.actor))
    return rows


def _fixed(machine: NodeMachine, entry: ActorEntry, states: Mapping[str, str], pids: Mapping[str, int]) -> ActorRow:
    state = "running" if entry.kind in ("supervisor", "node") else states.get(entry.actor, "starting")
    return ActorRow(
        kind=entry.kind,
        id=entry.actor,
        node=machine.node,
        pid=pids.get(entry.actor, entry.pid),
        topic=None,
        partition=None,
        epoch=None,
        state=state,
        restarts=entry.restarts,
        cause="the controller has not let this node in" if entry.kind == "node" and machine.fenced else "",
    )


def _partition(machine: NodeMachine, local: Local) -> ActorRow:
    process = machine.processes.get(local.actor)
    mine = process if process is not None and process.topic_id in (local.topic_id, None) else None
    image = machine.image.partition(*local.key)
    cause = local.cause
    if not cause and local.role == FOLLOWER and image is not None and machine.node not in image.isr:
        cause = "not in sync"
    if mine is not None:
        state = _SHOWN.get(mine.state, mine.state)
    else:
        state = "failed" if local.offline else "starting"
    return ActorRow(
        kind=local.role or LEADER,
        id=local.actor,
        node=machine.node,
        pid=(mine.pid or None) if mine is not None else None,
        topic=local.topic,
        partition=local.partition,
        epoch=mine.epoch if mine is not None and mine.epoch is not None else image.leader_epoch if image else None,
        state=state,
        restarts=max(local.restarts, mine.restarts if mine is not None else 0),
        cause=cause,
    )


def _companion(machine: NodeMachine, one: Companion) -> ActorRow:
    """A Coordinator (its id ends in its group) or a group index."""
    process = one.process
    if process is not None:
        state = _SHOWN.get(process.state, process.state)
    else:
        state = "failed" if one.offline else "starting"
    topic_id, partition = one.key or (None, None)
    topic = machine.image.topic_by_id(topic_id) if topic_id is not None else None
    return ActorRow(
        kind="coordinator",
        id=one.actor,
        node=machine.node,
        pid=(process.pid or None) if process is not None else None,
        topic=topic.name if topic is not None else None,
        partition=partition,
        epoch=process.epoch if process is not None else None,
        state=state,
        restarts=max(one.restarts, process.restarts if process is not None else 0),
        cause=one.cause,
    )


def _leaving(machine: NodeMachine, process: Process) -> ActorRow:
    """A process whose partition is deleted or led elsewhere by now."""
    topic, _, partition = process.actor.partition("/")[2].rpartition("-")
    return ActorRow(
        kind=process.kind,
        id=process.actor,
        node=machine.node,
        pid=process.pid or None,
        topic=topic,
        partition=int(partition),
        epoch=process.epoch,
        state=_SHOWN.get(process.state, process.state),
        restarts=process.restarts,
    )
