"""A sequential log and the history of clients that saw it as it was; what one injection then spoils."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.checker.history import Op

Records = list[list[Any]]
GROUP = "g"
# Processes: producers 0 and 1, two readers that assign, two members of a group, and the final reader.
READERS, MEMBERS, FINAL = (10, 11), (20, 21), 30
AFTER = 1000.0  # when the readers begin: every send has been answered


@dataclass
class Model:
    """One key. ``log`` is what stands at each offset (None: nothing), ``reads`` what each process got, poll by poll."""

    key: str
    log: list[Any]
    sends: list[Op]
    batch: int
    reads: dict[int, list[Records]] = field(default_factory=dict)
    commits: list[Op] = field(default_factory=list)
    more: list[Op] = field(default_factory=list)
    end: int = 0
    handover: int = 0
    vanished: int = 0  # records that stood at the end of the log once

    def polled(self) -> None:
        """Fills in the reads, after the log has got what an injection put there."""
        self.end = len(self.log)
        records = [[offset, value] for offset, value in enumerate(self.log) if value is not None]
        for proc in (*READERS, FINAL):
            self.reads[proc] = self.parts(records)
        half = len(records) // 2
        self.handover = records[half][0]
        self.reads[MEMBERS[0]] = self.parts(records[:half])
        self.reads[MEMBERS[1]] = self.parts(records[half:])
        self.commits = [
            self.commit(MEMBERS[0], 1, self.handover, AFTER + 500),
            self.commit(MEMBERS[1], 2, self.end, AFTER + 900),
        ]

    def parts(self, records: Records) -> list[Records]:
        return [[list(one) for one in records[at : at + self.batch]] for at in range(0, len(records), self.batch)]

    def commit(self, member: int, generation: int, position: int, t: float) -> Op:
        op = Op("commit", "ok", member, t, t + 1, {self.key: position}, group=GROUP, gen=generation)
        op.member = f"m{member}"
        return op

    def ops(self) -> list[Op]:
        made = [*self.sends, *self.commits, *self.more]
        begins = {READERS[0]: 0.0, READERS[1]: 0.0, MEMBERS[0]: 100.0, MEMBERS[1]: 600.0, FINAL: 2000.0}
        for proc, polls in self.reads.items():
            t = AFTER + begins[proc]
            member = proc in MEMBERS
            made.append(Op("subscribe" if member else "assign", "ok", proc, t, t, [self.key]))
            for number, records in enumerate(polls):
                t += 1
                op = Op("poll", "ok", proc, t, t + 0.5, [["poll", {self.key: records}]], group=GROUP if member else "")
                op.reb = [self.key] if member and number == 0 else []
                made.append(op)
        made.append(Op("final", "ok", FINAL, AFTER + 2000, AFTER + 2900, {self.key: [0, self.end]}))
        top = (
            max((number for number, value in enumerate(self.log) if value is not None), default=-1) + 1 + self.vanished
        )
        made.append(Op("list_end", "ok", FINAL, AFTER - 2, AFTER - 1, {self.key: top}))
        made.append(Op("list_end", "ok", FINAL, AFTER + 1990, AFTER + 1991, {self.key: top}))
        last = self.commits[-1].value[self.key]
        made.append(Op("committed", "ok", FINAL, AFTER + 1992, AFTER + 1993, {self.key: last}, group=GROUP))
        batches = [[offset, offset, f"crc{value}"] for offset, value in enumerate(self.log)]
        for node in (1, 2, 3):
            raw = {"key": self.key, "replica": node, "start": 0, "hw": self.end, "batches": list(batches)}
            made.append(Op("replica", "ok", FINAL, AFTER + 3000, AFTER + 3001, raw))
        return made


def build(key: str, producers: list[int], batch: int) -> Model:
    """A log of one record for each entry of ``producers``, sent one after the other, halfway under the next epoch."""
    log = [f"{key}{number}" for number in range(len(producers))]
    sends = [
        Op(
            "send",
            "ok",
            producer,
            float(number),
            number + 0.5,
            [["send", key, [number, log[number]]]],
            epoch={key: 1 + (2 * number >= len(log))},
            leader={key: 1 + (2 * number >= len(log))},
        )
        for number, producer in enumerate(producers)
    ]
    return Model(key, list(log), sends, batch)
