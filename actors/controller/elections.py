"""Who leads a partition, who is in its ISR, who else could lead: every change of a partition goes through here. Pure.

KIP-966 in short: while the ISR is smaller than ``min.insync.replicas`` the watermark stands still, so whoever leaves
such an ISR still has everything that was ever acknowledged. These are the eligible leader replicas; the ISR may
become empty, and then the first of them that lives leads. A replica whose log is not what it was (its disk failed, its
host lost power before a sync) is none. The last known leader is asked when nobody is left, and only if it lives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from ..metadata import MetadataImage, PartitionChanged

NOBODY = -1

Kind = Literal["kept", "clean", "eligible", "unclean", "nobody"]


class Rules(NamedTuple):
    """What a topic's configuration says of elections."""

    min_isr: int
    unclean: bool


def rules_of(image: MetadataImage, topic_id: str) -> Rules:
    """The rules of this topic, which exists."""
    name = image.topics[topic_id].name
    return Rules(image.min_isr(name), image.unclean_election(name))


class RulesByTopic:
    """The same for many partitions in a row: each topic is looked up once."""

    def __init__(self, image: MetadataImage) -> None:
        self._image = image
        self._found: dict[str, Rules] = {}

    def of(self, state: PartitionChanged) -> Rules:
        """The rules of this partition."""
        rules = self._found.get(state.topic_id)
        if rules is None:
            rules = self._found[state.topic_id] = rules_of(self._image, state.topic_id)
        return rules


class Assignment(NamedTuple):
    """A partition's replicas; those ``removing`` are among them until all others are in the ISR."""

    replicas: list[int]
    adding: list[int]
    removing: list[int]


def change(
    image: MetadataImage,
    state: PartitionChanged,
    rules: Rules,
    *,
    isr: Collection[int] | None = None,
    assignment: Assignment | None = None,
    barred: Collection[int] = (),
    lost: Collection[int] = (),
    emptied: Collection[int] = (),
    preferred: bool = False,
    unclean: bool = False,
    recovered: bool = False,
) -> PartitionChanged | None:
    """The partition after this change of its ISR or assignment, with the leader it then has; None if nothing changes.

    ``barred`` may not be elected whatever the image says. Those ``lost`` do not have all that they had, and of them
    those ``emptied`` have nothing at all. ``preferred`` moves the leadership to the first replica that may lead,
    ``unclean`` allows an unclean election whatever the rules say.
    """
    replicas, adding, removing = assignment or Assignment(state.replicas, state.adding, state.removing)
    members = state.isr if isr is None else isr
    replicas, adding, removing = _completed(Assignment(replicas, adding, removing), members)
    in_sync = [node for node in replicas if node in members]
    staying = [node for node in in_sync if node not in image.shutting_down]
    if any(node not in barred and image.eligible(node) for node in staying):
        # Whoever shuts down is waited for only as long as there is nobody else.
        in_sync = staying
    elr, last_known = _eligible(state, replicas, in_sync, lost, emptied)
    leader, kind = _elect(
        image, state.leader, replicas, in_sync, elr, last_known, barred, preferred, unclean or rules.unclean
    )
    recovering = state.recovering and not recovered
    if kind == "eligible":
        in_sync, elr = [leader], [node for node in elr if node != leader]
    elif kind == "unclean":
        in_sync, elr, last_known, recovering = [leader], [], [], True
    replicas, adding, removing = _completed(Assignment(replicas, adding, removing), in_sync)
    if _full(in_sync, replicas, rules):
        elr, last_known = [], []
    if not in_sync and state.leader != NOBODY and state.leader in replicas and state.leader not in emptied:
        last_known = [state.leader]
    changed = leader != state.leader or any(node not in replicas for node in state.replicas)
    after = PartitionChanged(
        topic_id=state.topic_id,
        partition=state.partition,
        replicas=replicas,
        isr=in_sync,
        leader=leader,
        leader_epoch=state.leader_epoch + changed,
        partition_epoch=state.partition_epoch,
        elr=elr,
        last_known=last_known,
        recovering=recovering,
        adding=adding,
        removing=removing,
    )
    return None if after == state else bumped(after)


def bumped(
    state: PartitionChanged, *, new_leader_epoch: bool = False, elr: list[int] | None = None
) -> PartitionChanged:
    """The same in the next partition epoch; without last known leader where ``elr`` is given."""
    return PartitionChanged(
        topic_id=state.topic_id,
        partition=state.partition,
        replicas=state.replicas,
        isr=state.isr,
        leader=state.leader,
        leader_epoch=state.leader_epoch + new_leader_epoch,
        partition_epoch=state.partition_epoch + 1,
        elr=state.elr if elr is None else elr,
        last_known=state.last_known if elr is None else [],
        recovering=state.recovering,
        adding=state.adding,
        removing=state.removing,
    )


def _completed(assignment: Assignment, isr: Collection[int]) -> Assignment:
    """The assignment once all its targets are in this ISR: then whoever was to be removed is."""
    targets = [node for node in assignment.replicas if node not in assignment.removing]
    under_way = assignment.adding or assignment.removing
    return Assignment(targets, [], []) if under_way and all(node in isr for node in targets) else assignment


def _full(isr: Sequence[int], replicas: Sequence[int], rules: Rules) -> bool:
    """Whether the watermark may move with this ISR."""
    return len(isr) >= min(rules.min_isr, len(replicas))


def _eligible(
    state: PartitionChanged,
    replicas: Sequence[int],
    isr: Sequence[int],
    lost: Collection[int],
    emptied: Collection[int],
) -> tuple[list[int], list[int]]:
    """Who can lead besides the ISR, and who led last."""
    had = (*state.isr, *state.elr)
    elr = [node for node in replicas if node in had and node not in isr and node not in lost]
    return elr, [node for node in state.last_known if node in replicas and node not in emptied]


def _elect(
    image: MetadataImage,
    leader: int,
    replicas: Sequence[int],
    isr: Sequence[int],
    elr: Sequence[int],
    last_known: Sequence[int],
    barred: Collection[int],
    preferred: bool,
    unclean: bool,
) -> tuple[int, Kind]:
    def live(nodes: Iterable[int]) -> int:
        return next((node for node in nodes if node not in barred and image.eligible(node)), NOBODY)

    can = isr or elr
    if not preferred and leader in can and live((leader,)) != NOBODY:
        return leader, "kept" if isr else "eligible"
    found = live(node for node in replicas if node in can)
    if found != NOBODY:
        return found, "clean" if isr else "eligible"
    if leader in isr and leader not in barred and leader in image.brokers and leader not in image.fenced:
        # It is shutting down, but there is nobody to hand over to yet.
        return leader, "kept"
    if not can and (found := live(last_known)) != NOBODY:
        return found, "unclean"
    if unclean and (found := live(replicas)) != NOBODY:
        return found, "unclean"
    return NOBODY, "nobody"
