"""What a group index knows: the newest record of each key of one offsets partition, by group. Pure.

It holds the stored bytes and decodes them when somebody asks, with the same machine that a Coordinator runs: ten
thousand groups cost their bytes and no process. It never writes: what has to change is the business of the group's own
Coordinator (decision 0004).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..messages import GroupEntry
from .machine import GroupMachine
from .records import GroupKey, GroupRecord, OffsetKey, OffsetValue, decode_key, decode_value
from .step import Now, Settings


class GroupIndex:
    """``apply`` every record of the partition in order; the rest are questions."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.groups: dict[str, dict[bytes, bytes]] = {}
        self._heads: dict[str, bytes] = {}

    def apply(self, key: bytes, value: bytes | None) -> None:
        """One record of the log. Raises ``msgspec.DecodeError`` for one that no Coordinator of this version wrote."""
        decoded = decode_key(key)
        if value is not None:
            decode_value(value)
        group = decoded.group
        if type(decoded) is GroupKey:
            if value is None:
                self._heads.pop(group, None)
            else:
                self._heads[group] = value
        records = self.groups.get(group)
        if value is None:
            if records is not None:
                records.pop(key, None)
                if not records:
                    del self.groups[group]
        elif records is None:
            self.groups[group] = {key: value}
        else:
            records[key] = value

    def read(self, group: str) -> list[tuple[bytes, bytes]]:
        """The group's records, as stored; none if it does not exist."""
        return list(self.groups.get(group, {}).items())

    def machine(self, group: str) -> GroupMachine:
        """The group as its log has it, to be asked, not to be changed."""
        machine = GroupMachine(group, self.settings)
        for key, value in self.groups.get(group, {}).items():
            machine.replay(GroupRecord(decode_key(key), decode_value(value)))
        return machine

    def entries(self) -> list[GroupEntry]:
        """Every group in a line. Only those that have a record of their own cost more than that."""
        return [
            self.machine(group).entry() if group in self._heads else GroupEntry(group=group) for group in self.groups
        ]

    def topic_ids(self, group: str) -> set[str]:
        """The topics in which the group has positions."""
        found = set()
        for key, value in self.groups.get(group, {}).items():
            if type(decode_key(key)) is OffsetKey:
                position = decode_value(value)
                assert isinstance(position, OffsetValue)
                found.add(position.topic_id)
        return found

    def gone(self, group: str, existing: Collection[str] | Mapping[str, object]) -> list[str]:
        """The topics in which the group has positions, but which are not among the ``existing``."""
        return sorted(self.topic_ids(group).difference(existing))

    def due(self, group: str, existing: Collection[str] | Mapping[str, object], now: Now) -> bool:
        """Whether the group's Coordinator has something to do that no client will ask it for.

        That is retention, positions in deleted topics, and members: they may be dead, and only a Coordinator can tell.
        """
        machine = self.machine(group)
        return not machine.idle or bool(self.gone(group, existing)) or bool(machine.expire(now).records)
