"""In which epoch, and by whom, a send was answered that does not say it: from the raw logs and the metadata log."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from tests.checker.history import EPOCHS, REPLICAS, Send, Value


def told(
    sends: list[Send], log: Mapping[int, Value], place: Mapping[Value, int], events: tuple[list[Any], ...]
) -> list[Send]:
    """The sends, each acknowledged one with its epoch and leader where they are known.

    ``log`` and ``place`` are what was read. A value that was read stands in the batch at its offset; one that was not
    may have stood in a replica's log once, in the batch of a leader that was none any more; and one that nobody read,
    at whose offset nothing else was read either, still stands there.
    """
    starts, batches = _batches(events[REPLICAS])
    leaders: dict[int, int | str] = {}
    gone: dict[Value, list[tuple[int, int, int | str | None]]] = {}
    for entry in events[EPOCHS]:
        leaders.update((epoch, node) for epoch, node in entry[5])
        for offset, value, epoch, node in entry[6]:
            gone.setdefault(value, []).append((offset, epoch, node))

    def answered(offset: int | None, value: Value) -> tuple[int, int | str | None] | None:
        at = place.get(value)
        if at is None and value in gone:
            # The newest that stood where the acknowledgement says is the one that can have been acknowledged.
            held = [one for one in gone[value] if offset is None or one[0] == offset] or gone[value]
            _, epoch, node = max(held, key=lambda one: one[1])
            return epoch, leaders.get(epoch) if node is None else node
        if at is None and offset is not None and offset not in log:
            at = offset
        number = -1 if at is None else bisect_right(starts, at) - 1
        if number < 0 or at is None or at > batches[number][0]:
            return None
        epoch = batches[number][1]
        return epoch, leaders.get(epoch)

    joined: list[Send] = []
    for send in sends:
        if send[5] == "ok" and send[7] is None:
            for offset, value in send[6]:
                if found := answered(offset, value):
                    joined.append((*send[:7], *found))
                    break
            else:
                joined.append(send)
        else:
            joined.append(send)
    return joined


def _batches(raw: list[Any]) -> tuple[list[int], list[tuple[int, int]]]:
    """Where each batch of the replicas' logs begins, and its last offset and epoch, in order."""
    found: dict[int, tuple[int, int]] = {}
    for entry in raw:
        for base, last, _, *epoch in entry[8]:
            if epoch:
                found.setdefault(base, (last, epoch[0]))
    starts = sorted(found)
    return starts, [found[start] for start in starts]
