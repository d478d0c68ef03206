"""Server-side assignment (KIP-848): ``range`` and ``uniform``, both sticky, both deterministic. Pure.

Input: what each member subscribes to, the partitions of each topic, what each member had before. Output: a target of
(topic id, partition) by member. Every partition of a topic somebody subscribes to gets exactly one owner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Partitions = set[tuple[str, int]]
Assignor = Callable[[Mapping[str, set[str]], Mapping[str, int], Mapping[str, Partitions]], dict[str, Partitions]]


def uniform(
    subscriptions: Mapping[str, set[str]], topics: Mapping[str, int], previous: Mapping[str, Partitions]
) -> dict[str, Partitions]:
    """As even over all topics as the subscriptions allow, moving as little as evenness allows."""
    target: dict[str, Partitions] = {member: set() for member in subscriptions}
    free: list[tuple[str, int]] = []
    owners: dict[tuple[str, int], str] = {}
    for member in sorted(previous):
        for partition in previous[member]:
            owners.setdefault(partition, member)
    for topic in sorted(topics):
        for number in range(topics[topic]):
            owner = owners.get((topic, number))
            if owner is not None and topic in subscriptions.get(owner, ()):
                target[owner].add((topic, number))
            else:
                free.append((topic, number))
    subscribers = {topic: sorted(m for m, wanted in subscriptions.items() if topic in wanted) for topic in topics}
    for topic, number in free:
        if subscribers[topic]:
            least = min(subscribers[topic], key=lambda m: (len(target[m]), m))
            target[least].add((topic, number))
    _level(target, subscribers)
    return target


def _level(target: dict[str, Partitions], subscribers: Mapping[str, list[str]]) -> None:
    """Move single partitions from the fullest to the emptiest member that may have them, while that levels."""
    moving = True
    while moving:
        moving = False
        for giver in sorted(target, key=lambda m: (-len(target[m]), m)):
            for topic in sorted({t for t, _ in target[giver]}):
                taker = min(subscribers[topic], key=lambda m: (len(target[m]), m))
                if len(target[giver]) - len(target[taker]) > 1:
                    partition = max(p for p in target[giver] if p[0] == topic)
                    target[giver].remove(partition)
                    target[taker].add(partition)
                    moving = True
                    break
            if moving:
                break


def range_(
    subscriptions: Mapping[str, set[str]], topics: Mapping[str, int], previous: Mapping[str, Partitions]
) -> dict[str, Partitions]:
    """Consecutive partitions of each topic to its subscribers, so that equal topics are split alike.

    Members keep their place in the order as long as they stay: an old member sorts by the partitions it had.
    """
    target: dict[str, Partitions] = {member: set() for member in subscriptions}

    def place(member: str) -> tuple[int, int, str]:
        had = [number for _, number in previous.get(member, ())]
        return (0, min(had), member) if had else (1, 0, member)

    for topic in sorted(topics):
        members = sorted((m for m, wanted in subscriptions.items() if topic in wanted), key=place)
        if not members:
            continue
        share, more = divmod(topics[topic], len(members))
        at = 0
        for index, member in enumerate(members):
            count = share + (index < more)
            target[member].update((topic, number) for number in range(at, at + count))
            at += count
    return target


ASSIGNORS: dict[str, Assignor] = {"uniform": uniform, "range": range_}
DEFAULT = "uniform"
