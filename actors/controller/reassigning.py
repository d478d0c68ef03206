"""Reassignments (KIP-455, KIP-860) and elections on request (KIP-183, KIP-460), partition by partition. Pure.

A reassignment adds the new replicas first and takes the old ones away once all targets are in the ISR, so that there
are never fewer in-sync replicas than before. Each function returns the partition's new state, None if it is just what
it should be, or raises what Kafka answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from logeion.wire.errors import (
    ElectionNotNeededError,
    EligibleLeadersNotAvailableError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    NoReassignmentInProgressError,
    PreferredLeaderNotAvailableError,
    UnknownTopicOrPartitionError,
)

from ..messages import PartitionToReassign
from ..metadata import MetadataImage, PartitionChanged
from . import elections
from .elections import Assignment, Rules, RulesByTopic


def partition(image: MetadataImage, topic: str, number: int) -> PartitionChanged:
    """The partition of this name; raises ``UnknownTopicOrPartitionError``."""
    known = image.topic(topic)
    state = known.partitions.get(number) if known is not None else None
    if state is None:
        raise UnknownTopicOrPartitionError(f"there is no partition {topic}-{number}")
    return state


def reassign(
    image: MetadataImage, wanted: PartitionToReassign, *, allow_factor_change: bool = True
) -> PartitionChanged | None:
    """The partition on its way to other replicas, or back if there are none wanted."""
    state = partition(image, wanted.topic, wanted.partition)
    where = f"{wanted.topic}-{wanted.partition}"
    rules = elections.rules_of(image, state.topic_id)
    if wanted.replicas is None:
        return _cancel(image, state, rules, where)
    targets = list(wanted.replicas)
    before = [node for node in state.replicas if node not in state.adding]
    _check_targets(image, targets, where)
    if not allow_factor_change and len(targets) != len(before):
        raise InvalidReplicationFactorError(f"{where} has {len(before)} replicas; {len(targets)} would be a change")
    adding = [node for node in targets if node not in before]
    removing = [node for node in before if node not in targets]
    return _moved(image, state, rules, Assignment(targets + removing, adding, removing), where)


def _cancel(image: MetadataImage, state: PartitionChanged, rules: Rules, where: str) -> PartitionChanged | None:
    if not state.adding and not state.removing:
        raise NoReassignmentInProgressError(f"no reassignment of {where} is under way")
    replicas = [node for node in state.replicas if node not in state.adding]
    return _moved(image, state, rules, Assignment(replicas, [], []), where)


def _moved(
    image: MetadataImage, state: PartitionChanged, rules: Rules, assignment: Assignment, where: str
) -> PartitionChanged | None:
    """With this assignment; never at the price of the last replica that can lead."""
    can = state.isr or state.elr
    if can and not any(node in assignment.replicas for node in can) and not rules.unclean:
        raise InvalidReplicaAssignmentError(
            f"{where}: only {can} are in sync, and none of them would stay: that takes an unclean election"
        )
    return elections.change(image, state, rules, assignment=assignment)


def _check_targets(image: MetadataImage, targets: Sequence[int], where: str) -> None:
    if not targets:
        raise InvalidReplicaAssignmentError(f"{where} would be on no broker")
    if len(set(targets)) < len(targets):
        raise InvalidReplicaAssignmentError(f"{where} would be twice on one broker: {list(targets)}")
    unknown = [node for node in targets if node not in image.brokers]
    if unknown:
        raise InvalidReplicaAssignmentError(f"{where}: there is no broker {unknown[0]}")


def elect(image: MetadataImage, state: PartitionChanged, *, unclean: bool) -> PartitionChanged:
    """The partition led by its preferred replica, or by any at all if nobody leads it."""
    rules = elections.rules_of(image, state.topic_id)
    if not unclean:
        preferred = state.replicas[0]
        if state.leader == preferred:
            raise ElectionNotNeededError(f"its preferred replica {preferred} leads it")
        if preferred not in state.isr or not image.eligible(preferred):
            raise PreferredLeaderNotAvailableError(f"its preferred replica {preferred} is not in sync, or not there")
        after = elections.change(image, state, rules, preferred=True)
        assert after is not None and after.leader == preferred, "an in-sync replica that lives can lead"
        return after
    if state.leader != elections.NOBODY:
        raise ElectionNotNeededError(f"{state.leader} leads it")
    # A last known leader that lives and yet does not lead has lost its log: any other is better.
    broken = [node for node in state.last_known if image.eligible(node)]
    after = elections.change(image, state, rules, barred=broken, unclean=True)
    if after is None or after.leader == elections.NOBODY:
        after = elections.change(image, state, rules, unclean=True)
    if after is None or after.leader == elections.NOBODY:
        raise EligibleLeadersNotAvailableError(f"none of its replicas {state.replicas} is there")
    return after


def imbalanced(image: MetadataImage) -> Iterator[PartitionChanged]:
    """The partitions whose preferred replica could lead and does not, led by it."""
    rules = RulesByTopic(image)
    for state in image.partitions():
        preferred = state.replicas[0]
        if state.leader != preferred and preferred in state.isr and image.eligible(preferred):
            after = elections.change(image, state, rules.of(state), preferred=True)
            if after is not None:
                yield after
